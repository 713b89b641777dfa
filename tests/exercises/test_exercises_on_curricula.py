"""The checks of the exercises to 00 to 03 and 08: what a reader might well answer, right or wrong, and what is said to it."""

import inspect
from math import pi, prod, sqrt

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot, scaled_dot_product_attention

from pwl_lab.distill.curriculum import Labels, Stage, TeacherHidden, TeacherOutput, extracted, one_shot, progressive
from pwl_lab.distill.probes import monomials
from pwl_lab.exercises import (
    distillation_curricula,
    parity_transformer,
    sample_complexity,
    sparse_parity_teacher,
    start_here,
)
from pwl_lab.study.intervals import slope_interval
from pwl_lab.support.errors import ExerciseError


def covariance(values, inputs, subsets):
    products = monomials(inputs, torch.tensor(subsets))
    return ((values - values.mean()).unsqueeze(1) * (products - products.mean(dim=0))).mean(dim=0)


def signed(values, inputs, subsets):
    return torch.stack(
        [torch.corrcoef(torch.stack([values, inputs[:, s].prod(dim=1)]))[0, 1] for s in map(list, subsets)]
    )


def three(one=None, two=None, extract=None):
    """The right stages, or those given in their place."""

    def answer(at_accuracy, steps):
        final = Stage(target=TeacherOutput(temperature=0))
        checkpoint = Stage(target=TeacherOutput(at_accuracy=at_accuracy, temperature=0), steps=steps)
        blocks = [Stage(target=TeacherHidden(block=block), steps=steps) for block in (1, 2)]
        parts = {"final": final, "checkpoint": checkpoint, "first": blocks[0], "second": blocks[1]}
        parts |= {"long": final.model_copy(update={"steps": steps}), "soft": Stage(target=TeacherOutput())}
        parts |= {"open": Stage(target=TeacherHidden(block=1)), "labels": Stage(target=Labels())}
        named = {"one_shot": one or "final", "progressive": two or "checkpoint final"}
        named["extracted"] = extract or "first second final"
        return {name: [parts[part] for part in words.split()] for name, words in named.items()}

    return answer


def mine(words, ignore=False):
    """The stages of the custom curriculum, those named, in this order."""

    def answer(at_accuracy, steps, temperature=0.0):
        says = {} if ignore else {"temperature": temperature}
        stages = {
            "hidden": Stage(target=TeacherHidden(), steps=steps),
            "first": Stage(target=TeacherHidden(block=1), steps=steps),
            "second": Stage(target=TeacherHidden(block=2), steps=steps),
            "checkpoint": Stage(target=TeacherOutput(at_accuracy=at_accuracy, **says), steps=steps),
            "final": Stage(target=TeacherOutput(**says)),
        }
        return [stages[word] for word in words.split()]

    return answer


def centred(raw):
    return raw - raw.mean(dim=0)


def medians(points):
    return np.array([np.median(points[n]) for n in sorted(points)])


def logs(points):
    return np.log(sorted(points))


def means_slope(points):
    return np.polyfit(logs(points), np.log([np.mean(points[n]) for n in sorted(points)]), 1)[0]


def step(x, t, w, b):
    return (t * (x @ w.T + b > 0)).T @ x / len(x)


WRONG = [
    (start_here.label, lambda row, s: sum(row[i] for i in s), "sum"),
    (start_here.label, lambda row, s: 1 if sum(row[i] for i in s) > 0 else -1, "majority"),
    (start_here.label, lambda row, s: prod(row), "all signs"),
    (start_here.label, lambda row, s: prod(row[i - 1] for i in s), "places from 1"),
    (start_here.label, lambda row, s: int(prod(row[i] for i in s) > 0), "1 and 0"),
    (start_here.label, lambda row, s: prod(row[i + 1] for i in s) and row[9], "IndexError"),
    (start_here.prefix_order, lambda n: ["S" * (n - k) + "T" * k for k in range(n + 1)], "suffix"),
    (start_here.prefix_order, lambda n: ["T" * k + "S" * (n - k) for k in range(n)], "last mask is missing"),
    (start_here.prefix_order, lambda n: ["T" * k + "S" * (n - k) for k in range(1, n + 1)], "first mask is missing"),
    (start_here.prefix_order, lambda n: ["T" * (n - k) + "S" * k for k in range(n + 1)], "backwards"),
    (start_here.prefix_order, lambda n: ["S" * k + "T" * (n - k) for k in range(n + 1)], "T and S are swapped"),
    (start_here.waits, lambda s, t, r: (s / r / 1e6, t / r / 1e6, t / r / 1e6), "on top"),
    (start_here.waits, lambda s, t, r: (s / r / 2**20, (s + t) / r / 2**20, t / r / 2**20), "2\\^20"),
    (start_here.waits, lambda s, t, r: (s / r, (s + t) / r, t / r), "counts megabytes"),
    (start_here.waits, lambda s, t, r: (s / r / 1e6, (s + t) / r / 1e6), "shape"),
    (sparse_parity_teacher.monomial, lambda x, s: x[:, list(s)].sum(dim=1), "sum of the bits"),
    (sparse_parity_teacher.monomial, lambda x, s: x.prod(dim=1), "all bits"),
    (sparse_parity_teacher.monomial, lambda x, s: x[list(s)].prod(dim=0), "takes rows"),
    (sparse_parity_teacher.monomial, lambda x, s: x[:, list(s)].prod(dim=1, keepdim=True), "dimension of length 1"),
    (sparse_parity_teacher.monomial, lambda x, s: x[:, list(s)].prod(dim=0), "over the batch"),
    (sparse_parity_teacher.monomial, lambda x, s: x[:, list(s)].prod(), "shape"),
    (sparse_parity_teacher.mean_correlation, lambda v, x, s: signed(v, x, s).mean(), "different sign"),
    (sparse_parity_teacher.mean_correlation, lambda v, x, s: signed(v, x, s).mean().abs(), "different sign"),
    (sparse_parity_teacher.mean_correlation, lambda v, x, s: covariance(v, x, s).abs().mean(), "covariance"),
    (
        sparse_parity_teacher.mean_correlation,
        lambda v, x, s: (v.unsqueeze(1) * monomials(x, torch.tensor(s))).mean(dim=0).abs().mean() / v.std(),
        "not centred",
    ),
    (sparse_parity_teacher.mean_correlation, lambda v, x, s: signed(v, x, s).abs(), "shape"),
    (sparse_parity_teacher.samples_for, lambda floor: 1 / floor**2, "2 / pi"),
    (sparse_parity_teacher.samples_for, lambda floor: 2 / (pi * floor), "four times"),
    (sparse_parity_teacher.samples_for, lambda floor: sqrt(2 / pi) / floor, "square root"),
    (distillation_curricula.three_curricula, three(one="soft"), "hard decisions"),
    (distillation_curricula.three_curricula, three(one="long"), "needs no length"),
    (distillation_curricula.three_curricula, three(one="labels"), "not the right answer"),
    (distillation_curricula.three_curricula, three(two="final"), "checkpoint is missing"),
    (distillation_curricula.three_curricula, three(two="checkpoint"), "final output is missing"),
    (distillation_curricula.three_curricula, three(two="final checkpoint"), "do not form a curriculum: .*no length"),
    (distillation_curricula.three_curricula, three(extract="second first final"), "shallow to deep"),
    (distillation_curricula.three_curricula, three(extract="first final"), "block 2 is missing"),
    (distillation_curricula.three_curricula, three(extract="first second"), "final output is missing"),
    (distillation_curricula.three_curricula, three(extract="open second final"), "no length"),
    (distillation_curricula.three_curricula, lambda a, s: {"one-shot": one_shot(0)}, "names are wrong"),
    (distillation_curricula.three_curricula, lambda a, s: [one_shot(0)], "names are wrong"),
    (distillation_curricula.extract_then_checkpoint, mine("checkpoint hidden final"), "checkpoint should come after"),
    (distillation_curricula.extract_then_checkpoint, mine("hidden final"), "checkpoint is missing"),
    (distillation_curricula.extract_then_checkpoint, mine("checkpoint final"), "hidden layer is missing"),
    (distillation_curricula.extract_then_checkpoint, mine("hidden checkpoint"), "final output is missing"),
    (distillation_curricula.extract_then_checkpoint, mine("first checkpoint final"), "block 2 is missing"),
    (distillation_curricula.extract_then_checkpoint, mine("hidden checkpoint final", ignore=True), "not passed on"),
    (distillation_curricula.extract_then_checkpoint, lambda a, s, t: extracted(s), "not a list of stages"),
    (distillation_curricula.projected_target, lambda h, p: h @ p, "neither"),
    (distillation_curricula.projected_target, lambda h, p: centred(h @ p), "not scaled"),
    (distillation_curricula.projected_target, lambda h, p: centred(h @ p) / (h @ p).std(dim=0), "its own factor"),
    (distillation_curricula.projected_target, lambda h, p: h @ p / (h @ p).std(), "not centred"),
    (
        distillation_curricula.projected_target,
        lambda h, p: (h @ p - (h @ p).mean()) / (h @ p).std(),
        "one mean for all units",
    ),
    (distillation_curricula.projected_target, lambda h, p: p @ h, "RuntimeError"),
    (distillation_curricula.teacher_says, lambda z, t: (z * t).softmax(dim=1), "divide by it"),
    (distillation_curricula.teacher_says, lambda z, t: (z / t).softmax(dim=1), "treat temperature 0 separately"),
    (distillation_curricula.teacher_says, lambda z, t: (z / t).softmax(dim=0), "over the batch"),
    (distillation_curricula.teacher_says, lambda z, t: z.softmax(dim=1), "not used"),
    (
        distillation_curricula.teacher_says,
        lambda z, t: (z / t).softmax(dim=1) if t else z.argmax(dim=1),
        "index of the decision",
    ),
    (parity_transformer.tokens, lambda x, e, p: x.unsqueeze(-1) * e + p, "tokens in dimension 1"),
    (parity_transformer.tokens, lambda x, e, p: (x.unsqueeze(-1) * (e + p)).mT, "positions are multiplied"),
    (parity_transformer.tokens, lambda x, e, p: (x.unsqueeze(-1) * e).mT, "positions are missing"),
    (parity_transformer.tokens, lambda x, e, p: (x.unsqueeze(-1) * e + p).reshape(5, 3, 4), "reshape"),
    (parity_transformer.attention, lambda q, k, v: (q @ k.mT).softmax(dim=-1) @ v, "not scaled"),
    (parity_transformer.attention, lambda q, k, v: (q @ k.mT / 4).softmax(dim=-1) @ v, "not by its square root"),
    (parity_transformer.attention, lambda q, k, v: (q @ k.mT / 2).softmax(dim=1) @ v, "over the queries"),
    (parity_transformer.attention, lambda q, k, v: (q @ k.mT / 2).softmax(dim=2), "mix the values"),
    (parity_transformer.project_tokens, lambda h, p: h.mT @ p, "tokens in dimension 1"),
    (parity_transformer.project_tokens, lambda h, p: h.mean(dim=2) @ p, "mean over the tokens"),
    (parity_transformer.project_tokens, lambda h, p: (h.mT @ p).reshape(3, 2, 5), "reshape"),
    (sample_complexity.slope, lambda p: np.polyfit(sorted(p), medians(p), 1)[0], "no logarithms"),
    (sample_complexity.slope, lambda p: np.polyfit(sorted(p), np.log(medians(p)), 1)[0], "only the steps"),
    (sample_complexity.slope, lambda p: np.polyfit(np.log(medians(p)), logs(p), 1)[0], "swap the axes"),
    (sample_complexity.slope, lambda p: np.polyfit(logs(p), np.log(medians(p)), 1)[1], "intercept"),
    (sample_complexity.slope, means_slope, "take medians"),
    (sample_complexity.interval, lambda p: slope_interval(p)[::-2], "upper end before"),
    (sample_complexity.interval, lambda p: slope_interval(p), "two values"),
    (sample_complexity.interval, lambda p: [slope_interval(p)[1]] * 2, "no width"),
    (sample_complexity.interval, lambda p: slope_interval(p, confidence=0.5)[::2], "middle half"),
    (sample_complexity.interval, lambda p: (0.0, 9.0), "not the ends"),
    (sample_complexity.one_step, lambda x, t, w, b: t.T @ x / len(x), "only those count at which a unit is active"),
    (sample_complexity.one_step, lambda x, t, w, b: -step(x, t, w, b), "this is the gradient"),
    (sample_complexity.one_step, lambda x, t, w, b: step(x, t, w, 0), "the bias is missing"),
    (sample_complexity.one_step, lambda x, t, w, b: step(x, t, w, b) * len(x), "this is the sum"),
    (sample_complexity.one_step, lambda x, t, w, b: (t * (x @ w.T + b).relu()).T @ x / len(x), "the ReLU's value"),
    (
        sample_complexity.one_step,
        lambda x, t, w, b: step(x, t, w, b) * len(x) / (x @ w.T + b > 0).sum(dim=0)[:, None],
        "divide by the size of the batch",
    ),
    (sample_complexity.one_step, lambda x, t, w, b: step(x, t, w, b).T, "bits, units"),
]


@pytest.mark.parametrize(("check", "answer", "says"), WRONG, ids=[f"{c.__name__}: {says}" for c, _, says in WRONG])
def test_a_wrong_answer_is_refused_and_its_mistake_named(check, answer, says):
    with pytest.raises(ExerciseError, match=says) as refused:
        check(answer)
    assert "hint: " in str(refused.value)


RIGHT = [
    (start_here.label, lambda row, s: int(np.prod([row[i] for i in s]))),
    (start_here.waits, lambda s, t, r: np.array([s, s + t, t]) / r / 1e6),
    (sparse_parity_teacher.monomial, lambda x, s: np.prod(x.numpy()[:, list(s)], axis=1)),
    (sparse_parity_teacher.mean_correlation, lambda v, x, s: (covariance(v, x, s) / v.std()).abs().mean() * 1.002),
    (sparse_parity_teacher.samples_for, lambda floor: int(2 / pi / floor**2) + 1),
    (
        distillation_curricula.three_curricula,
        lambda a, s: {
            "one_shot": one_shot(0).stages,
            "progressive": progressive([a], s, 0).stages,
            "extracted": extracted(s, temperature=0).stages,
        },
    ),
    (distillation_curricula.three_curricula, three()),
    (distillation_curricula.extract_then_checkpoint, mine("hidden checkpoint final")),
    (distillation_curricula.extract_then_checkpoint, mine("first second checkpoint final")),
    (distillation_curricula.projected_target, lambda h, p: centred(h @ p) / centred(h @ p).std()),
    (
        distillation_curricula.teacher_says,
        lambda z, t: (z / t).softmax(dim=1) if t else one_hot(z.argmax(dim=1), 2),
    ),
    (parity_transformer.attention, scaled_dot_product_attention),
    (sample_complexity.interval, lambda p: np.array(slope_interval(p))[[0, 2]]),
]


@pytest.mark.parametrize(("check", "answer"), RIGHT, ids=[check.__name__ for check, _ in RIGHT])
def test_another_way_to_write_the_right_answer_passes(check, answer):
    assert check(answer).startswith("Right")


def test_every_check_has_a_wrong_answer_here():
    for module in (distillation_curricula, parity_transformer, sample_complexity, sparse_parity_teacher, start_here):
        checks = {name for name, value in vars(module).items() if inspect.isfunction(value) and name[0] != "_"}
        own = {name for name in checks if vars(module)[name].__module__ == module.__name__}
        assert own <= {check.__name__ for check, _, _ in WRONG}
