"""Ship the results of all seeds but the first, as notebooks 04 to 07 show them at `lesson`, in `data/other_seeds/`.

    pwl-lab run 04 -p other_seeds=trained --out runs/04     # and the same for 04b, 05, 06 and 07
    python scripts/ship_seeds.py 04_vgg 05_resnet 07

Everything comes from the store and nothing is trained. A notebook then takes these results instead of training the seeds,
unless it is run with `other_seeds=trained` (`pwl_lab/study/shipped_seeds.py`).
"""

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import torch

from pwl_lab.benchmarks.accuracy import loading_accuracies
from pwl_lab.study import crossing, language_recipes, recipes, shipped_seeds
from pwl_lab.study.settings import CrossingSettings, LanguageCurriculumSettings, LoadingSettings
from pwl_lab.study.store import Artifact, NotMadeError, Recipe, Store, only_stored
from pwl_lab.study.testing import similarity
from pwl_lab.support import paths
from pwl_lab.support.config import Family
from pwl_lab.support.files import write_text

PRESET = "lesson"


def loading(family: Family, images: Sequence[str] = ("bundled", "all")) -> None:
    """Ask for what notebooks 04 and 04b show of a family, with the bundled test images and with all 10,000."""
    for test_images in images:
        settings = LoadingSettings.load(PRESET, family=family, other_seeds="trained", test_images=test_images)
        for seed in settings.seeds[1:]:
            _, pair = recipes.tested_pair(settings, seed)
            similarity(pair)
            loading_accuracies(pair)


def meeting(family: Family) -> None:
    """Ask for what notebook 05 shows of a family."""
    settings = CrossingSettings.load(PRESET, family=family, other_seeds="trained")
    for seed in settings.seeds[1:]:
        crossing.crossed_of_seed(settings, seed)
        for combined in crossing.PARITY_COMBINED:
            crossing.parity_pair(settings, seed, *combined)


def language() -> None:
    """Ask for what notebook 07 shows: students and pairs, and the teachers that they had."""
    settings = LanguageCurriculumSettings.load(PRESET, other_seeds="trained")
    for place in ("grammar", *language_recipes.elsewhere(settings)):
        language_recipes.language_teacher(settings, place)
    for seed in settings.seeds[1:]:
        for case in language_recipes.student_cases(settings):
            language_recipes.language_students(settings, case["names"], case["place"], [seed])
        for who in ("pair", "student"):
            language_recipes.language_pair(settings, seed, who)


FILES: dict[str, Callable[[], None]] = {
    "04_vgg": lambda: loading("vgg"),
    "04_resnet": lambda: loading("resnet"),
    "04_vit": lambda: loading("vit"),
    "05_resnet": lambda: meeting("resnet"),
    "07": language,
}


def asked(ask: Callable[[], None]) -> list[Recipe]:
    """The recipes that are asked of the store, each once."""
    found, get_all = dict[str, Recipe](), Store.get_all

    def noting(store: Store, recipes: list[Recipe], make: Any) -> Any:
        found.update({recipe.key: recipe for recipe in recipes})
        return get_all(store, recipes, make)

    with patch.object(Store, "get_all", noting), only_stored():
        ask()
    return list(found.values())


def line_of(recipe: Recipe) -> str:
    """An entry of the store as a line. Of its tensors only those of booleans ship: they say which samples are right."""
    with only_stored():
        artifact = Store().get(recipe, make=Artifact)
    bits = {name: shipped_seeds.packed(one) for name, one in artifact.tensors.items() if one.dtype == torch.bool}
    columns = {name: {c: kind.kind for c, kind in t.dtypes.items()} for name, t in artifact.tables.items()}
    tables = {name: {c: _plain(t[c].tolist()) for c in t} for name, t in artifact.tables.items()}
    said = {"kind": recipe.kind, "key": recipe.key, "made": artifact.made, "info": artifact.info}
    return json.dumps(said | {"columns": columns, "tables": tables, "bits": bits}, allow_nan=False)


def _plain(values: list[Any]) -> list[Any]:
    """None for NaN, which JSON does not have."""
    return [None if value != value else value for value in values]


def ship(name: str) -> str:
    """Write the file of this name; say what it holds."""
    try:
        lines = [line_of(recipe) for recipe in asked(FILES[name])]
    except NotMadeError as error:
        raise SystemExit(f"{name}: {error}; run the notebook with other_seeds=trained first") from None
    path = paths.data() / shipped_seeds.FOLDER / f"{name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    write_text(path, "\n".join(lines) + "\n")
    return f"{path.name}: {len(lines)} results, {path.stat().st_size / 1e3:.0f} kB"


def main() -> None:
    """Ship the files asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=list(FILES))
    for name in parser.parse_args().names:
        print(ship(name))


if __name__ == "__main__":
    main()
