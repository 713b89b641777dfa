"""What `make check` leaves out: tests that exist, found by how long they took."""

import ast
from pathlib import Path
from xml.etree import ElementTree

import pytest
from script_modules import load_script
from sources import ROOT

TESTS = ROOT / "tests"
SLOW_TESTS = (TESTS / "slow.txt").read_text().split()
slow_tests = load_script("slow_tests")


def test_each_slow_test_exists_and_stands_once_in_order() -> None:
    there = {
        f"{path.relative_to(TESTS).as_posix()}::{node.name}"
        for path in {TESTS / name.split("::")[0] for name in SLOW_TESTS}
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert {*SLOW_TESTS} - there == set()
    assert sorted({*SLOW_TESTS}) == SLOW_TESTS


def test_a_test_is_slow_by_its_longest_case_in_the_quickest_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [
        {"test_a[x]": 0.01, "test_a[y]": 0.4, "test_imports": 2.0, "test_quick": 0.0},
        {"test_a[x]": 0.02, "test_a[y]": 0.3, "test_imports": 0.01, "test_once": 7},
    ]
    for number, cases in enumerate(runs):
        suite = ElementTree.Element("testsuites")
        for name, seconds in cases.items():
            ElementTree.SubElement(suite, "testcase", classname="tests.swap.test_it", name=name, time=str(seconds))
        ElementTree.ElementTree(suite).write(tmp_path / f"{number}.xml")
    (tmp_path / "slow.txt").write_text("swap/test_it.py::test_imports\nswap/test_it.py::test_not_run\n")
    monkeypatch.setattr(slow_tests, "LIST", tmp_path / "slow.txt")
    monkeypatch.setattr("sys.argv", ["slow_tests.py", str(tmp_path / "0.xml"), str(tmp_path / "1.xml")])
    slow_tests.main()
    left = [f"swap/test_it.py::test_{name}" for name in ("a", "not_run", "once")]
    assert (tmp_path / "slow.txt").read_text().split() == left
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"+ {left[0]}",
        f"+ {left[2]}",
        "- swap/test_it.py::test_imports",
    ]
