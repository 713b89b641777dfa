"""Train the teacher of notebook 02's harder task, and write it to `data/parity_teacher.safetensors` with its JSON file.

    python scripts/make_parity_teacher.py

It comes from the store if it is there; a training that was stopped goes on. `--core-minutes` says how long it took, if that
is known.
"""

import argparse
import json
from typing import Any

from safetensors.torch import save_file

from pwl_lab.study.harder_task import hard_task, hard_teacher, shipped_files, teacher_model, teacher_plan
from pwl_lab.study.settings import CurriculaSettings
from pwl_lab.study.store import provenance
from pwl_lab.support.files import file_sha256, write_json
from pwl_lab.tasks.base import accuracy, split_of
from pwl_lab.training import predict


def ship_teacher(settings: CurriculaSettings, minutes: float | None) -> dict[str, Any]:
    """Write the trained teacher to `data/` in float16; returns what is said of it.

    Arguments:
    - `settings`: with `hard_teacher = "trained"`.
    - `minutes`: of a core, that its training took; None: not measured.
    """
    made = provenance()  # before anything is written: that would make the commit a changed one
    trained, (weights, about) = hard_teacher(settings), shipped_files()
    states = {"final": trained.model.state_dict()} | {f"step{one.step}": one.state for one in trained.checkpoints}
    save_file(
        {
            f"{name}/{key}": tensor.half().contiguous()
            for name, state in states.items()
            for key, tensor in state.items()
        },
        weights,
    )
    told = {
        "command": "python scripts/make_parity_teacher.py",
        "task": hard_task(settings).fingerprint(),
        "model": teacher_model(settings).model_dump(mode="json"),
        "plan": teacher_plan(settings).model_dump(mode="json"),
        "seed": 0,
        "checkpoints": [(one.step, one.accuracy) for one in trained.checkpoints],
        "reached_at": trained.reached_at,
        "test_accuracy": trained.test_accuracy,
        "history": trained.history.round(4).to_dict("list"),
        "sha256": file_sha256(weights),
        "core_minutes": minutes,
        "made": made,
    }
    write_json(about, told, lenient=True)
    rounded = hard_teacher(settings.model_copy(update={"hard_teacher": "shipped"}))
    test = split_of(hard_task(settings), "test", "cpu")
    return told | {"rounded": accuracy(predict(rounded.model, test.inputs), test.labels)}


def main() -> None:
    """Train or load, write, and print what is said of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core-minutes", type=float)
    settings = CurriculaSettings.load("lesson", hard_teacher="trained", device="cpu")
    told = ship_teacher(settings, parser.parse_args().core_minutes)
    print(json.dumps({name: value for name, value in told.items() if name != "history"}, indent=1))


if __name__ == "__main__":
    main()
