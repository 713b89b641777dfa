"""Train the teacher of notebook 02's harder task, and write it to `data/parity_teacher.safetensors` with its JSON file.

    python scripts/make_parity_teacher.py

It comes from the store if it is there; a training that was stopped goes on. `--core-minutes` says how long it took, if that
is known.
"""

import argparse
import json

from pwl_lab.study.harder_task import ship_teacher
from pwl_lab.study.settings import CurriculaSettings


def main() -> None:
    """Train or load, write, and print what is said of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core-minutes", type=float)
    settings = CurriculaSettings.load("lesson", hard_teacher="trained", device="cpu")
    told = ship_teacher(settings, parser.parse_args().core_minutes)
    print(json.dumps({name: value for name, value in told.items() if name != "history"}, indent=1))


if __name__ == "__main__":
    main()
