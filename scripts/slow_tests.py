"""Add to `tests/slow.txt`, which `make check` leaves out, the tests that took long in a run.

    make check ARGS=--junitxml=runs/tests.xml
    python scripts/slow_tests.py runs/tests.xml

A test is slow if one of its cases took as long as `--seconds`. Whoever comes first waits for what tests share, and that
may be another one each time. So repeat both commands until nothing is added; nothing is ever taken from the list.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

from pwl_lab.support import paths
from pwl_lab.support.files import write_text

LIST = paths.root() / "tests/slow.txt"
SECONDS = 0.3


def slow_tests(reports: Iterable[Path], seconds: float) -> set[str]:
    """The tests of which a case took at least that long, as `folder/file.py::test`, after JUnit files of pytest."""
    cases = [case for report in reports for case in ElementTree.parse(report).getroot().iter("testcase")]
    return {
        f"{case.attrib['classname'].removeprefix('tests.').replace('.', '/')}.py::{case.attrib['name'].split('[')[0]}"
        for case in cases
        if float(case.attrib["time"]) >= seconds
    }


def main() -> None:
    """Write the list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", type=Path, nargs="+", metavar="JUNIT.xml")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    asked = parser.parse_args()
    listed = set(LIST.read_text().split())
    added = slow_tests(asked.reports, asked.seconds) - listed
    write_text(LIST, "".join(f"{name}\n" for name in sorted(listed | added)))
    print(f"{len(added)} slow tests more:", *sorted(added), sep="\n")


if __name__ == "__main__":
    main()
