"""Cohorts: students side by side are the same as each alone; stages, waiting layers, retirement."""

from copy import deepcopy

import pandas as pd
import pytest
import torch
from torch import nn
from toys import (
    MLP_STUDENT,
    MLP_TEACHER,
    PARITY,
    PLAN,
    VGG_STUDENT,
    VGG_TEACHER,
    DropoutConfig,
    ToyImages,
    as_trained,
    assert_close,
    changed,
    distil_cohort,
    norms,
    snapshot,
)

from pwl_lab.distill import students as learner_module
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
from pwl_lab.distill.students import CurriculumLearner, SeparateCohort, make_cohort
from pwl_lab.distill.targets import Member, TeacherTargets, calibration_inputs, random_projection
from pwl_lab.fast.stacked import StackedCohort
from pwl_lab.models import build
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.training import TrainPlan, fit, train

CURRICULA = {
    "scratch": from_labels(),
    "one_shot": one_shot(2.0),
    "progressive": progressive([0.6, 0.8], steps=5),
    "extracted": extracted(steps=4),
}
OPTIMISERS = {
    "sgd": {},
    "momentum": {"momentum": 0.9, "lr": 0.01},
    "adam": {"optimiser": "adam", "lr": 0.01},
    "decay": {"momentum": 0.9, "weight_decay": 0.1, "lr": 0.01},
}


@pytest.fixture(scope="module", autouse=True)
def double_precision():
    """Rounding differs between one product for all students and one for each: with float64 it stays out of the way."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def mlp_teacher(double_precision):
    return as_trained(MLP_TEACHER, checkpoints={0: 0.5, 10: 0.65, 20: 0.9})


@pytest.fixture(scope="module")
def vgg_teacher(double_precision):
    return as_trained(VGG_TEACHER, checkpoints={0: 0.5, 10: 0.65, 20: 0.9})


def distil(teacher, curricula, seeds=(0,), plan=PLAN, **changes):
    task, student = (PARITY, MLP_STUDENT) if teacher.config.family == "mlp" else (ToyImages(), VGG_STUDENT)
    return distil_cohort(teacher, student, task, curricula, seeds, plan.model_copy(update=changes))


def assert_same_as_alone(teacher, curricula, seeds, **changes):
    together = distil(teacher, curricula, seeds, **changes)
    for name, curriculum in curricula.items():
        for seed in seeds:
            alone = distil(teacher, {name: curriculum}, [seed], **changes)
            assert_close(together.weights[name, seed], alone.weights[name, seed], 1e-9)
            rows = together.history.query("curriculum == @name and seed == @seed")
            assert rows["accuracy"].tolist() == pytest.approx(alone.history["accuracy"].tolist())
            assert rows["step"].tolist() == alone.history["step"].tolist()


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("name", CURRICULA)
def test_students_of_one_curriculum_are_as_if_each_were_alone(mlp_teacher, name, optimiser):
    assert_same_as_alone(mlp_teacher, {name: CURRICULA[name]}, [0, 1, 5], **OPTIMISERS[optimiser])


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_students_of_all_curricula_are_as_if_each_were_alone(mlp_teacher, optimiser):
    assert_same_as_alone(mlp_teacher, CURRICULA, [0, 1], **OPTIMISERS[optimiser])


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_students_with_batch_norm_are_as_if_each_were_alone(vgg_teacher, optimiser):
    assert_same_as_alone(vgg_teacher, CURRICULA, [0], **OPTIMISERS[optimiser])


@pytest.mark.parametrize("teacher", ["mlp_teacher", "vgg_teacher"])
def test_clipping_goes_by_each_students_own_gradient(request, teacher):
    curricula = {name: CURRICULA[name] for name in ("scratch", "one_shot")}
    assert_same_as_alone(request.getfixturevalue(teacher), curricula, [0, 1], clip_norm=0.05)


def test_students_with_dropout_are_as_if_each_were_alone_whatever_else_is_drawn(mlp_teacher):
    def trained(curricula, seeds):
        torch.rand(len(curricula) + len(seeds))
        return distil_cohort(mlp_teacher, DropoutConfig(width=5), PARITY, curricula, seeds, PLAN).weights

    together = trained(CURRICULA, [0, 3])
    for (name, seed), weights in together.items():
        assert_close(weights, trained({name: CURRICULA[name]}, [seed])[name, seed], 1e-9)
    assert len(together) == 2 * len(CURRICULA)


def test_kind_of_cohort_goes_by_batch_norm():
    assert isinstance(make_cohort(MLP_STUDENT, [0]), StackedCohort)
    assert isinstance(make_cohort(VGG_STUDENT, [0]), SeparateCohort)


def test_stacked_and_separate_give_what_each_student_gives():
    students = [build(MLP_STUDENT, seed) for seed in (0, 1, 2)]
    inputs = torch.randn(5, 6)
    for cohort in (StackedCohort(students), SeparateCohort(students)):
        states, logits = cohort.hidden_states(inputs, 3), cohort.logits(inputs)
        assert len(cohort) == len(logits) == 3
        for member, student in enumerate(students):
            expected, expected_logits = student.hidden_states(inputs)
            torch.testing.assert_close(logits[member], expected_logits)
            for block, state in enumerate(expected):
                torch.testing.assert_close(states[block][member], state)
            assert changed(cohort.state(member), snapshot(student)) == set()


@pytest.mark.parametrize("kind", [StackedCohort, SeparateCohort])
def test_a_cohort_leaves_the_students_it_was_made_of_alone(kind):
    students = [build(MLP_STUDENT, seed) for seed in (0, 1)]
    before = [snapshot(student) for student in students]
    cohort = kind(students)
    for parameter in cohort.parameters():
        nn.init.zeros_(parameter)
    assert [changed(a, snapshot(b)) for a, b in zip(before, students, strict=True)] == [set(), set()]


def learner_of(cohort, teacher, task, members, plan=PLAN):
    targets = TeacherTargets(teacher, members, MLP_STUDENT.make().state_shapes(task.input_shape))
    targets.calibrate(calibration_inputs(task, 0, "cpu"))
    return CurriculumLearner(cohort, members, targets, task.split("test"), plan)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_stacked_and_separate_learn_the_same(mlp_teacher, optimiser):
    members = [Member(name, seed, CURRICULA[name].for_blocks(3)) for name in CURRICULA for seed in (0, 1)]
    students = [build(MLP_STUDENT, member.seed) for member in members]
    plan, ends = PLAN.model_copy(update=OPTIMISERS[optimiser]), []
    for kind in (StackedCohort, SeparateCohort):
        learner = learner_of(kind(students), mlp_teacher, PARITY, members, plan)
        train(learner, PARITY.batches(0, 8), plan, "cohort")
        ends.append(learner.weights())
    assert len(ends[0]) == len(members)
    for who in ends[0]:
        assert_close(ends[0][who], ends[1][who])


def test_losses_against_each_targets_definition(mlp_teacher):
    hidden = TeacherHidden(block=2, weight=3.0)
    stages = [Labels(), TeacherOutput(temperature=2.0), TeacherOutput(at_step=10), hidden, TeacherOutput(temperature=0)]
    members = [Member(str(n), n, Curriculum(stages=(Stage(target=t),))) for n, t in enumerate(stages)]
    students = [build(MLP_STUDENT, member.seed) for member in members]
    learner = learner_of(StackedCohort(students), mlp_teacher, PARITY, members)
    batch = next(PARITY.batches(0, 8))
    terms = learner.losses(batch, 0)

    final, early = mlp_teacher.model(batch.inputs), mlp_teacher.at(mlp_teacher.checkpoints[1])(batch.inputs)
    expected = []
    for student, wanted in zip(students, (None, final / 2, early, None, None), strict=True):
        probabilities = None if wanted is None else wanted.softmax(dim=1)
        expected.append(nn.functional.cross_entropy(student(batch.inputs), batch.labels, reduction="mean"))
        if probabilities is not None:
            expected[-1] = nn.functional.cross_entropy(student(batch.inputs), probabilities)
    expected[4] = nn.functional.cross_entropy(students[4](batch.inputs), final.argmax(dim=1))

    matrix = random_projection(MLP_TEACHER.widths[1], MLP_STUDENT.widths[1], seed=3, block=2)
    calibration = mlp_teacher.model.hidden_states(calibration_inputs(PARITY, 0, "cpu"))[0][1] @ matrix
    deviation = (calibration - calibration.mean(dim=0)).square().mean().sqrt()
    theirs = (mlp_teacher.model.hidden_states(batch.inputs)[0][1] @ matrix - calibration.mean(dim=0)) / deviation
    ours = students[3].hidden_states(batch.inputs)[0][1]
    expected[3] = 3.0 * (ours - theirs).square().mean()

    values = torch.stack(expected)
    assert terms["labels"].item() == pytest.approx(values[0].item())
    assert terms["output"].item() == pytest.approx(values[[1, 2, 4]].mean().item())
    assert terms["hidden"].item() == pytest.approx(values[3].item())
    assert terms["total"].item() == pytest.approx(values.sum().item())


def test_targets_keep_the_positions_of_images(vgg_teacher):
    # a student state that equals the projected teacher state, position by position, has no loss
    members = [Member("x", 0, extracted(steps=4, blocks=[1]))]
    targets = TeacherTargets(vgg_teacher, members, VGG_STUDENT.make().state_shapes((1, 7, 7)))
    targets.calibrate(calibration_inputs(ToyImages(), 0, "cpu"))
    (projection,) = targets.projections.values()
    state = vgg_teacher.model.hidden_states(ToyImages().split("test").inputs)[0][0]
    wanted = projection(state)
    assert wanted.shape == (1, 60, VGG_STUDENT.channels[0], 4, 4)
    moved = projection(state.flip(-1))
    torch.testing.assert_close(moved, wanted.flip(-1))


def marks_that_some_reach(history):
    """A validation accuracy that some students reach before the end and others never, and who does."""
    best = history[history["step"] > 0].groupby(["curriculum", "seed"])["validation_accuracy"].max().sort_values()
    mark = best.iloc[len(best) // 2]
    assert best.iloc[0] < mark
    return mark, set(best[best >= mark].index)


@pytest.mark.parametrize("optimiser", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("teacher", ["mlp_teacher", "vgg_teacher"])
def test_retiring_students_do_not_change_the_others(request, teacher, optimiser):
    curricula = {name: CURRICULA[name] for name in ("scratch", "one_shot")}
    changes = {"steps": 30, "eval_every": 3} | OPTIMISERS[optimiser]
    teacher, seeds = request.getfixturevalue(teacher), (0, 1, 2)
    free = distil(teacher, curricula, seeds, **changes)
    mark, retired = marks_that_some_reach(free.history)
    stopped = distil(teacher, curricula, seeds, stop_at=float(mark), **changes)
    for who, state in free.weights.items():
        full = free.history.set_index(["curriculum", "seed"]).loc[who]
        rows = stopped.history.set_index(["curriculum", "seed"]).loc[[who]]
        if who in retired:
            first = full[(full["step"] > 0) & (full["validation_accuracy"] >= mark)]["step"].min()
            assert rows["step"].max() == first
            assert rows["validation_accuracy"].iloc[-1] >= mark
            alone = distil(teacher, {who[0]: curricula[who[0]]}, [who[1]], **changes | {"steps": int(first)})
            assert_close(stopped.weights[who], alone.weights[who[0], who[1]])
        else:
            assert rows["step"].tolist() == full["step"].tolist()
            assert rows["accuracy"].tolist() == pytest.approx(full["accuracy"].tolist())
            assert_close(stopped.weights[who], state)


def test_a_student_retires_in_its_last_stage_only(mlp_teacher):
    curricula = {"one_shot": one_shot(), "extracted": extracted(steps=3, blocks=[1])}
    history = distil(mlp_teacher, curricula, steps=12, eval_every=1, stop_at=0.0).history
    assert history.groupby("curriculum")["step"].max().to_dict() == {"one_shot": 1, "extracted": 4}


def test_a_stage_that_comes_again_is_counted_as_the_later_one(mlp_teacher):
    again = Stage(target=TeacherOutput(), steps=4)
    curriculum = Curriculum(stages=(again, Stage(target=Labels(), steps=4), again))
    free = distil(mlp_teacher, {"again": curriculum}, steps=12, eval_every=2)
    assert free.history["stage"].tolist() == [1, 1, 1, 2, 2, 3, 3]
    stopped = distil(mlp_teacher, {"again": curriculum}, steps=12, eval_every=2, stop_at=0.0)
    assert stopped.history["step"].max() == 10


def after(teacher, curriculum, steps, **changes):
    return distil(teacher, {"x": curriculum, "y": one_shot()}, steps=steps, **changes).weights["x", 0]


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("teacher", ["mlp_teacher", "vgg_teacher"])
def test_first_stage_of_extracted_leaves_what_lies_above_as_it_was(request, teacher, optimiser):
    teacher, changes = request.getfixturevalue(teacher), OPTIMISERS[optimiser]
    student = MLP_STUDENT if teacher.config.family == "mlp" else VGG_STUDENT
    begun = build(student, 0, stream="student")
    parameters = {name for name, _ in begun.named_parameters()}
    ended = after(teacher, extracted(steps=6, blocks=[1]), steps=6, **changes)
    assert changed(snapshot(begun), ended) & parameters == {n for n in parameters if n.startswith("blocks.0.")}
    further = after(teacher, extracted(steps=6, blocks=[1]), steps=7, **changes)
    assert {name for name in parameters if name.startswith("head.")} <= changed(ended, further)


ONE_BLOCK_AT_A_TIME = Curriculum(
    stages=(Stage(target=TeacherHidden(), steps=5, trains="block"), Stage(target=TeacherOutput()))
)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("teacher", ["mlp_teacher", "vgg_teacher"])
def test_training_one_block_leaves_the_blocks_below_bit_for_bit(request, teacher, optimiser):
    teacher, changes = request.getfixturevalue(teacher), OPTIMISERS[optimiser]
    ends = [after(teacher, ONE_BLOCK_AT_A_TIME, steps, **changes) for steps in (5, 10, 15, 16)]
    for stage, (before, now) in enumerate([(ends[0], ends[1]), (ends[1], ends[2])], start=1):
        moved = {name for name in changed(before, now) if "running" not in name and "tracked" not in name}
        assert {name.split(".")[1] for name in moved if name.startswith("blocks.")} >= {str(stage)}
        assert not {name for name in moved if name.startswith("blocks.") and int(name.split(".")[1]) < stage}
    assert {"blocks.0", "blocks.1", "blocks.2"} <= {".".join(n.split(".")[:2]) for n in changed(ends[2], ends[3])}


def test_training_one_block_leaves_the_statistics_of_the_blocks_below(vgg_teacher):
    before, now = (after(vgg_teacher, ONE_BLOCK_AT_A_TIME, steps) for steps in (5, 10))
    assert not {name for name in changed(before, now) if name.startswith("blocks.0.")}


def test_reaching_a_block_trains_the_blocks_below_too(mlp_teacher):
    before, now = (after(mlp_teacher, extracted(steps=5), steps) for steps in (5, 10))
    assert {".".join(name.split(".")[:2]) for name in changed(before, now)} == {"blocks.0", "blocks.1"}


def test_same_seed_begins_with_the_same_weights_in_every_curriculum(mlp_teacher):
    cohort = make_cohort(MLP_STUDENT, [0, 1, 0])
    assert changed(cohort.state(0), cohort.state(2)) == set()
    assert changed(cohort.state(0), cohort.state(1)) == set(cohort.state(0))
    assert changed(cohort.state(1), snapshot(build(MLP_STUDENT, 1, stream="student"))) == set()
    begun = distil(mlp_teacher, CURRICULA, [0, 1]).history.query("step == 0")
    assert begun.groupby("seed")["accuracy"].nunique().tolist() == [1, 1]


def test_same_seeds_same_numbers(mlp_teacher):
    first, again = (distil(mlp_teacher, CURRICULA, [0, 1]) for _ in range(2))
    pd.testing.assert_frame_equal(first.history, again.history, check_exact=True)
    assert all(changed(first.weights[who], again.weights[who]) == set() for who in first.weights)


def test_history_and_stage_tables(mlp_teacher):
    result = distil(mlp_teacher, CURRICULA, [0, 3])
    history = result.history
    terms = ["loss_hidden", "loss_labels", "loss_output", "loss_total"]
    known = {"step", "samples", "curriculum", "seed", "stage", "accuracy", "validation_accuracy"}
    assert set(history.columns) == known | set(terms)
    assert len(history) == 5 * 4 * 2
    assert (history["samples"] == 8 * history["step"]).all()
    assert sorted(history["step"].unique()) == [0, 6, 12, 18, 24]
    stages = history.query("seed == 3").groupby("curriculum")["stage"].agg(list).to_dict()
    assert stages == {
        "scratch": [1] * 5,
        "one_shot": [1] * 5,
        "progressive": [1, 2, 3, 3, 3],
        "extracted": [1, 2, 3, 4, 4],  # row 6: after step 6, the second block's
    }
    assert set(result.weights) == {(name, seed) for name in CURRICULA for seed in (0, 3)}
    rows = result.stages.query("curriculum == 'extracted'")
    assert rows["start"].tolist() == [0, 4, 8, 12]
    words = ["block 1, projected", "block 2, projected", "block 3, projected", "final output"]
    assert rows["target"].tolist() == words
    assert len(result.stages) == 1 + 1 + 3 + 4


def test_accuracy_in_the_history_is_the_students_on_the_test_split(mlp_teacher):
    result = distil(mlp_teacher, CURRICULA, [1])
    test = PARITY.split("test")
    for name in CURRICULA:
        net = MLP_STUDENT.make()
        net.load_state_dict(result.weights[name, 1])
        value = (net(test.inputs).argmax(dim=1) == test.labels).double().mean().item()
        last = result.history.query("curriculum == @name and step == 24")["accuracy"].item()
        assert last == pytest.approx(value)


@pytest.mark.parametrize(
    ("curriculum", "words"),
    [
        (progressive([0.95], steps=2), r"at_accuracy = 0.95 .*0 \(50.0%\), 10 \(65.0%\), 20 \(90.0%\)"),
        (Curriculum(stages=(Stage(target=TeacherOutput(at_step=5)),)), r"at_step = 5 .*0 \(50.0%\), 10"),
        (extracted(steps=2, blocks=[4]), r"block = 4 .*from 1 to 3"),
    ],
)
def test_what_the_teacher_has_not_is_refused_before_training(mlp_teacher, monkeypatch, curriculum, words):
    monkeypatch.setattr(learner_module, "train", lambda *_: pytest.fail("training began"))
    with pytest.raises(InvalidValueError, match=words):
        distil(mlp_teacher, {"good": one_shot(), "bad": curriculum})


def test_the_teacher_is_left_alone(vgg_teacher):
    before = snapshot(vgg_teacher.model)
    modes = [module.training for module in vgg_teacher.model.modules()]
    distil(vgg_teacher, CURRICULA, momentum=0.9)
    assert changed(before, snapshot(vgg_teacher.model)) == set()
    assert [module.training for module in vgg_teacher.model.modules()] == modes
    assert all(parameter.grad is None for parameter in vgg_teacher.model.parameters())


def test_students_with_batch_norm_are_measured_on_their_running_statistics(vgg_teacher):
    result = distil(vgg_teacher, {"one_shot": one_shot()})
    net = VGG_STUDENT.make()
    net.load_state_dict(result.weights["one_shot", 0])
    assert {int(norm.num_batches_tracked) for norm in norms(net)} == {PLAN.steps}
    test = ToyImages().split("test")
    value = (net.eval()(test.inputs).argmax(dim=1) == test.labels).double().mean().item()
    assert result.history["accuracy"].iloc[-1] == pytest.approx(value)


def test_students_learn_from_a_teacher_that_knows():
    teacher = fit(MLP_TEACHER, PARITY, TrainPlan(steps=400, batch_size=32, lr=0.3), seed=0)
    assert teacher.test_accuracy > 0.95
    curricula = {name: CURRICULA[name] for name in ("one_shot", "extracted")}
    result = distil(teacher, curricula, plan=TrainPlan(steps=500, batch_size=32, lr=0.3, eval_every=500))
    assert result.history.query("step == 500")["accuracy"].min() > 0.9


RECKLESS = Curriculum(stages=(Stage(target=TeacherHidden(block=1, weight=1.7e308), steps=9), *one_shot().stages))


@pytest.mark.parametrize("teacher", ["mlp_teacher", "vgg_teacher"])
def test_a_student_that_diverges_is_named_and_leaves_the_others_alone(request, teacher):
    teacher = request.getfixturevalue(teacher)
    with pytest.warns(UserWarning, match=r"reckless, seed 1: diverged by step \d+ .*lr.*clip_norm"):
        result = distil(teacher, {"one_shot": one_shot(), "reckless": RECKLESS}, [1], eval_every=1)
    alone = distil(teacher, {"one_shot": one_shot()}, [1], eval_every=1)
    assert set(result.weights) == {("one_shot", 1)}
    assert_close(result.weights["one_shot", 1], alone.weights["one_shot", 1], 1e-9)
    rows = result.history.query("curriculum == 'one_shot'")
    assert rows["accuracy"].tolist() == alone.history["accuracy"].tolist()
    gone = result.history.query("curriculum == 'reckless'")
    assert gone["accuracy"].isna().tolist() == [False] * (len(gone) - 1) + [True]
    assert gone["step"].max() < PLAN.steps


def test_keep_moves_the_optimisers_state_with_its_student():
    students = [build(MLP_STUDENT, seed) for seed in range(4)]
    for kind in (StackedCohort, SeparateCohort):
        cohort = kind(students)
        optimiser = torch.optim.Adam(cohort.parameters(), lr=0.1)
        cohort.logits(torch.randn(5, 6)).square().sum().backward()
        optimiser.step()
        full = deepcopy(cohort)
        buffers = [optimiser.state[p]["exp_avg"].clone() for p in cohort.parameters()]
        cohort.keep([3, 1], optimiser)
        assert len(cohort) == 2
        assert [changed(cohort.state(new), full.state(old)) for new, old in ((0, 3), (1, 1))] == [set(), set()]
        kept = [optimiser.state[p]["exp_avg"] for p in cohort.parameters()]
        n = len(buffers) // 4
        expected = (
            [b[[3, 1]] for b in buffers] if kind is StackedCohort else buffers[3 * n : 4 * n] + buffers[n : 2 * n]
        )
        assert all(torch.equal(a, b) for a, b in zip(kept, expected, strict=True))
        assert len(optimiser.state) == len(kept)
