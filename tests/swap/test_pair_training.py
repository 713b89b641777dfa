"""What a pair's student learns for itself: hard and soft loss, or the stages of a curriculum."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from toys import (
    LANGUAGE_STUDENT,
    LANGUAGE_TEACHER,
    MLP_STUDENT,
    MLP_TEACHER,
    RESNET_STUDENT,
    RESNET_TEACHER,
    VGG_STUDENT,
    VGG_TEACHER,
    VIT_STUDENT,
    VIT_TEACHER,
    ToyImages,
    ToyStrings,
    as_trained,
    changed,
    snapshot,
)

from pwl_lab.distill.curriculum import (
    Curriculum,
    Labels,
    Stage,
    TeacherHidden,
    TeacherOutput,
    extracted,
    from_labels,
    one_shot,
    progressive,
)
from pwl_lab.distill.students import CurriculumLearner, SeparateCohort
from pwl_lab.distill.targets import Activations, Member, calibration_inputs, random_projection
from pwl_lab.models import build
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.swap.pair_training import FollowCurriculum, HardAndSoft, Pass
from pwl_lab.tasks.base import IGNORED, Batch
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainPlan

IMAGES, PARITY = ToyImages(), SparseParity(n_bits=6, k_sparse=2, eval_samples=60)
PAIRS = {
    "mlp": (MLP_TEACHER, MLP_STUDENT, PARITY),
    "vgg": (VGG_TEACHER, VGG_STUDENT, IMAGES),
    "resnet": (RESNET_TEACHER, RESNET_STUDENT, IMAGES),
    "vit": (VIT_TEACHER, VIT_STUDENT, IMAGES),
    "language": (LANGUAGE_TEACHER, LANGUAGE_STUDENT, ToyStrings()),
}
kinds = pytest.mark.parametrize("kind", PAIRS)
CHECKPOINTS = {10: 0.5, 20: 0.8}


class Case:
    """A teacher with checkpoints, a student, and what both make of a batch."""

    def __init__(self, kind):
        config, student, self.task = PAIRS[kind]
        self.teacher, self.student = as_trained(config, checkpoints=CHECKPOINTS), build(student, 2, stream="student")
        self.shapes = self.student.state_shapes(self.task.input_shape)
        self.batch = next(self.task.batches(0, 6))
        with torch.no_grad():
            theirs = Activations(*self.teacher.model.hidden_states(self.batch.inputs))
        self.seen = Pass(self.batch, theirs, Activations(*self.student.train().hidden_states(self.batch.inputs)))

    def rows(self, values):
        """What counts of logits or labels: all of it, or where a token is scored."""
        return values[self.batch.labels != IGNORED]

    def follow(self, curriculum, seed=3):
        return FollowCurriculum(curriculum, self.teacher, self.shapes, self.task, seed, "cpu")


def random_pass(seed=0):
    random = torch.Generator().manual_seed(seed)
    teacher, student = (2 * torch.randn(5, 4, generator=random).double() for _ in range(2))
    batch = Batch(torch.zeros(5, 1), torch.randint(4, (5,), generator=random))
    return Pass(batch, Activations([], teacher), Activations([], student.requires_grad_()))


@given(alpha=st.floats(0, 1), temperature=st.floats(0.5, 8), seed=st.integers(0, 50))
def test_hard_and_soft_is_its_formula(alpha, temperature, seed):
    seen = random_pass(seed)
    terms, total = HardAndSoft(alpha, temperature)(seen, 0)
    rows = range(5)
    logs = seen.student.logits.log_softmax(dim=1)
    hard = -sum(logs[row, seen.batch.labels[row]] for row in rows) / 5
    p, q = ((logits / temperature).softmax(dim=1) for logits in (seen.teacher.logits, seen.student.logits))
    soft = temperature**2 * (p * (p.log() - q.log())).sum(dim=1).mean()
    expected = {"hard": hard, "soft": soft}
    for name, value in terms.items():
        torch.testing.assert_close(value, expected[name])
    torch.testing.assert_close(total, alpha * hard + (1 - alpha) * soft)


@pytest.mark.parametrize(("alpha", "left"), [(0.0, "soft"), (1.0, "hard")])
def test_a_share_of_0_leaves_its_term_out(alpha, left):
    terms, total = HardAndSoft(alpha, 2.0)(random_pass(), 0)
    assert set(terms) == {left}
    assert torch.equal(total, terms[left])


def only(objective, seen, step=0):
    """The name of its one term, and its value, which is what is minimised."""
    terms, total = objective(seen, step)
    ((name, value),) = terms.items()
    assert total is value
    return name, value


def to_target(logits, probabilities):
    return -(probabilities * logits.log_softmax(dim=1)).sum(dim=1).mean()


@kinds
def test_labels(kind):
    case = Case(kind)
    name, value = only(case.follow(from_labels()), case.seen)
    assert name == "labels"
    torch.testing.assert_close(
        value, F.cross_entropy(case.rows(case.seen.student.logits), case.rows(case.batch.labels))
    )


@kinds
def test_the_final_output_soft_and_decided(kind):
    case = Case(kind)
    theirs = case.rows(case.seen.teacher.logits)
    decided = F.one_hot(theirs.argmax(dim=1), theirs.shape[1]).float()
    for temperature, wanted in ((1.0, theirs.softmax(1)), (2.5, (theirs / 2.5).softmax(1)), (0.0, decided)):
        name, value = only(case.follow(one_shot(temperature)), case.seen)
        assert name == "output"
        torch.testing.assert_close(value, to_target(case.rows(case.seen.student.logits), wanted))


@kinds
def test_a_checkpoints_output(kind):
    case = Case(kind)
    for curriculum, number in ((progressive([0.6]), 1), (progressive([0.3]), 0), (progressive(at_steps=[20]), 1)):
        checkpoint = case.teacher.at(case.teacher.checkpoints[number])
        wanted = case.rows(checkpoint(case.batch.inputs)).softmax(dim=1)
        objective = case.follow(curriculum)
        name, value = only(objective, case.seen)
        assert name == "output"
        torch.testing.assert_close(value, to_target(case.rows(case.seen.student.logits), wanted))
        final = to_target(case.rows(case.seen.student.logits), case.rows(case.seen.teacher.logits).softmax(dim=1))
        assert not torch.allclose(value, final)
        torch.testing.assert_close(only(objective, case.seen, step=1_500)[1], final)


def real(case, states):
    """Which positions count in hidden states, as a mask of dimensions that fit: all of them, or those with a token."""
    return states.any(dim=1, keepdim=True) if case.teacher.model.pads else torch.ones_like(states[:, :1]).bool()


def projected(case, block, width, seed=3):
    """The target from its definition: `P^T h` at every position, centred and scaled on the calibration inputs."""
    matrix = random_projection(case.seen.teacher.states[block - 1].shape[1], width, seed, block)
    states, _ = case.teacher.model.hidden_states(calibration_inputs(case.task, seed, "cpu"))
    raw = torch.einsum("mr,bm...->br...", matrix, states[block - 1])
    by_channel = raw.movedim(1, -1)[real(case, states[block - 1]).movedim(1, -1).squeeze(-1)]  # (positions, channels)
    mean = by_channel.mean(dim=0)
    factor = 1 / (by_channel - mean).square().mean().sqrt()
    mean = mean.reshape(1, -1, *(1,) * (raw.dim() - 2))
    return (torch.einsum("mr,bm...->br...", matrix, case.seen.teacher.states[block - 1]) - mean) * factor


@kinds
@pytest.mark.parametrize("block", [1, 2, 3])
def test_a_projected_hidden_state_has_the_students_channels_at_every_position(kind, block):
    case = Case(kind)
    ours = case.seen.student.states[block - 1]
    wanted = projected(case, block, ours.shape[1])
    assert wanted.shape == ours.shape
    name, value = only(case.follow(extracted(blocks=[block], weight=4.0)), case.seen)
    assert name == "hidden"
    squares = (ours - wanted).square()[real(case, case.seen.teacher.states[block - 1]).expand_as(ours)]
    torch.testing.assert_close(value, 4 * squares.mean(), rtol=1e-4, atol=1e-5)


@kinds
def test_several_blocks_at_once_are_the_mean_of_each(kind):
    case = Case(kind)
    values = {}
    for name, curriculum in {"all": extracted(at_once=True), "two": extracted(blocks=[3, 1], at_once=True)}.items():
        objective = case.follow(curriculum)
        assert [stage.target.kind for stage in objective.curriculum.stages] == ["hidden", "output"]
        values[name] = only(objective, case.seen)[1]
    each = [only(case.follow(extracted(blocks=[block])), case.seen)[1] for block in (1, 2, 3)]
    torch.testing.assert_close(values["all"], torch.stack(each).mean())
    torch.testing.assert_close(values["two"], (each[0] + each[2]) / 2)


def test_the_first_channels_alone_where_a_width_is_given():
    case = Case("resnet")
    ours = case.seen.student.states[1][:, :2]
    _, value = only(case.follow(extracted(blocks=[2], width=2, weight=1.0)), case.seen)
    torch.testing.assert_close(value, (ours - projected(case, 2, 2)).square().mean(), rtol=1e-4, atol=1e-5)
    with pytest.raises(InvalidValueError, match=r"width = 6 .*from 1 to 5"):
        case.follow(extracted(blocks=[2], width=6))


def test_another_seed_is_another_projection():
    case = Case("vgg")
    values = [only(case.follow(extracted(), seed), case.seen)[1].item() for seed in (3, 3, 4)]
    assert values[0] == values[1] != values[2]


@kinds
@pytest.mark.parametrize("block", [1, 2, 3])
def test_a_hidden_stage_sends_gradients_to_the_stem_and_the_blocks_up_to_it(kind, block):
    case = Case(kind)
    only(case.follow(extracted(blocks=[block])), case.seen)[1].backward()
    reached = ["stem.", *(f"blocks.{index}." for index in range(block))]
    for name, parameter in case.student.named_parameters():
        assert (parameter.grad is not None) == name.startswith(tuple(reached)), name


@kinds
def test_the_output_sends_gradients_everywhere_but_to_the_teacher(kind):
    case = Case(kind)
    before = snapshot(case.teacher.model)
    only(case.follow(one_shot()), case.seen)[1].backward()
    assert all(parameter.grad is not None for parameter in case.student.parameters())
    assert all(parameter.grad is None for parameter in case.teacher.model.parameters())
    assert changed(before, snapshot(case.teacher.model)) == set()


ONE_OF_EACH = [
    Labels(),
    TeacherOutput(at_step=10),
    TeacherOutput(temperature=2.0),
    TeacherOutput(temperature=0.0),
    TeacherHidden(block=2),
    TeacherHidden(block=1, width=2, centre=False),
    TeacherHidden(block=(1, 3)),
]


@kinds
@pytest.mark.parametrize("target", ONE_OF_EACH, ids=str)
def test_a_pairs_loss_and_gradients_are_those_of_a_cohort_of_its_student_alone(kind, target):
    case = Case(kind)
    objective = case.follow(Curriculum(stages=(Stage(target=target),)))
    cohort = SeparateCohort([case.student])
    member, plan = Member("x", 3, objective.curriculum), TrainPlan(steps=1)
    learner = CurriculumLearner(cohort, [member], objective.targets, case.batch, plan)
    name, value = only(objective, case.seen)
    terms = learner.losses(case.batch, 0)
    torch.testing.assert_close(terms[name], value)
    torch.testing.assert_close(terms["total"], value)
    value.backward()
    terms["total"].backward()
    alone = learner.groups[0].cohort.students[0]
    for ours, theirs in zip(case.student.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_stages_switch_at_their_step():
    case = Case("vgg")
    single = [case.follow(extracted(blocks=[block])) for block in (1, 2, 3)] + [case.follow(one_shot())]
    values = [only(objective, case.seen)[1].item() for objective in single]
    objective = case.follow(extracted(steps=2))
    stages = [0, 0, 1, 1, 2, 2, 3, 3, 3]
    for step, stage in enumerate(stages):
        name, value = only(objective, case.seen, step)
        assert name == ("hidden" if stage < 3 else "output")
        assert value.item() == pytest.approx(values[stage], rel=1e-6), step
    assert len(set(values)) == 4


def test_any_target_may_follow_any_other():
    case = Case("mlp")
    targets = [Labels(), TeacherOutput(at_step=10), TeacherHidden(block=2), TeacherOutput(temperature=0.0)]
    objective = case.follow(Curriculum(stages=tuple(Stage(target=target, steps=3) for target in targets)))
    names = [only(objective, case.seen, step)[0] for step in (0, 2, 3, 5, 6, 8, 9, 100)]
    assert names == ["labels"] * 2 + ["output"] * 2 + ["hidden"] * 2 + ["output"] * 2


@pytest.mark.parametrize(
    ("curriculum", "words"),
    [
        (progressive([0.9]), r"at_accuracy = 0.9 .*10 \(50.0%\), 20 \(80.0%\)"),
        (progressive(at_steps=[15]), r"at_step = 15 .*10 \(50.0%\), 20 \(80.0%\)"),
        (extracted(blocks=[4]), r"block = 4 .*from 1 to 3"),
        (
            Curriculum(stages=(Stage(target=TeacherHidden(block=1), trains="block"),)),
            r"trains = 'block' .*reach",
        ),
    ],
)
def test_what_the_teacher_has_not_or_a_pair_cannot_do_is_refused(curriculum, words):
    with pytest.raises(InvalidValueError, match=words):
        Case("vgg").follow(curriculum)
