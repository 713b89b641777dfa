"""The bench of training on a device (`scripts/device_bench.py`) runs, at a size that measures nothing."""

import json
import os
import subprocess
import sys

import pytest

from pwl_lab.support import paths


def test_every_row_is_measured_on_the_device_of_the_environment(tmp_path):
    env = os.environ | {"PWL_LAB_DEVICE": "cpu", "PWL_LAB_RUNS": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "scripts/bench.py", "--device", "auto", "--size", "smoke"]
    done = subprocess.run(command, cwd=paths.root(), env=env, capture_output=True, text=True, check=True)
    rows = json.loads((tmp_path / "bench-cpu.json").read_text())["rows"]
    plain = ["teacher of 64 units", "cohort of 4 students", *(f"PWL step, {one}" for one in ("vgg", "resnet", "vit"))]
    expected = [f"cpu: {one}{words}" for words in ("", ", bfloat16 against float32") for one in plain]
    assert [row["name"] for row in rows] == expected
    assert "left out" not in done.stderr
    for row in rows:
        assert row["ours"] > 0
        assert row["ratio"] == pytest.approx(row["ours"] / row["reference"], rel=0.05)
