"""Every fast part and its plain twin agree: values, gradients, and whole training runs; generated inputs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import EVERY_PAIR as PAIRS
from toys import (
    LANGUAGE_STUDENT,
    LANGUAGE_TEACHER,
    MLP_STUDENT,
    MLP_TEACHER,
    ToyImages,
    ToyStrings,
    as_trained,
    assert_close,
    distil_cohort,
    norms,
    samples_for,
    snapshot,
    used,
)

from pwl_lab import fast
from pwl_lab.distill.curriculum import Curriculum, Labels, Stage, TeacherHidden, TeacherOutput, extracted
from pwl_lab.distill.students import SeparateCohort, make_cohort
from pwl_lab.distill.targets import Projection
from pwl_lab.fast.allocator import keep_freed_memory
from pwl_lab.fast.stacked import StackedCohort
from pwl_lab.models import TransformerConfig, build
from pwl_lab.models.mlp import MLPConfig
from pwl_lab.support.seeding import initialisation
from pwl_lab.swap.masks import all_masks
from pwl_lab.swap.pair_training import (
    FollowCurriculum,
    PairLearner,
    PairLossConfig,
    feature_distance,
    inference_teacher,
    make_boundaries,
    mixed_logits,
)
from pwl_lab.swap.swapnet import SwapNet, mask_logits
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainPlan, train

PARITY = SparseParity(n_bits=6, k_sparse=2, eval_samples=60)
TRANSFORMER = TransformerConfig(n_tokens=6, width=4, heads=2, layers=2)
STUDENTS = [(MLP_STUDENT, PARITY), (TRANSFORMER, PARITY), (LANGUAGE_STUDENT, ToyStrings())]
STUDENTS += [(LANGUAGE_STUDENT.model_copy(update={"causal": True}), ToyStrings("next"))]
MIXED = [mask for mask in all_masks(3) if len(set(mask)) == 2]


@pytest.fixture(scope="module", autouse=True)
def double_precision():
    """The twins differ by rounding: with float64 it stays out of the way."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def with_gradients(outputs, wanted):
    """The outputs, and the gradients of a number that depends on all of them."""
    loss = sum(output.square().sum() for output in outputs)
    return [*outputs, *(g for g in torch.autograd.grad(loss, wanted, allow_unused=True) if g is not None)]


def a_feature_distance(draw):
    shape = draw(st.sampled_from([(4, 3), (1, 5), (4, 3, 5), (4, 3, 2, 5)]))
    features = [torch.randn(shape).requires_grad_() for _ in range(2)]
    return with_gradients([feature_distance(*features)], features)


def linear_layers(draw):
    classes, ends = draw(st.integers(2, 6)), draw(st.sampled_from(["relu", "linear"]))
    net = build(MLPConfig(n_inputs=6, widths=(9, 5), n_classes=classes, blocks_end=ends), 0)
    inputs = torch.randn(draw(st.integers(1, 7)), 6).requires_grad_()
    states, logits = net.hidden_states(inputs)
    return with_gradients([*states, logits], [inputs, *net.parameters()])


def a_frozen_teacher(draw):
    config, _, shape = PAIRS[draw(st.sampled_from(sorted(PAIRS)))]
    teacher = used(build(config, 1), draw(st.integers(0, 9))).eval()
    with torch.no_grad():
        for norm in norms(teacher):
            norm.weight[1::3] *= draw(st.sampled_from([-1, 1]))
    inputs = samples_for(config, 3, shape)
    wanted = [inputs.requires_grad_()] if inputs.is_floating_point() else [*teacher.requires_grad_().parameters()]
    states, logits = (teacher if wanted[0] is not inputs else inference_teacher(teacher)).hidden_states(inputs)
    return with_gradients([*states, logits], wanted)


def mixed_passes(draw):
    teacher, student, shape = PAIRS[draw(st.sampled_from(sorted(PAIRS)))]
    with initialisation(0, "converters"):
        net = SwapNet(used(build(teacher, 1)), used(build(student, 2), seed=5), shape).train()
    inputs, groups = samples_for(teacher, 6, shape), draw(st.integers(1, 3))
    masks = st.tuples(st.integers(0, groups - 1), st.sampled_from(MIXED))
    wanted = draw(st.lists(masks, min_size=1, max_size=6))
    states = [owner.hidden_states(inputs)[0] for owner in (net.teacher, net.student)]
    with net.student_on_running_statistics():
        logits = mixed_logits(net, make_boundaries(net.converters, *states), wanted, groups)
    learning = [parameter for parameter in net.parameters() if parameter.requires_grad]
    return with_gradients(logits, learning)


def students_side_by_side(draw):
    config, task = draw(st.sampled_from(STUDENTS))
    cohort = make_cohort(config, draw(st.lists(st.integers(0, 5), min_size=1, max_size=3)))
    inputs, block = task.split("test").inputs[: draw(st.integers(1, 5))], draw(st.integers(1, config.n_blocks))
    ours = [*cohort.hidden_states(inputs, block, draw(st.integers(1, block))), cohort.logits(inputs)]
    torch.autograd.backward(sum(output.square().sum() for output in ours))
    cohort.clip_gradients(draw(st.sampled_from([0.1, 100.0])))
    members = range(len(cohort))
    if isinstance(cohort, SeparateCohort):
        of_members = [[parameter.grad for parameter in student.parameters()] for student in cohort.students]
    else:
        of_members = [[parameter.grad[member] for parameter in cohort.parameters()] for member in members]
    return [*ours, *(gradient for gradients in of_members for gradient in gradients)]


def projected_states(draw):
    states = torch.randn(5, 4, *draw(st.sampled_from([(), (3,), (3, 2)])))
    projection = Projection.fit(torch.randn(draw(st.integers(1, 3)), 4, 3), states)
    return [projection.matrices, projection.offsets, projection(states)]


def masks_at_test_time(draw):
    teacher, student, shape = PAIRS[draw(st.sampled_from(sorted(PAIRS)))]
    net = SwapNet(used(build(teacher, 1)), used(build(student, 2), seed=5), shape)
    masks = draw(st.lists(st.sampled_from(all_masks(3)), min_size=2, unique=True))
    return list(mask_logits(net, samples_for(teacher, 4, shape), masks).values())


TWINS = {
    "feature distance": a_feature_distance,
    "linear layers": linear_layers,
    "folded teacher": a_frozen_teacher,
    "mixed passes": mixed_passes,
    "stacked students": students_side_by_side,
    "projected states": projected_states,
    "masks at test time": masks_at_test_time,
}


@pytest.mark.parametrize("twin", TWINS)
@settings(max_examples=20)
@given(data=st.data(), seed=st.integers(0, 999))
def test_values_and_gradients_agree(twin, data, seed):
    drawn = []

    def first(strategy):
        drawn.append(data.draw(strategy))
        return drawn[-1]

    torch.manual_seed(seed)
    ours = TWINS[twin](first)
    torch.manual_seed(seed)
    again = iter(drawn)
    with fast.plain():
        expected = TWINS[twin](lambda _: next(again))
    assert len(ours) == len(expected) > 1
    for mine, plain in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-8, atol=1e-10)


ALL_KINDS = Curriculum(
    stages=(
        Stage(target=TeacherHidden(), steps=1),
        Stage(target=TeacherHidden(block=2, width=3), steps=1, trains="block"),
        Stage(target=TeacherHidden(block="all"), steps=1),
        Stage(target=TeacherOutput(at_step=10), steps=1),
        Stage(target=TeacherOutput(temperature=2.0), steps=1),
        Stage(target=Labels()),
    )
)


def distilled(kind):
    """A cohort after some steps, one at least of each kind of target."""
    config, student, task = {
        "mlp": (MLP_TEACHER, MLP_STUDENT, PARITY),
        "transformer": (TRANSFORMER, TRANSFORMER, PARITY),
        "language": (LANGUAGE_TEACHER, LANGUAGE_STUDENT, ToyStrings()),
    }[kind]
    teacher, plan = as_trained(config, checkpoints={10: 0.7}), TrainPlan(steps=8, batch_size=8, lr=0.05, clip_norm=1.0)
    result = distil_cohort(teacher, student, task, {"all": ALL_KINDS, "extracted": extracted(1)}, (0, 1), plan)
    return {f"{name} {seed} {key}": t for (name, seed), state in result.weights.items() for key, t in state.items()}


def paired(kind, curriculum):
    """Student and converters after some steps."""
    config, student, _ = PAIRS[kind]
    task = {"mlp": PARITY, "language": ToyStrings()}.get(kind, ToyImages())
    teacher = as_trained(config, checkpoints={10: 0.7})
    with initialisation(0, "converters"):
        net = SwapNet(teacher.model, build(student, 2, stream="student"), task.input_shape)
    own = curriculum and FollowCurriculum(
        curriculum, teacher, net.student.state_shapes(task.input_shape), task, 0, "cpu"
    )
    learner = PairLearner(net, PairLossConfig(freeze_norm_at=0.5), task.split("validation"), 0, 6, own)
    train(learner, task.batches(0, 8), TrainPlan(steps=6, batch_size=8, lr=0.05, clip_norm=2.0), "pair")
    return snapshot(net)


RUNS = {
    "cohort of mlps": lambda: distilled("mlp"),
    "cohort of transformers": lambda: distilled("transformer"),
    "cohort of language models": lambda: distilled("language"),
    **{f"pair of {kind}": lambda kind=kind: paired(kind, None) for kind in PAIRS},
    **{f"pair of {kind}, extracted": lambda kind=kind: paired(kind, extracted(1)) for kind in PAIRS},
}


@pytest.mark.parametrize("run", RUNS)
def test_training_on_the_plain_twins_gives_the_same_weights(run):
    ours = RUNS[run]()
    with fast.plain():
        expected = RUNS[run]()
    assert_close(ours, expected, 1e-8)


def test_inside_plain_the_plain_twins_run_and_outside_the_fast_ones():
    features = [torch.randn(2, 3).requires_grad_() for _ in range(2)]

    def kinds():
        net = build(MLP_STUDENT, 0)
        teacher = build(MLP_TEACHER, 0)
        return (
            type(make_cohort(MLP_STUDENT, [0])),
            net.blocks[0][0].weight.is_contiguous(),
            inference_teacher(teacher) is teacher,
            "Distance" in type(feature_distance(*features).grad_fn).__name__,
        )

    with fast.plain():
        assert kinds() == (SeparateCohort, True, True, False)
        assert not keep_freed_memory()
    assert kinds() == (StackedCohort, False, False, True)
    with pytest.raises(RuntimeError, match="stop"), fast.plain():
        raise RuntimeError("stop")
    assert not fast.is_plain()
