"""The examples of docs/extend.md run as they stand, and the bundle that they write opens in another process."""

import re
import subprocess
import sys

from pwl_lab.support import paths

PAGE = paths.root() / "docs" / "extend.md"


def test_the_examples_run_and_their_bundle_opens_where_the_network_is_defined(tmp_path):
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    task, network, both = examples
    (tmp_path / "mine.py").write_text(task + network)
    opening = both[both.index("points = ") :]
    programs = {
        "all": task + network + both,
        "again": f"from mine import *\nfrom pwl_lab.loading.model import ProgressiveModel\ntask = Rings()\n{opening}",
    }
    shown = {}
    for name, code in programs.items():
        (tmp_path / f"{name}.py").write_text(code)
        command = [sys.executable, "-W", "error", f"{name}.py"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"PWL_LAB_RUNS": "runs"})
        assert done.returncode == 0, done.stderr
        shown[name] = done.stdout
    assert shown["all"] == shown["again"]
    assert set(re.findall("'(.*?)'", shown["all"])) <= {"inside", "on it", "outside"}
    assert '"family": "skip"' in (tmp_path / "runs" / "rings" / "index.json").read_text()
    assert '"on it"' in (tmp_path / "runs" / "rings" / "index.json").read_text()
