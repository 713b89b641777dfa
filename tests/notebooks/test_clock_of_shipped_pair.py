"""Notebook 06 on the pair that ships: nothing is trained."""

import json
from pathlib import Path

import pytest

from pwl_lab.runner.execute import run_notebook
from pwl_lab.support import environment


@pytest.mark.notebook
def test_a_reader_without_a_pair_of_their_own_can_run_it(store_folder: Path, tmp_path: Path) -> None:
    asked = {"pair_source": "shipped", "seeds": [0], "full_sizes": []}
    status = run_notebook("06", tmp_path, "smoke", asked, environment={environment.ONLY_STORED.name: "yes"})
    assert status.status == "ok", status.error
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["predictions"]["wrong"] == 0
    last = [row for row in found["timeline"] if row["way"] == "progressive"][-1]
    assert (last["network"], last["accuracy"]) == ("TTTT", 0.9115)
    assert not store_folder.exists()
