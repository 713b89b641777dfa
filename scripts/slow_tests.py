"""Which tests `make check` leaves out: the list `tests/slow.txt`, from the times that pytest wrote down.

    make check ARGS=--junitxml=runs/first.xml  # and once more as runs/second.xml
    python scripts/slow_tests.py runs/first.xml runs/second.xml

A test is slow if its longest case took `--seconds` or more in every report that has it. One report is not enough: the first
test in a process also pays for imports and shared fixtures, and which test that is changes from run to run. A listed test
that is in no report stays listed; to judge all tests again, empty the list before the two runs.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

from pwl_lab.support import paths
from pwl_lab.support.files import write_text

LIST = paths.root() / "tests/slow.txt"
SECONDS = 0.3


def longest_cases(report: Path) -> dict[str, float]:
    """Seconds of the longest case of each test, by `folder/file.py::test`, in a JUnit file of pytest."""
    found: dict[str, float] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        file = case.attrib["classname"].removeprefix("tests.").replace(".", "/")
        name = f"{file}.py::{case.attrib['name'].split('[')[0]}"
        found[name] = max(found.get(name, 0.0), float(case.attrib["time"]))
    return found


def slow_tests(reports: Iterable[Path], listed: set[str], seconds: float) -> set[str]:
    """The tests that are slow by the reports, and those of `listed` that none of them has run."""
    found: dict[str, float] = {}
    for report in reports:
        for name, longest in longest_cases(report).items():
            found[name] = min(found.get(name, longest), longest)
    return {name for name, least in found.items() if least >= seconds} | (listed - found.keys())


def main() -> None:
    """Write the list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", type=Path, nargs="+", metavar="JUNIT.xml")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    asked = parser.parse_args()
    before = set(LIST.read_text().split())
    now = slow_tests(asked.reports, before, asked.seconds)
    write_text(LIST, "".join(f"{name}\n" for name in sorted(now)))
    changes = [f"+ {name}" for name in sorted(now - before)] + [f"- {name}" for name in sorted(before - now)]
    print(f"{len(now)} slow tests", *changes, sep="\n")


if __name__ == "__main__":
    main()
