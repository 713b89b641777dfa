"""Checks of the exercises to notebook 00: a parity label, loading in prefix order, and the wait for bytes."""

from collections.abc import Callable, Sequence
from math import prod

from pwl_lab.exercises.checking import attempt, same_numbers, same_values
from pwl_lab.swap.masks import all_masks, prefix_mask, suffix_mask

ROWS = [(1, -1, -1, 1, -1), (-1, -1, 1, -1, 1), (-1, 1, 1, 1, -1), (1, 1, -1, -1, 1), (-1, -1, -1, 1, 1)]
SUPPORT = (0, 2, 3)
SWAPPED = str.maketrans("TS", "ST")


def label(answer: Callable[[Sequence[int], Sequence[int]], int]) -> str:
    """`answer(signs, support)`: the product of the signs at the places of the support, +1 or -1."""
    hint = "multiply the signs at the places in `support` (the first sign has place 0), and nothing else"
    found = [attempt(answer, row, SUPPORT, hint=hint, on=f"signs {row} and support {SUPPORT}") for row in ROWS]
    right = [prod(row[i] for i in SUPPORT) for row in ROWS]
    mistakes = {
        "this is the sign of the sum (a majority), not the product": [
            1 if sum(row[i] for i in SUPPORT) > 0 else -1 for row in ROWS
        ],
        "this is the sum of the signs, not their product": [sum(row[i] for i in SUPPORT) for row in ROWS],
        "this multiplies all signs of a row, not those of the support alone": [prod(row) for row in ROWS],
        "this counts places from 1; here the first sign has place 0": [
            prod(row[i - 1] for i in SUPPORT) for row in ROWS
        ],
        "labels are asked for as +1 and -1, these are 1 and 0": [int(value > 0) for value in right],
    }
    same_values("label, row by row", found, right, hint, mistakes)
    return "Right: flip one sign of the support and the label flips, whatever the other signs are."


def prefix_order(answer: Callable[[int], Sequence[str]]) -> str:
    """`answer(n_blocks)`: the swap masks from all student to all teacher, loaded from the first block on."""
    hint = "with k teacher blocks in place the mask is k times T, then S for the rest; k goes from 0 to n"
    for n in (4, 2, 6):
        right, other = ([mask_of(k, n) for k in range(n + 1)] for mask_of in (prefix_mask, suffix_mask))
        mistakes = {
            "this is suffix order: it begins with the last block": other,
            "this runs backwards: loading begins with all S": right[::-1],
            "T and S are swapped: T stands for a block of the teacher, S for one of the student, and loading begins"
            " with all S": [mask.translate(SWAPPED) for mask in right],
            "the first mask is missing: before any block arrives the student answers": right[1:],
            "the last mask is missing: at the end all blocks are the teacher's": right[:-1],
            f"these are all {2**n} masks; an order goes through n + 1 of them": all_masks(n),
        }
        same_values(f"prefix_order({n})", attempt(answer, n, hint=hint, on=f"{n} blocks"), right, hint, mistakes)
    return "Right: n + 1 of the 2^n masks, each with one more teacher block than the one before."


def waits(answer: Callable[[float, float, float], Sequence[float]]) -> str:
    """`answer(student_bytes, teacher_bytes, megabytes_per_s)`: seconds to three moments (see the exercise)."""
    hint = "seconds are bytes over bytes per second (10^6 to a megabyte); the teacher's blocks come after the student"
    for student, teacher, rate in ((2e6, 30e6, 4.0), (5e5, 8e6, 0.5)):
        bytes_per_s = rate * 1e6
        right = [student / bytes_per_s, (student + teacher) / bytes_per_s, teacher / bytes_per_s]
        mistakes = {
            "the student's bytes come on top of the teacher's: the second wait is longer than the third": [
                right[0],
                right[2],
                right[2],
            ],
            "a megabyte is 10^6 bytes here, not 2^20": [seconds * 1e6 / 2**20 for seconds in right],
            "these are bits: the link is given in megabytes a second": [8 * seconds for seconds in right],
            "the teacher alone is loaded without the student": [right[0], right[1], right[1]],
            "`megabytes_per_s` counts megabytes, these are bytes over megabytes": [1e6 * seconds for seconds in right],
        }
        on = f"a student of {student:,.0f} bytes, a teacher of {teacher:,.0f}, {rate:g} MB/s"
        found = attempt(answer, student, teacher, rate, hint=hint, on=on)
        same_numbers("waits", found, right, hint, mistakes)
    return "Right: the first answer comes sooner, and the whole teacher comes later, by the student's bytes."
