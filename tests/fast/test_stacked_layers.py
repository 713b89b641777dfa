"""Language layers of stacked students: what one student does leaves the others alone, and other layers run as they are.

That values and gradients are those of each student alone is in `test_twins.py`.
"""

import pytest
import torch
from toys import LANGUAGE_STUDENT, samples_for

from pwl_lab.distill.students import make_cohort
from pwl_lab.fast.stacked import RUN_BY, StackedCohort
from pwl_lab.models import build
from pwl_lab.models.language import LanguageLayer

PAD = LANGUAGE_STUDENT.n_tokens - 1
INPUTS = samples_for(LANGUAGE_STUDENT, 8, (9,), torch.Generator().manual_seed(0))


def test_some_strings_are_padded():
    padded = (INPUTS == PAD).any(dim=1)
    assert int(padded.sum()) >= 3


@pytest.mark.parametrize("causal", [False, True])
def test_a_student_that_diverged_shows_the_others_no_padding(causal):
    config = LANGUAGE_STUDENT.model_copy(update={"causal": causal})
    cohort = make_cohort(config, [0, 1])
    expected = cohort.logits(INPUTS)[1].detach()
    with torch.no_grad():
        for tensor in cohort.parameters():
            tensor[0] = torch.nan
    logits = cohort.logits(INPUTS)
    assert logits[0].isnan().all()
    assert torch.equal(logits[1], expected)
    logits[1].square().sum().backward()
    assert all(tensor.grad[1].isfinite().all() for tensor in cohort.parameters())


def test_a_member_has_the_same_bits_whoever_is_beside_it():
    wide, narrow = (make_cohort(LANGUAGE_STUDENT, seeds) for seeds in ([3, 0, 1, 2], [2, 3]))
    for cohort in (wide, narrow):
        cohort.logits(INPUTS).square().sum().backward()
    for one, other in zip(wide.parameters(), narrow.parameters(), strict=True):
        assert torch.equal(one.grad[[3, 0]], other.grad)


class Doubled(LanguageLayer):
    """A reader's own layer."""

    def forward(self, state, bias=None):
        return 2 * super().forward(state, bias)


def test_a_layer_of_ones_own_is_run_as_it_is():
    students = [build(LANGUAGE_STUDENT, seed) for seed in (0, 1)]
    for student in students:
        student.blocks[1].__class__ = Doubled
    assert Doubled not in RUN_BY
    logits = StackedCohort(students).logits(INPUTS)
    for mine, student in zip(logits, students, strict=True):
        torch.testing.assert_close(mine, student(INPUTS), rtol=1e-5, atol=1e-5)
