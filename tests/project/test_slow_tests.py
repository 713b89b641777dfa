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


def test_a_test_that_took_long_is_added_and_none_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = ElementTree.Element("testsuites")
    for name, seconds in {"test_a[x]": 0.01, "test_a[y]": 0.4, "test_b": 0.29, "test_c": 7}.items():
        ElementTree.SubElement(suite, "testcase", classname="tests.swap.test_it", name=name, time=str(seconds))
    report, listed = tmp_path / "junit.xml", tmp_path / "slow.txt"
    ElementTree.ElementTree(suite).write(report)
    listed.write_text("swap/test_it.py::test_c\nswap/test_it.py::test_quick_this_time\n")
    monkeypatch.setattr(slow_tests, "LIST", listed)
    monkeypatch.setattr("sys.argv", ["slow_tests.py", str(report)])
    slow_tests.main()
    assert listed.read_text().split() == [f"swap/test_it.py::test_{name}" for name in ("a", "c", "quick_this_time")]
