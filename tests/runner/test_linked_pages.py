"""Pages that hang together: their links, their sections, what is folded in them, and what a series adds."""

import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from crawling import broken_links, read
from fontTools.ttLib import TTFont
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from pwl_lab.runner.execute import run_notebook
from pwl_lab.runner.index_page import thumbnail
from pwl_lab.runner.page import TEMPLATES, mathml, write_page
from pwl_lab.runner.run_folder import RunStatus, read_status, write_status
from pwl_lab.runner.series import run_series
from pwl_lab.runner.slides import collected
from pwl_lab.support import paths
from pwl_lab.support.errors import InvalidValueError

OK = RunStatus(status="ok", notebook="own.ipynb", started="", cells=3, versions={}, commit=None)
FOLDED = """**Predict.** Is it faster?

<details><summary>Yes, since $k$ is small</summary>

No: $x_i^2$ says `nothing`.

1. one
2. two

</details>
<details><summary>No</summary>

Right.

```python
x = 1
```

</details>

After both.
"""
LESSON = """# {0} · Lesson {0}

**Question.** What?

See [the other]({1}.ipynb), [its end]({1}.ipynb#The-end), [the exercises](exercises/{0}_exercises.ipynb),
[more](beside.ipynb), [a file](../notes.md), [here](#The-end) and [elsewhere](https://example.org/).

## First part

## The end
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project: two lessons that link to each other, exercises with solutions, a notebook beside the series."""
    root = tmp_path / "project"
    shutil.copytree(paths.presets(), root / "presets")
    folder = root / "notebooks"
    (folder / "exercises").mkdir(parents=True)
    monkeypatch.setenv("PWL_LAB_HOME", str(root))
    monkeypatch.setenv("PWL_LAB_RUNS", str(root / "runs"))
    (root / "notes.md").write_text("notes")
    parameters = new_code_cell('preset = "lesson"\nwidth = 3', metadata={"tags": ["parameters"]})
    for name, other in (("00_a", "01_b"), ("01_b", "00_a")):
        number = name[:2]
        cells = [new_markdown_cell(LESSON.format(number, other)), parameters, new_code_cell("print(width)")]
        nbformat.write(new_notebook(cells=cells), folder / f"{name}.ipynb")
        for kind in ("exercises", "solutions"):
            text = f"# Exercises {number}\n\nTo [the lesson](../{name}.ipynb#The-end)."
            cells = [new_markdown_cell(text), new_code_cell("1 / 0")]
            nbformat.write(new_notebook(cells=cells), folder / "exercises" / f"{number}_{kind}.ipynb")
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Beside")]), folder / "beside.ipynb")
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Alone")]), folder / "alone.ipynb")
    return root


def links_of(page: Path) -> list[str]:
    return read(page).links


@pytest.mark.parametrize("named", ["a href", "img src", "script src", "source src", "link href"])
def test_what_is_not_there_is_found(named: str, tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    addresses = ("there", "there?v=1", "data:,x", "https://example.org/x", "gone.svg")
    (tmp_path / "page.html").write_text("".join(f'<{named}="{one}"></{named.split()[0]}>' for one in addresses))
    assert broken_links(tmp_path) == ["page.html -> gone.svg"]


def test_every_link_of_a_series_leads_to_a_page(site: Path) -> None:
    assert [status.status for status in run_series("smoke", "all", jobs=1)] == ["ok", "ok"]
    run = site / "runs" / "all"
    assert broken_links(run) == []
    first = links_of(run / "00_a" / "notebook.html")
    for address in (
        "../01_b/notebook.html",
        "../01_b/notebook.html#The-end",
        "../exercises/00_exercises.html",
        "../index.html",
        "../beside.html",
        "#The-end",
        "https://example.org/",
    ):
        assert address in first
    assert first.count("../01_b/notebook.html") == 3, "in the text, and as the next page above and below it"
    assert not [address for address in first if address.endswith(".ipynb")]
    assert {"../00_a/notebook.html", "../index.html", "00_solutions.html"} <= set(
        links_of(run / "exercises" / "00_exercises.html")
    )
    assert {"00_a/notebook.html", "exercises/01_solutions.html"} <= set(links_of(run / "index.html"))
    assert not (run / "alone.html").exists(), "nobody links to it"
    shown = (run / "exercises" / "00_exercises.html").read_text()
    assert "nothing in it was run" in shown
    assert "ZeroDivisionError" not in shown


def test_links_follow_the_pages_that_are_there(site: Path) -> None:
    run = site / "runs" / "part"
    run_series("smoke", "part", only=["00"], jobs=1)
    assert broken_links(run) == []
    page = run / "00_a" / "notebook.html"
    assert "../../../notebooks/01_b.ipynb" in links_of(page), "the source, while there is no page"
    assert "../01_b/notebook.html" not in links_of(page)
    run_series("smoke", "part", only=["01"], jobs=1)
    assert broken_links(run) == []
    assert links_of(page).count("../01_b/notebook.html") == 3
    assert read_status(run / "00_a").files["notebook.html"].is_at(page), "it is still the run's own"
    run_series("smoke", "part", only=["00"], jobs=1)


def test_a_page_that_its_reader_changed_stays_as_it_is(site: Path) -> None:
    run_series("smoke", "mine", only=["00"], jobs=1)
    page = site / "runs" / "mine" / "00_a" / "notebook.html"
    page.write_text(page.read_text() + "<!-- mine -->")
    before = page.read_text()
    run_series("smoke", "mine", only=["01"], jobs=1)
    assert page.read_text() == before


def test_no_page_of_somebody_else_is_replaced(site: Path) -> None:
    own = site / "runs" / "mine" / "exercises" / "00_solutions.html"
    own.parent.mkdir(parents=True)
    own.write_text("my notes")
    with pytest.raises(InvalidValueError, match=r"exercises/00_solutions\.html that is not from a series run"):
        run_series("smoke", "mine", jobs=1)
    assert own.read_text() == "my notes"


def test_the_links_of_a_run_alone_resolve_wherever_it_goes(site: Path, tmp_path: Path) -> None:
    run_notebook("00", tmp_path / "far" / "away", preset="smoke")
    assert broken_links(tmp_path / "far") == []
    assert "../index.html" not in links_of(tmp_path / "far" / "away" / "notebook.html")


def test_a_page_shows_the_values_that_the_run_used(site: Path, tmp_path: Path) -> None:
    run_notebook("00", tmp_path / "out", preset="smoke", params={"width": 7})
    page = (tmp_path / "out" / "notebook.html").read_text()
    assert dict(re.findall(r"<dt>(\w+)</dt><dd>(\w+)</dd>", page)) == {"preset": "smoke", "width": "7"}
    assert page.count('<details class="code-fold">') == 2, "the parameters, and those given"


def page_with(cells: list, tmp_path: Path, status: RunStatus = OK) -> str:
    (tmp_path / "run").mkdir(exist_ok=True)
    assert write_page(new_notebook(cells=cells), tmp_path / "run" / "page.html", status, tmp_path) is None
    return (tmp_path / "run" / "page.html").read_text()


def test_what_is_folded_stays_in_its_fold(tmp_path: Path) -> None:
    page = page_with([new_markdown_cell(FOLDED)], tmp_path)
    start = page.index("<main>")
    first, second, after = (page.index(words, start) for words in ("Is it faster", "Right.", "After both"))
    folds = [found.start() for found in re.finditer("</?details", page) if found.start() > start]
    assert len(folds) == 4
    assert first < folds[0] < page.index("says <code>nothing") < page.index("<li>two") < folds[1]
    assert folds[2] < second < page.index('<span class="n">x</span>', start) < folds[3] < after
    assert re.search(r"<summary>Yes, since <math[^>]*>.*?</math> is small</summary>", page)
    assert page.count("<msubsup>") == 1


def test_an_image_in_html_is_put_into_the_page(tmp_path: Path) -> None:
    (tmp_path / "dot.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    page = page_with([new_markdown_cell('<p><img alt="a" src="dot.svg"> <img src="none.svg"></p>')], tmp_path)
    assert "data:image/svg+xml;base64," in page
    assert 'src="none.svg"' in page


def test_plumbing_is_folded_and_open_where_it_failed(tmp_path: Path) -> None:
    hidden = new_code_cell("import this_one", metadata={"tags": ["hide-input"]}, id="set-up")
    shown = new_code_cell("lesson = 1")
    page = page_with([hidden, shown], tmp_path)
    fold = page[page.index('<details class="code-fold">') :]
    assert "this_one" in fold[: fold.index("</details>")]
    assert "lesson" not in fold[: fold.index("</details>")]
    failed = OK.model_copy(update={"status": "failed", "cell": 0})
    assert '<details class="code-fold" open="">' in page_with([hidden, shown], tmp_path, failed)


def test_sections_are_listed_and_a_page_without_any_has_no_list(tmp_path: Path) -> None:
    page = page_with([new_markdown_cell("# T\n\n## One `x`\n\n### Not\n\n## Two $k$")], tmp_path)
    listed = re.findall(r'<li><a href="#([^"]*)">(.*?)</a></li>', page)
    assert len(listed) == 4
    assert [words.split()[0] for _, words in listed] == ["One", "Two", "One", "Two"]
    assert all(f'id="{place}"' in page for place, _ in listed)
    assert "<li>" not in page_with([new_markdown_cell("# T")], tmp_path)


def test_every_sign_of_every_formula_is_in_the_font() -> None:
    font = TTFont(TEMPLATES / "fonts" / "stix-two-math.woff")
    there = set(font.getBestCmap())
    assert "MATH" in font, "without it roots, sums and brackets do not grow"
    assert (TEMPLATES / "fonts" / "stix-two-math.woff").stat().st_size < 75_000, "100 kB in the page"
    italic = set(range(0x1D434, 0x1D468)) - {0x1D455}
    assert italic | {0x210E} <= there, "browsers write a single letter in them"
    formulas = 0
    for path in paths.notebooks().rglob("*.ipynb"):
        for cell in nbformat.read(path, 4).cells:
            for match in re.finditer(
                r"\$\$(.+?)\$\$|\$([^$\n]+)\$", cell.source if cell.cell_type == "markdown" else ""
            ):
                made = mathml(match[1] or match[2], "inline")
                assert made, f"{path.name}: {match[0]}"
                signs = {ord(sign) for sign in text_of(made)}
                assert signs - {0x2062} <= there, f"{path.name}: {match[0]}"
                formulas += 1
    assert formulas > 50


def text_of(made: str) -> str:
    from html import unescape

    return unescape(re.sub("<[^>]*>", "", made)).replace("\n", " ")


def test_slides_are_the_marked_cells_in_the_order_of_the_series(site: Path) -> None:
    run_series("smoke", "all", jobs=1)
    run = site / "runs" / "all"
    with pytest.raises(InvalidValueError, match="slide type"):
        collected(run)
    for stem, kinds in (("00_a", ["skip", "fragment", "notes"]), ("01_b", [None, "-", "slide"])):
        nb = nbformat.read(run / stem / "notebook.ipynb", 4)
        for cell, kind in zip(nb.cells, kinds, strict=False):
            cell.metadata["slideshow"] = {"slide_type": kind} if kind else {}
        nbformat.write(nb, run / stem / "notebook.ipynb")
    cells = collected(run).cells
    kinds = ["slide", "notes", "slide", "slide"]  # what begins in the middle of a notebook begins a slide
    assert [cell.metadata.slideshow.slide_type for cell in cells] == kinds
    assert [cell.id.partition("-")[0] for cell in cells] == ["00", "00", "01", "01"]


def test_a_slide_begins_at_a_heading_and_says_where_it_belongs(tmp_path: Path) -> None:
    def marked(source: str, kind: str) -> nbformat.NotebookNode:
        return new_markdown_cell(source, metadata={"slideshow": {"slide_type": kind}})

    cells = [
        marked("# 00 · A lesson\n\nA question.", "slide"),
        new_markdown_cell("## The $k$ bits\n\nNot marked."),
        marked("Which?", "slide"),
        marked("How it ended.\n\n## Next\n\nOf something else.", "-"),
        marked("What was before.\n\n## Then\n\nThis.", "subslide"),
        marked("Say this.\n\n## And this", "notes"),
    ]
    run = tmp_path / "run" / "00_start_here"
    run.mkdir(parents=True)
    nbformat.write(new_notebook(cells=cells), run / "notebook.ipynb")
    write_status(run, OK)
    found = [(cell.metadata.get("place"), cell.source) for cell in collected(tmp_path / "run").cells]
    assert found == [
        ("", "# 00 · A lesson\n\nA question."),
        ("00 · A lesson › The k bits", "Which?"),
        (None, "How it ended."),
        ("00 · A lesson", "## Then\n\nThis."),
        (None, "Say this.\n\n## And this"),
    ]


def test_a_thumbnail_is_of_the_chosen_cell_and_small(tmp_path: Path, write_notebook) -> None:
    draw = "from PIL import Image; display(Image.new('RGB', (900, 600), '{}'))"
    source = write_notebook(draw.format("red"), "'no picture'", draw.format("blue"))
    run_notebook(source, tmp_path / "out")
    nb = json.loads((tmp_path / "out" / "notebook.ipynb").read_text())
    assert pixel(thumbnail(nb)) == (255, 0, 0)
    nb["metadata"]["pwl_lab"] = {"thumbnail": nb["cells"][2]["id"]}
    assert pixel(thumbnail(nb)) == (0, 0, 255)
    nb["cells"] = nb["cells"][1:2]
    assert thumbnail(nb) is None


def pixel(url: str) -> tuple[int, ...]:
    import base64
    import io

    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    assert image.size == (360, 240)
    return image.convert("RGB").getpixel((5, 5))
