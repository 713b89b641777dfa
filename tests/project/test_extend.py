"""The examples of docs/extend.md run as they stand, and the bundle that they write opens in another process."""

import re
import subprocess
import sys

import pytest

from pwl_lab.support import paths

PAGE = paths.root() / "docs" / "extend.md"


def examples():
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def with_words(words):
    (found,) = (one for one in examples() if words in one)
    return found


@pytest.mark.usefixtures("store_folder")
def test_the_examples_run_and_their_bundle_opens_where_the_network_is_defined(tmp_path):
    task, network, both = examples()[:3]
    (tmp_path / "mine.py").write_text(task + network)
    opening = both[both.index("points = ") :]
    programs = {
        "all": task + network + both,
        "again": f"from mine import *\nfrom pwl_lab.loading.model import ProgressiveModel\ntask = Rings()\n{opening}",
    }
    shown = {}
    for name, code in programs.items():
        (tmp_path / f"{name}.py").write_text(code)
        done = subprocess.run([sys.executable, f"{name}.py"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "export" not in done.stderr  # no warning that it will be refused
        shown[name] = done.stdout
    assert shown["all"] == shown["again"]
    assert set(re.findall("'(.*?)'", shown["all"])) <= {"inside", "on it", "outside"}
    assert '"family": "skip"' in (tmp_path / "runs" / "rings" / "index.json").read_text()
    assert '"on it"' in (tmp_path / "runs" / "rings" / "index.json").read_text()


@pytest.mark.usefixtures("store_folder")
def test_a_task_of_strings_is_learned_distilled_and_paired(tmp_path):
    (tmp_path / "runs").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", with_words("Twins(Task)")], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    perplexities = [float(number) for number in re.findall(r"\d\.\d+(?=[,\]])", done.stdout.partition("perplexity")[2])]
    assert len(perplexities) == 4
    assert 3 > perplexities[0] > perplexities[-1] > 1  # guessing has 3
    assert (tmp_path / "runs" / "strings.svg").read_text().count("<text") > 50


@pytest.mark.usefixtures("store_folder")
def test_the_dataset_is_read_and_checked(tmp_path):
    dataset = with_words("stripes")
    done = subprocess.run([sys.executable, "-c", dataset], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "('noise', 'stripes') torch.Size([50, 1, 16, 16])\n"


def test_the_grammar_and_the_text_are_tasks(tmp_path):
    code = with_words("gossip") + with_words("TextTask(length")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ceiling, string, clause, *rest = done.stdout.splitlines()
    assert re.fullmatch(r"Ceiling\(accuracy=0\.\d+, loss=\d\.\d+\)", ceiling)
    assert "'animal'" in string
    # 0.3 times three times 1/2 for the articles, 1/4 for the animals, and the verbs, one of each
    assert clause == f"{0.3 / 8**3 * 0.75 * 0.25:.2g} [[4, 9]]"
    assert rest[0].startswith("83 ")
