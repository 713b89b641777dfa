"""What a hidden target can be asked for: width, orthogonal columns, a block that ends before its ReLU."""

import warnings
from dataclasses import replace

import pytest
import torch
from toys import MLP_STUDENT, MLP_TEACHER, PARITY, PLAN, as_trained, distil_cohort, snapshot

from pwl_lab.distill import students as learner_module
from pwl_lab.distill.curriculum import TeacherHidden, extracted, progressive
from pwl_lab.distill.targets import Member, TeacherTargets, random_projection
from pwl_lab.models import build, mlp
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.training import Checkpoint


@pytest.fixture
def teacher():
    return as_trained(MLP_TEACHER)


@pytest.mark.parametrize(
    ("curriculum", "words"),
    [
        (extracted(2, blocks=[1], width=9), r"width = 9 .*from 1 to 8, the student's units in block 1"),
        (extracted(2, blocks=[2], orthogonal=True), r"width of the projection = 12 .*at most 11, .*orthogonal=False"),
    ],
)
def test_a_projection_that_does_not_fit_is_refused_before_training(teacher, monkeypatch, curriculum, words):
    monkeypatch.setattr(learner_module, "train", lambda *_: pytest.fail("training began"))
    student = MLP_STUDENT.model_copy(update={"widths": (8, 12, 7)})
    with pytest.raises(InvalidValueError, match=words):
        distil_cohort(teacher, student, PARITY, {"bad": curriculum}, (0,), PLAN)


def test_orthogonal_columns():
    matrix = random_projection(12, 5, seed=3, orthogonal=True)
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(5))
    assert not torch.equal(matrix, random_projection(12, 5, seed=4, orthogonal=True))


def test_a_stage_of_no_steps_is_refused():
    with pytest.raises(ValueError, match=r"steps = 0 .*at least 1.*to skip the stage, leave it out"):
        extracted(steps=0)


def test_matching_a_part_of_the_units_leaves_the_others_alone(teacher):
    before = build(MLP_STUDENT, 0, stream="student").state_dict()["blocks.0.0.weight"]
    plan = PLAN.model_copy(update={"steps": 4})
    result = distil_cohort(teacher, MLP_STUDENT, PARITY, {"x": extracted(9, blocks=[1], width=3)}, (0,), plan)
    after = result.weights["x", 0]["blocks.0.0.weight"]
    assert torch.equal(after[3:], before[3:])
    assert not torch.equal(after[:3], before[:3])
    assert TeacherHidden(block=1).width is None


def test_a_block_may_end_before_its_relu():
    relu, linear = (build(mlp(PARITY, 8, depth=2, blocks_end=end), 0) for end in ("relu", "linear"))
    inputs = PARITY.split("test").inputs
    assert torch.equal(relu(inputs), linear(inputs))
    for after, before in zip(relu.hidden_states(inputs)[0], linear.hidden_states(inputs)[0], strict=True):
        assert torch.equal(after, before.relu())


def test_a_checkpoint_that_is_the_final_teacher_is_named_with_what_to_do():
    teacher = as_trained(MLP_TEACHER, checkpoints={5: 0.7, 10: 0.9})
    last = Checkpoint(20, 1.0, snapshot(teacher.model))
    teacher = replace(teacher, checkpoints=[*teacher.checkpoints, last])
    shapes = MLP_STUDENT.make().state_shapes(PARITY.input_shape)

    def of(name, *accuracies):
        return Member(name, 0, progressive(accuracies, 5).for_blocks(1))

    says = r"late: its checkpoint at 95% \(step 20, 100.0%\) is the final teacher.*at_accuracy.*saturation"
    with pytest.warns(UserWarning, match=says) as warned:
        TeacherTargets(teacher, [of("early", 0.6, 0.8), of("late", 0.8, 0.95)], shapes)
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TeacherTargets(teacher, [of("early", 0.6, 0.8)], shapes)
