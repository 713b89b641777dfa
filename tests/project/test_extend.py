"""The examples of docs/extend.md run as they stand, and the bundle that they write opens in another process."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pwl_lab.support import paths

PAGE = paths.root() / "docs" / "extend.md"
LONGEST = 50  # lines of an example
OPENING = """
import sys, torch
from pwl_lab.loading.model import ProgressiveModel
with ProgressiveModel.open(sys.argv[1], imports=True) as model:
    model.wait("TTT")
    logits = model.predict(torch.tensor([[0.0, 0.1], [1.0, 0.2], [2.0, -2.0]])).logits
print(logits.argmax(dim=1).tolist())
"""


def examples(kind: str = "python") -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def with_words(words: str) -> str:
    (found,) = (one for one in examples() if words in one)
    return found


FRAMES = "[len(widget.table.frames), *([str(one) for one in choice.values] for choice in widget.table.choices)]"
PLAYER = (
    "[[len(one['accuracy']), [[len(group['strings']), len(group['predicted'])] for group in one['groups'].values()]] "
    "for one in widget.data['pairs']]"
)


def showing(code: str, what: str) -> str:
    """The code, whose last line is a widget, and then as JSON what that holds."""
    before, _, last = code.rstrip().rpartition("\n")
    return f"{before}\nwidget = {last}\nimport json\nprint('widget', json.dumps({what}))\n"


def held(done: subprocess.CompletedProcess) -> list[object]:
    """What the widgets of a run hold, in their order."""
    return [json.loads(one) for one in re.findall("^widget (.*)$", done.stdout, re.MULTILINE)]


def run(folder: Path, code: str, *words: str) -> subprocess.CompletedProcess:
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


@contextmanager
def served(folder: Path, bundle: str) -> Iterator[str]:
    """The address at which `pwl-lab serve` serves a bundle."""
    words = [Path(sys.executable).parent / "pwl-lab", "serve", bundle]
    with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield re.search(r"http://\S+", server.stdout.readline())[0]
        finally:
            server.terminate()


@pytest.mark.parametrize("number", range(len(examples())))
def test_an_example_is_short(number):
    assert len(examples()[number].splitlines()) < LONGEST


@pytest.mark.usefixtures("store_folder")
def test_the_examples_run_and_their_bundle_opens_where_the_network_is_defined(tmp_path):
    task, network, both, bundle = examples()[:4]
    (tmp_path / "mine.py").write_text(task + network)
    opening = bundle[bundle.index("points = ") :]
    programs = {
        "all": task + network + showing(both, PLAYER) + bundle,
        "again": f"from mine import *\nfrom pwl_lab.loading.model import ProgressiveModel\ntask = Rings()\n{opening}",
    }
    shown = {}
    for name, code in programs.items():
        done = run(tmp_path, code)
        assert "export" not in done.stderr  # no warning that it will be refused
        shown[name] = re.sub("^widget.*\n", "", done.stdout, flags=re.MULTILINE)
        assert held(done) == ([[[8, [[6, 8]]]]] if name == "all" else [])  # a pair: masks, and samples of a group
    assert shown["all"] == shown["again"]
    assert set(re.findall("'(.*?)'", shown["all"])) <= {"inside", "on it", "outside"}
    assert '"family": "skip"' in (tmp_path / "runs" / "rings" / "index.json").read_text()
    assert '"on it"' in (tmp_path / "runs" / "rings" / "index.json").read_text()


@pytest.mark.usefixtures("store_folder")
def test_a_network_that_exists_already_takes_the_place_of_the_other(tmp_path):
    task, _, both, bundle = examples()[:4]
    (tmp_path / "parts.py").write_text(task + with_words("class Encoder("))
    instead = both.replace("SkipConfig(width=24)", "EncoderConfig(width=16)").replace("SkipConfig(", "EncoderConfig(")
    assert instead.count("EncoderConfig(") == 2
    assert held(run(tmp_path, f"from parts import *\n{showing(instead, PLAYER)}{bundle}")) == [[[8, [[6, 8]]]]]
    assert json.loads((tmp_path / "runs" / "rings" / "index.json").read_text())["modules"] == {"encoder": "parts"}
    assert run(tmp_path, OPENING, "runs/rings").stdout == "[0, 1, 2]\n"
    with served(tmp_path, "runs/rings") as address:
        assert run(tmp_path, OPENING, address).stdout == "[0, 1, 2]\n"


@pytest.mark.usefixtures("store_folder")
def test_a_task_of_strings_is_learned_distilled_and_paired(tmp_path):
    done = run(tmp_path, showing(with_words("Twins(Task)"), PLAYER))
    assert held(done) == [[[8, [[6, 8]]]]]
    perplexities = [float(number) for number in re.findall(r"\d\.\d+(?=[,\]])", done.stdout.partition("perplexity")[2])]
    assert len(perplexities) == 4
    assert 3 > perplexities[0] > perplexities[-1] > 1  # guessing has 3
    assert (tmp_path / "strings.svg").read_text().count("<text") > 50


@pytest.mark.usefixtures("store_folder")
def test_a_curriculum_and_a_target_train_students_and_are_shown(tmp_path):
    code = "".join(showing(with_words(words), FRAMES) for words in ("mine = Curriculum(", "Likeness(OwnTarget)"))
    done = run(tmp_path, f"{code}print(widget.table.frames.popitem()[1].words)")
    for frames, steps in held(done):
        assert frames == len(steps) > 10
        assert steps[-1] == "400"
    assert len(re.findall(r"^one[-_]shot", done.stdout, re.M)) == 2
    assert re.search(r"alike \d+\.\d% \(shown: final output\)", done.stdout)


@pytest.mark.usefixtures("store_folder")
def test_the_dataset_is_read_checked_and_learned(tmp_path):
    done = run(tmp_path, with_words("DATASETS[") + showing(with_words("picture_chooser"), FRAMES))
    assert done.stdout.startswith("('noise', 'stripes') torch.Size([50, 1, 16, 16])\n")
    kinds = ["picked because they change", "drawn at random"]
    assert held(done) == [[12, kinds, [str(number) for number in range(1, 7)]]]


def test_a_transformer_of_hugging_face_is_cut_at_its_layers(tmp_path):
    pytest.importorskip("transformers", reason="the extra hf is not installed")
    done = run(tmp_path, with_words("import transformers"))
    assert done.stdout == f"3 blocks: {[f'vit.layers.{number}' for number in range(3)]}\n"


def test_an_edit_of_what_reads_the_dataset_changes_the_key(tmp_path):
    code = with_words("DATASETS[") + "\nfrom pwl_lab.support.own_code import code_of\nprint(code_of(stripes))"
    edited = code.replace('arrays["labels"])', '1 - arrays["labels"])')
    first, again, other = (run(tmp_path, one).stdout for one in (code, code, edited))
    assert "__main__.read" in first
    assert first == again
    assert first != other


IN_WORKERS = """
from pwl_lab.models import vgg
from pwl_lab.study.cases import run_cases
from pwl_lab.study.verbs import train_or_load
from pwl_lab.training import TrainPlan

plan, net = TrainPlan(steps=2, batch_size=8, eval_every=2), vgg(stripes, channels=[2, 2], convolutions=[1, 1])
cases = [{"model": net, "task": stripes, "plan": plan, "seed": seed} for seed in range(3)]
print(len(run_cases(train_or_load, cases, "stripes", "cpu")))
"""


@pytest.mark.usefixtures("store_folder")
def test_worker_processes_know_the_dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("PWL_LAB_WORKERS", "2")
    assert run(tmp_path, with_words("DATASETS[") + IN_WORKERS).stdout.endswith("\n3\n")


@pytest.mark.usefixtures("store_folder")
def test_the_grammar_and_the_text_are_tasks(tmp_path):
    learned, text = (showing(with_words(words), PLAYER) for words in ("def loader_of", "TextTask(length"))
    done = run(tmp_path, with_words("gossip") + learned + text)
    assert held(done) == [[[8, [[6, 8]]]]] * 2
    done.stdout = re.sub("^widget.*\n", "", done.stdout, flags=re.MULTILINE)
    ceiling, string, clause, *rest = done.stdout.splitlines()
    assert re.fullmatch(r"Ceiling\(accuracy=0\.\d+, loss=\d\.\d+\)", ceiling)
    assert "'animal'" in string
    # 0.3 times three times 1/2 for the articles, 1/4 for the animals, and the verbs, one of each
    assert clause == f"{0.3 / 8**3 * 0.75 * 0.25:.2g} [[4, 9]]"
    assert rest[0].startswith("83 ")


@pytest.mark.usefixtures("store_folder")
def test_a_notebook_of_ones_own_runs_in_a_batch_and_is_reported_on(tmp_path):
    run(tmp_path, with_words("nbformat.write"))
    (commands,) = examples("sh")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-e", "-c", commands], cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = [json.loads(one.read_text()) for one in (tmp_path / "runs" / "mine").glob("points/*/metrics.json")]
    assert len(found) == 4
    assert all(0.4 < one["accuracy"][0] <= 1 for one in found)
    assert json.loads((tmp_path / "runs" / "report" / "status.json").read_text())["status"] == "ok"
