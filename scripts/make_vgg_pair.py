"""Train notebook 04's `vgg` pair at `lesson`, seed 0, and write it to `data/vgg_pair/` (a bundle) and `data/vgg_pair.json`.

    python scripts/make_vgg_pair.py

It comes from the store if it is there; a training that was stopped goes on. `--core-minutes` says how long it took, if that
is known.
"""

import argparse
import json

from pwl_lab.study.shipped_pair import ship_pair


def main() -> None:
    """Train or load, write, and print what is said of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core-minutes", type=float)
    print(json.dumps(ship_pair(parser.parse_args().core_minutes), indent=1))


if __name__ == "__main__":
    main()
