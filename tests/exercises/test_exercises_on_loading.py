"""The checks of the exercises to 04 to 06: what a reader might well answer, right or wrong, and what is said to it."""

import inspect
from itertools import pairwise, permutations

import numpy as np
import pandas as pd
import pytest
import torch
from bundles import bundle_of, pair_of
from scipy.stats import t as student

from pwl_lab.benchmarks import accuracy as timeline
from pwl_lab.exercises import curricula_meet_loading, loading_under_the_clock, progressive_weight_loading
from pwl_lab.exercises.checking import sync_loss
from pwl_lab.loading.throttle import Throttle
from pwl_lab.study.intervals import mean_interval
from pwl_lab.support.errors import ExerciseError
from pwl_lab.swap.orders import arrivals, masks_on_the_way, search_order
from pwl_lab.swap.pair_training import feature_distance


def named(mask, first=1, swapped=False, everywhere=False):
    """The converters of a mask; with options that go wrong."""
    found = []
    for boundary, (before, after) in enumerate(pairwise(mask), start=first):
        if before != after or everywhere:
            found.append(f"{'encoder' if (before == 'T') != swapped else 'decoder'} {boundary}")
    return found


def sync(distance=feature_distance, boundaries=2, encoded=True, decoded=True, total=torch.mean):
    """The sync loss; with options that go wrong."""

    def answer(teacher, student, encode, decode):
        terms = []
        for i in range(1, boundaries + 1):
            term = distance(encode(teacher[i - 1], i), student[i - 1]) if encoded else 0
            terms.append(term + (distance(decode(student[i - 1], i), teacher[i - 1]) if decoded else 0))
        return total(torch.stack(terms))

    return answer


def by_position(a, b):
    return (a - b).square().mean() + 1 - torch.cosine_similarity(a, b, dim=1).mean()


def tried(later=0, pick=max, equal=False):
    """The best of all orders; with options that go wrong."""

    def answer(accuracy, sizes):
        def area(order):
            masks = masks_on_the_way(order)
            return sum(accuracy[masks[k + later]] * (1 if equal else sizes[block - 1]) for k, block in enumerate(order))

        return pick(permutations(range(1, len(sizes) + 1)), key=area)

    return answer


def greedy(accuracy, sizes):
    order = []
    while len(order) < len(sizes):
        left = [block for block in range(1, len(sizes) + 1) if block not in order]
        order.append(
            max(
                left,
                key=lambda b: accuracy["".join("T" if i in [*order, b] else "S" for i in range(1, len(sizes) + 1))],
            )
        )
    return order


def run(convert, head=-1):
    """A mixed network with converters as told."""

    def answer(net, inputs, mask):
        state = net.enter(inputs, mask[0])
        for i in range(1, len(mask)):
            state = convert(net.converters, state, i, mask[i - 1 : i + 1])
            state = net.owner(mask[i]).blocks[i](state)
        return net.owner(mask[head]).head(state)

    return answer


def rightly(converters, state, i, owners):
    if owners in ("TT", "SS"):
        return state
    return converters.encode(state, i) if owners == "TS" else converters.decode(state, i)


def around(ours, theirs, half):
    gains = np.array(ours) - np.array(theirs)
    width = half(gains)
    return gains.mean() - width, gains.mean(), gains.mean() + width


@torch.no_grad()
def without_gradients(net, teacher_states, student_states):
    return sync_loss(net, teacher_states, student_states)


def encoders_only(net, teacher_states, student_states):
    loss = sync_loss(net, teacher_states, [state.detach() for state in student_states])
    return loss.detach() + 0 * sum(weights.sum() for weights in net.converters.encoders.parameters())


def area(seconds, accuracy, horizon):
    return timeline.anytime_area(pd.DataFrame({"seconds": seconds, "accuracy": accuracy}), horizon)


def arrive(boot, blocks, order, rate, latency, index=True, each=True, megabyte=10**6):
    """The seconds of a timeline; with options that go wrong."""
    sizes = np.array([boot, *(blocks[block] for block in order)])
    waits = latency * np.arange(1, len(sizes) + 1) if each else latency
    return np.cumsum(sizes) / rate / megabyte + waits + latency * index


def tie(accuracy, sizes, rate, base="SS"):
    gains = accuracy["TS"] - accuracy[base], accuracy["ST"] - accuracy[base]
    times = [size / rate / 1e6 for size in sizes]
    return (gains[0] * times[1] - gains[1] * times[0]) / (gains[1] - gains[0])


loading, meeting, clock = progressive_weight_loading, curricula_meet_loading, loading_under_the_clock
WRONG = [
    (loading.converters, lambda mask: named(mask, swapped=True), "are swapped"),
    (loading.converters, lambda mask: named(mask, first=0), "counted from 1"),
    (loading.converters, lambda mask: named(mask, first=2), "by the next block"),
    (loading.converters, lambda mask: named(mask, everywhere=True), "only where the owner changes"),
    (loading.converters, lambda mask: mask.index("S") and [], "not the right answer"),
    (loading.converters, lambda mask: [f"encoder {i}" for i in range(1, len(mask))], "an encoder at every boundary"),
    (loading.converters, lambda mask: set(named(mask)), "give a list"),
    (loading.sync, sync(total=torch.sum), "sum over the boundaries"),
    (loading.sync, sync(boundaries=3), "raises ValueError: there is no boundary 3"),
    (loading.sync, sync(decoded=False), "only the encoders"),
    (loading.sync, sync(encoded=False), "only the decoders"),
    (loading.sync, sync(distance=torch.nn.functional.mse_loss), "cosine is missing"),
    (loading.sync, sync(distance=by_position), "at every position"),
    (loading.best_order, tried(later=1), "predicts only once it is there"),
    (loading.best_order, tried(pick=min), "smallest area"),
    (loading.best_order, tried(equal=True), "every step counts the same"),
    (loading.best_order, greedy, "greedy"),
    (loading.best_order, lambda a, s: [block - 1 for block in tried()(a, s)], "counted from 1"),
    (loading.best_order, search_order, "not the right answer"),
    (meeting.run_mask, run(lambda c, state, i, owners: state), "no converter"),
    (meeting.run_mask, run(lambda c, state, i, owners: rightly(c, state, i, owners[::-1])), "are swapped"),
    (meeting.run_mask, run(lambda c, state, i, owners: c.encode(state, i)), "TTT: a converter is needed only"),
    (meeting.run_mask, run(rightly, head=0), "the head goes with"),
    (meeting.run_mask, run(lambda c, state, i, owners: rightly(c, state, i - 1, owners)), "counted from 1"),
    (meeting.run_mask, lambda net, inputs, mask: net.teacher(inputs), "mask is not used"),
    (meeting.run_mask, lambda net, inputs, mask: net(inputs, mask) * (1 + 1e-6), "bit for bit"),
    (meeting.converters_alone, sync_loss, "student gets a gradient"),
    (meeting.converters_alone, without_gradients, "not even the converters"),
    (meeting.converters_alone, lambda net, t, s: sync_loss(net, t, s).detach(), "not even the converters"),
    (meeting.converters_alone, encoders_only, "some converter gets no gradient"),
    (meeting.converters_alone, lambda net, t, s: sync_loss(net, s, t), "not the right numbers"),
    (meeting.converters_alone, lambda net, t, s: ..., "not solved yet"),
    (meeting.converters_alone, lambda net, t, s: net.nothing, "AttributeError"),
    (meeting.paired_interval, lambda a, b: mean_interval(np.subtract(b, a)), "theirs minus ours"),
    (meeting.paired_interval, lambda a, b: around(a, b, lambda g: 1.96 * g.std(ddof=1) / len(g) ** 0.5), "1.96"),
    (
        meeting.paired_interval,
        lambda a, b: around(a, b, lambda g: student.ppf(0.975, len(g) - 1) * g.std() / len(g) ** 0.5),
        "n - 1, not by n",
    ),
    (
        meeting.paired_interval,
        lambda a, b: around(a, b, lambda g: student.ppf(0.975, len(g) - 1) * g.std(ddof=1)),
        "root of the number of seeds",
    ),
    (
        meeting.paired_interval,
        lambda a, b: around(
            a,
            b,
            lambda g: student.ppf(0.975, len(g) - 1) * ((np.var(a, ddof=1) + np.var(b, ddof=1)) / len(g)) ** 0.5,
        ),
        "not seed by seed",
    ),
    (clock.anytime_area, lambda s, a, h: area(s, a, h) * h, "divide by the horizon"),
    (clock.anytime_area, lambda s, a, h: area(s, a, h) * h / (h - s[0]), "left out"),
    (clock.anytime_area, lambda s, a, h: area([0, *s], [a[0], *a], h), "before the first answer nobody"),
    (clock.anytime_area, lambda s, a, h: np.interp(np.linspace(0, h, 400_001), s, a, left=0).mean(), "straight lines"),
    (clock.anytime_area, lambda s, a, h: np.diff(s) @ np.array(a[:-1]) / h, "last stretch"),
    (clock.anytime_area, lambda s, a, h: np.diff([*s, h]) @ np.array(a) / h, "after the horizon"),
    (clock.anytime_area, lambda s, a, h: np.mean(a), "mean over the points"),
    (clock.arrival_seconds, lambda *given: arrive(*given, index=False), "index comes first"),
    (clock.arrival_seconds, lambda *given: arrive(*given, each=False), "not only the index"),
    (clock.arrival_seconds, lambda *given: arrive(*given, index=False, each=False), "latency is missing|anew"),
    (clock.arrival_seconds, lambda *given: arrive(*given, megabyte=2**20), "2\\^20"),
    (clock.arrival_seconds, lambda b, blocks, o, *link: arrive(b, blocks, (1, 2, 3), *link), "order of their numbers"),
    (clock.arrival_seconds, lambda *given: arrive(*given)[1:], "student is missing"),
    (clock.tie_latency, lambda *given: -tie(*given), "never negative"),
    (clock.tie_latency, lambda *given: tie(*given) * 1e6 / 2**20, "2\\^20"),
    (clock.tie_latency, lambda a, s, r: tie(a, s[::-1], r, base="TT"), "mask before it predicts"),
    (clock.tie_latency, lambda a, s, r: tie(a | {"SS": 0}, s, r), "minus that of SS"),
]


@pytest.mark.parametrize(("check", "answer", "says"), WRONG, ids=[f"{c.__name__}: {says}" for c, _, says in WRONG])
def test_a_wrong_answer_is_refused_and_its_mistake_named(check, answer, says):
    with pytest.raises(ExerciseError, match=says) as refused:
        check(answer)
    assert "hint: " in str(refused.value)


RIGHT = [
    (loading.converters, lambda mask: tuple(named(mask))),
    (loading.sync, sync()),
    (loading.best_order, tried()),
    (loading.best_order, lambda accuracy, sizes: arrivals(search_order(accuracy, sizes))),
    (meeting.run_mask, run(rightly)),
    (meeting.run_mask, lambda net, inputs, mask: net(inputs, mask)),
    (meeting.converters_alone, lambda net, t, s: sync_loss(net, t, [state.data for state in s])),
    (meeting.paired_interval, lambda a, b: mean_interval(np.subtract(a, b))),
    (clock.anytime_area, area),
    (clock.arrival_seconds, arrive),
    (clock.tie_latency, tie),
]


@pytest.mark.parametrize(("check", "answer"), RIGHT, ids=[check.__name__ for check, _ in RIGHT])
def test_another_way_to_write_the_right_answer_passes(check, answer):
    assert check(answer).startswith("Right")


def test_every_check_has_a_wrong_answer_here():
    for module in (clock, loading, meeting):
        checks = {name for name, value in vars(module).items() if inspect.isfunction(value) and name[0] != "_"}
        own = {name for name in checks if vars(module)[name].__module__ == module.__name__}
        assert own <= {check.__name__ for check, _, _ in WRONG}


@pytest.mark.parametrize("n_blocks", [3, 4])
def test_the_cubes_of_the_check_tell_the_usual_mistakes_apart(n_blocks):
    seed = dict(loading.CUBES)[n_blocks]
    accuracy, sizes = loading._cube(n_blocks, seed)
    orders = [tuple(arrivals(search_order(accuracy, sizes)))]
    orders += [tuple(order) for order in loading._wrong_orders(accuracy, sizes).values()]
    assert len(set(orders)) == len(orders)


@pytest.mark.parametrize("above", [False, True])
def test_at_the_tie_the_best_order_of_two_blocks_changes(above):
    accuracy, sizes, rate = {"SS": 0.80, "TS": 0.82, "ST": 0.86, "TT": 0.90}, (200_000, 1_400_000), 2.0
    latency = tie(accuracy, sizes, rate) * (1.01 if above else 0.99)
    best = search_order(accuracy, [latency + size / rate / 1e6 for size in sizes])
    assert arrivals(best) == ([2, 1] if above else [1, 2])


def test_the_seconds_asked_for_are_those_of_a_planned_timeline(tmp_path):
    index = bundle_of(pair_of("mlp"), tmp_path / "bundle", "mlp")
    link = Throttle(0.5, 0.25)
    planned = timeline.planned_timeline(index, (2, 1, 3), link)["seconds"].tolist()
    blocks = {block: index.shard(block).bytes for block in (1, 2, 3)}
    assert arrive(index.shard(0).bytes, blocks, (2, 1, 3), 0.5, 0.25).tolist() == pytest.approx(planned)
