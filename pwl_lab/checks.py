"""Checks that settings share: what is fine alone and does not fit together.

What takes torch to check is imported where it is checked, so that listing the parameters stays quick.
"""

from pathlib import Path

from pwl_lab.errors import invalid

BATCH = "batch.json"  # as `pwl_lab.batch.points` writes it, which stands above this module


def check_parity(n_bits: int, k_sparse: int, support: tuple[int, ...] | None) -> None:
    """Raise InvalidValueError where no parity task has these sizes."""
    from pwl_lab.tasks.parity import SparseParity

    SparseParity(n_bits, k_sparse, support=support)


def check_stage(stage_steps: int, budget_steps: int) -> None:
    """Raise InvalidValueError where the first stage leaves no step for the last one."""
    if stage_steps >= budget_steps:
        raise invalid(
            "stage_steps", stage_steps, f"below budget_steps = {budget_steps}, or the last stage never begins"
        )


def check_images(dataset: str, n_train: int | None, batch_size: int) -> None:
    """Raise UnknownNameError or InvalidValueError where there is no such data set, or not that many images in it.

    Of a bundled data set the files are checked as well (MissingDataError); others may still have to be downloaded.
    """
    from pwl_lab.tasks import datasets
    from pwl_lab.tasks.vision import ImageTask

    task = ImageTask(dataset, n_train=n_train)
    task.steps_per_epoch(batch_size)
    if datasets.dataset(dataset).source.bundled:
        task.sample(1)


def check_calibration(n_train: int | None) -> None:
    """Raise InvalidValueError where the images are too few to centre and scale an extracted curriculum's targets on."""
    from pwl_lab.distill.targets import CALIBRATION_BATCH

    if n_train is not None and n_train < CALIBRATION_BATCH:
        raise invalid(
            "n_train", n_train, f"at least {CALIBRATION_BATCH}: the extracted curriculum is calibrated on them"
        )


def check_batch(folder: str) -> None:
    """Raise InvalidValueError where `pwl-lab batch` has not been at work in this folder."""
    if not (Path(folder) / BATCH).is_file():
        raise invalid("batch", folder, f"the folder that pwl-lab batch was given as --out ({BATCH} is not there)")
