"""Checks that settings share: what is fine alone and does not fit together. None of them needs torch."""

from pathlib import Path

from pwl_lab.support.errors import invalid
from pwl_lab.tasks.sizes import CALIBRATION_BATCH, check_batch_size, check_bits, check_crop, check_n_train

BATCH = "batch.json"  # as `pwl_lab.runner.points` writes it, which stands above this module


def check_parity(n_bits: int, k_sparse: int, support: tuple[int, ...] | None) -> None:
    """Raise InvalidValueError where no parity task has these sizes."""
    check_bits(n_bits, k_sparse, support)


def check_stage(stage_steps: int, budget_steps: int) -> None:
    """Raise InvalidValueError where the first stage leaves no step for the last one."""
    if stage_steps >= budget_steps:
        raise invalid(
            "stage_steps", stage_steps, f"below budget_steps = {budget_steps}, or the last stage never begins"
        )


def check_image_settings(dataset: str, n_train: int | None, batch_size: int, crop_padding: int = 0) -> None:
    """Raise UnknownNameError or InvalidValueError where there is no such data set, too few images in it, or too small ones.

    Of a bundled data set the files are checked as well (MissingDataError); others may still have to be downloaded.
    """
    from pwl_lab.tasks import datasets  # imports numpy, which parities do without

    entry = datasets.dataset(dataset)
    check_n_train(n_train, entry.sizes["train"], dataset)
    check_batch_size(batch_size, n_train or entry.sizes["train"])
    check_crop(crop_padding, *entry.image_shape[1:])
    if entry.source.bundled:
        datasets.load(dataset)


def check_calibration(n_train: int | None) -> None:
    """Raise InvalidValueError where the images are too few to centre and scale an extracted curriculum's targets on."""
    if n_train is not None and n_train < CALIBRATION_BATCH:
        raise invalid(
            "n_train", n_train, f"at least {CALIBRATION_BATCH}: the extracted curriculum is calibrated on them"
        )


def check_report(folder: str) -> None:
    """Raise InvalidValueError where `pwl-lab batch` has not been at work in this folder; an address is looked at later."""
    if "://" not in folder and not (Path(folder) / BATCH).is_file():
        raise invalid("batch", folder, f"the folder that pwl-lab batch was given as --out ({BATCH} is not there)")
