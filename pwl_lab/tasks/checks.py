"""Checks of a task's sizes. They do not import torch, so that checking a batch of many points takes no time."""

from collections.abc import Sequence
from contextlib import suppress
from numbers import Integral
from operator import index
from typing import SupportsIndex

from pwl_lab.support.errors import invalid

MOST_PRODUCTS = 2**29  # the most that a correlation probe may hold, 4 bytes each
# Training inputs used to centre and scale the projections of an extracted curriculum: per batch, and in total.
CALIBRATION_BATCH, CALIBRATION_SAMPLES = 128, 2048


def check_count(field: str, value: object, least: int = 1, most: int | None = None, of: str = "") -> int:
    """Return a whole number from `least` (to `most`, which `of` explains) as a Python int.

    Raises InvalidValueError for anything else, such as 3.0 or True.
    """
    number = None
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        with suppress(TypeError):  # a tensor may hold anything
            number = index(value)
    if number is None or number < least or (most is not None and number > most):
        bounds = f", at least {least}" if most is None else f" from {least} to {most}{of}"
        raise invalid(field, value, f"a whole number{bounds}")
    return number


def check_bits(n_bits: int, k_sparse: int, support: Sequence[int] | None) -> None:
    """Raise InvalidValueError unless `k_sparse` of `n_bits` bits, and this support, define a parity."""
    check_count("n_bits", n_bits)
    if not 1 <= check_count("k_sparse", k_sparse, 0) <= n_bits:
        raise invalid("k_sparse", k_sparse, f"from 1 to n_bits = {n_bits}")
    if support is not None:
        check_support(support, n_bits, k_sparse)


def check_probe(n_bits: int, k_sparse: int, samples: int, off_subsets: int) -> None:
    """Raise InvalidValueError if a correlation probe of degrees 1 to k - 1 would be empty, or too large.

    It holds one product per subset and sample: 2^k subsets of the support and, per degree, `off_subsets` outside it.
    """
    if not 2 <= k_sparse < n_bits:
        there = f"from 2 to n_bits - 1 = {n_bits - 1}: the probe compares parts of the support with bits outside it"
        raise invalid("k_sparse", k_sparse, there)
    products = samples * (2**k_sparse + (k_sparse - 1) * off_subsets)
    if products > MOST_PRODUCTS:
        there = (
            f"a smaller one, or fewer samples or subsets: the probe would hold {4e-9 * products:,.1f} GB of products"
        )
        raise invalid("k_sparse", k_sparse, there)


def check_orthogonal(teacher_width: int, student_width: int) -> None:
    """Raise InvalidValueError if the teacher has too few units for an orthogonal projection."""
    if student_width > teacher_width:
        there = f"at most teacher_width = {teacher_width}: there cannot be more orthogonal columns than teacher units"
        raise invalid("student_width", student_width, there)


def check_support(support: Sequence[int], n_bits: int, k_sparse: int) -> tuple[int, ...]:
    """Return the support, sorted, or raise InvalidValueError saying what is wrong with it."""
    if not all(isinstance(bit, Integral) for bit in support):
        raise invalid("support", tuple(support), f"whole numbers from 0 to {n_bits - 1}")
    outside = [bit for bit in support if not 0 <= bit < n_bits]
    if outside:
        raise invalid("support", tuple(support), f"bits from 0 to {n_bits - 1} (n_bits = {n_bits}); outside: {outside}")
    if len(set(support)) != len(support):
        raise invalid("support", tuple(support), "distinct bits; repeated ones cancel in the product")
    if len(support) != k_sparse:
        raise invalid("support", tuple(support), f"exactly k_sparse = {k_sparse} bits")
    return tuple(sorted(int(bit) for bit in support))


def check_n_train(n_train: int | None, size: int, name: str) -> int | None:
    """Return `n_train` (None: all). Raises InvalidValueError unless it is from 1 to `size`, the dataset's own."""
    return None if n_train is None else check_count("n_train", n_train, 1, size, f" for {name}, or none for all")


def check_batch_size(batch_size: int, n_train: int) -> None:
    """Raise InvalidValueError unless a batch has from 1 to `n_train` (the number of training) images."""
    check_count("batch_size", batch_size, 1, n_train, ", the number of training images")


def check_crop(padding: int, height: int, width: int) -> None:
    """Raise InvalidValueError if images of this size cannot be padded that far by reflection."""
    if not 0 <= padding < min(height, width):
        raise invalid("crop_padding", padding, f"from 0 to {min(height, width) - 1} for images of {height}x{width}")
