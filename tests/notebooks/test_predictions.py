"""What notebooks ask and answer: a prediction has its answers folded, and so has the reading of a figure."""

import re
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest

from pwl_lab.support import paths

ALL = sorted([*paths.notebooks().glob("*.ipynb"), *(paths.notebooks() / "exercises").glob("*.ipynb")])
SERIES = [path for path in ALL if re.match(r"\d\d\w?_", path.stem)]
QUESTION = "**Predict.**"
FOLD = re.compile(
    r"^<details><summary>(?P<summary>.+?)</summary>\n\n(?P<text>.*?)\n\n</details>$", re.MULTILINE | re.DOTALL
)
READING = re.compile(r"<b>Read the \w+( and the \w+)?</b>")
FIGURE = re.compile(r"^(plots\.|widgets\.|figure$)")
# Up to here text under a figure is about that figure; after it comes its folded reading, the next section, a question.
ABOUT_THE_FIGURE = re.compile(r"^(<details>|#+ |" + re.escape(QUESTION) + ")", re.MULTILINE)
TRANSITION = 300  # characters: what is longer than two sentences reads the figure, and is to be folded
# Longer ones that read no figure: they define what is drawn, or say how the next control is used.
NO_READINGS = ("Where the owner changes, a *converter* translates", "Press *Play*", "Now load it yourself",
               "Choose one of them by its number")  # fmt: skip

each_notebook = pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)


def cells_of(path: Path) -> list[tuple[str, str]]:
    """The type and the text of each cell."""
    return [(cell.cell_type, cell.source) for cell in nbformat.read(path, as_version=4).cells]


def prose_of(path: Path) -> list[str]:
    return [source for kind, source in cells_of(path) if kind == "markdown"]


def mistakes_in_questions(source: str) -> list[str]:
    """What is wrong with the predictions of a markdown cell."""
    wrong = []
    for question in source.split(QUESTION)[1:]:
        asked = question.split("<details>")[0].strip()
        folds = [fold for fold in FOLD.finditer(question) if not READING.search(fold["summary"])]
        names = [fold["summary"] for fold in folds]
        if not asked.count("?"):
            wrong.append(f"no question: {asked[:60]}")
        if names != ["Answer"] and not 2 <= len(names) <= 4:
            wrong.append(f"two to four choices or one Answer, not {names}: {asked[:60]}")
        if len(set(names)) < len(names):
            wrong.append(f"a choice stands there twice: {names}")
        wrong += [f"no answer to the choice {fold['summary']}" for fold in folds if not re.search(r"\w", fold["text"])]
    return wrong


def mistakes_in_folds(source: str) -> list[str]:
    """Folds of another form than Markdown renders everywhere (blank lines around the text), or that hide a heading."""
    texts = [fold["text"] for fold in FOLD.finditer(source)]
    wrong = [f"a heading is folded: {text[:60]}" for text in texts if re.search(r"^#+ ", text, re.MULTILINE)]
    if not len(texts) == source.count("<details>") == source.count("</details>"):
        wrong.append("a fold is not closed, or lacks a blank line before or after its text")
    # HTML as it stands: <em> and <code> are rendered there, * and ` are not
    wrong += [
        f"Markdown in a summary: {name}"
        for name in re.findall(r"<summary>(.*?)</summary>", source)
        if {*"*`"} & {*name}
    ]
    return wrong + [f"a fold in a fold: {text[:60]}" for text in texts if "<details>" in text]


@each_notebook
def test_a_prediction_has_its_answers_folded_beside_it(path: Path) -> None:
    assert [mistake for source in prose_of(path) for mistake in mistakes_in_questions(source)] == []


@each_notebook
def test_folds_are_closed_and_hide_no_heading(path: Path) -> None:
    assert [mistake for source in prose_of(path) for mistake in mistakes_in_folds(source)] == []


@each_notebook
def test_nothing_is_left_of_the_form_without_folds(path: Path) -> None:
    old = re.compile(r"\*\*(Predict:|Predict\*\*|Read\.|Read:|Read\*\*)")
    assert [source[:60] for source in prose_of(path) if old.search(source)] == []


@each_notebook
def test_what_a_figure_shows_is_folded(path: Path) -> None:
    cells = cells_of(path)
    under = [
        source
        for (kind, code), (next_kind, source) in pairwise(cells)
        if kind == "code" and next_kind == "markdown" and FIGURE.match(code.rstrip().splitlines()[-1])
    ]
    visible = [ABOUT_THE_FIGURE.split(source, maxsplit=1)[0] for source in under]
    assert [text for text in visible if len(text) > TRANSITION and not text.startswith(NO_READINGS)] == []


@pytest.mark.parametrize("path", SERIES, ids=lambda path: path.stem)
def test_every_notebook_asks_and_reads(path: Path) -> None:
    """A form that a cell no longer has would pass all tests above."""
    prose = "\n".join(prose_of(path))
    assert READING.search(prose)
    assert QUESTION in prose or "is a tool, not a lesson" in prose


RIGHT = """**Predict.** Which?

<details><summary>This</summary>

No.

</details>
<details><summary>That</summary>

Yes.

</details>"""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("</details>\n<details><summary>That</summary>\n\nYes.\n\n</details>", "</details>"), "two to four choices"),
        (("That", "This"), "twice"),
        (("Yes.", ""), "no answer to the choice That"),
        (("Which?", "Look."), "no question"),
        (("No.\n\n", "No.\n"), "lacks a blank line"),
        (("Yes.\n\n</details>", "Yes."), "not closed"),
        (("No.", "## No"), "a heading is folded"),
        (("This</summary>", "*This*</summary>"), "Markdown in a summary"),
    ],
)
def test_each_mistake_is_found(change: tuple[str, str], says: str) -> None:
    assert mistakes_in_questions(RIGHT) + mistakes_in_folds(RIGHT) == []
    wrong = RIGHT.replace(*change)
    assert any(says in mistake for mistake in mistakes_in_questions(wrong) + mistakes_in_folds(wrong))
