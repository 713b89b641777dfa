"""Make data/devils-dictionary.txt from Debian's package dict-devil, or check that it is what the package gives.

    python scripts/make_devils_dictionary.py [--source FILE]            writes data/devils-dictionary.txt
    python scripts/make_devils_dictionary.py [--source FILE] --check    compares the file with the package's

The text is the book alone, from its preface on: what dictd's headers say, and the line of letters that ends the package's
file, are left out. After a change record the printed numbers in `DEVIL` in pwl_lab/tasks/sequences.py and in data/README.md.
"""

import argparse
import sys
from pathlib import Path

from pwl_lab.support import paths
from pwl_lab.support.download import content
from pwl_lab.support.errors import InvalidValueError, PwlLabError
from pwl_lab.support.files import new_file, sha256
from pwl_lab.tasks.sequences import DEVIL

SOURCE = Path("/usr/share/dictd/devil.dict.dz")  # a gzip file
BEGIN, END = "PREFACE\n", "\n abcdefghijklmnopqrstuvwxyz\n"


def build(source: Path) -> bytes:
    """The book, from the package's file. Raises InvalidValueError if its parts are not where they should be."""
    text = content(source).decode("ascii")
    if text.count(BEGIN) != 1 or not text.endswith(END):
        raise InvalidValueError(
            f"{source} is not the file of dict-devil 1.0-13.1: the preface or the last line is missing"
        )
    return text[text.index(BEGIN) : -len(END)].encode("ascii")


def main() -> int:
    """Exit code 0 if the file was written or is what it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--source", type=Path, default=SOURCE, help="devil.dict.dz, by default where Debian installs it"
    )
    parser.add_argument("--check", action="store_true", help="compare with the bundled file instead of writing it")
    options = parser.parse_args()
    target = paths.data() / DEVIL.name
    try:
        book = build(options.source)
    except PwlLabError as error:
        print(error, file=sys.stderr)
        return 1
    if not options.check:
        with new_file(target) as aside:
            aside.write(book)
    print(f"SHA-256 {sha256(book)}, {len(book)} bytes")
    same = sha256(book) == DEVIL.sha256 and target.read_bytes() == book
    print("recorded, and identical to the bundled file" if same else "DIFFERENT from what is recorded or bundled")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
