"""Curricula as data, and the random projections that extracted ones aim at."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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
from pwl_lab.distill.targets import Projection, random_projection
from pwl_lab.support.errors import InvalidValueError

final = TeacherOutput()
numbers = st.floats(0, 1, allow_nan=False)
several = st.just("all") | st.lists(st.integers(1, 6), min_size=1, max_size=4, unique=True).map(tuple)
blocks = st.none() | st.integers(1, 6) | several
targets = st.one_of(
    st.just(Labels()),
    st.builds(TeacherOutput, at_accuracy=st.none() | numbers, temperature=st.floats(0, 10)),
    st.builds(TeacherOutput, at_step=st.integers(0, 10**7)),
    st.builds(TeacherHidden, block=blocks, centre=st.booleans(), scale=st.booleans()),
)
curricula = st.builds(
    lambda stages, last: Curriculum(stages=(*stages, last)),
    st.lists(st.builds(Stage, target=targets, steps=st.integers(1, 9)), max_size=4),
    st.builds(Stage, target=targets, steps=st.none() | st.integers(1, 9)),
)


def test_constructors_give_the_lists_of_the_sources():
    assert from_labels().stages == (Stage(target=Labels()),)
    assert one_shot(3.0).stages == (Stage(target=TeacherOutput(temperature=3.0)),)
    assert progressive([0.6, 0.8], steps=7, temperature=2.0).stages == (
        Stage(target=TeacherOutput(at_accuracy=0.6, temperature=2.0), steps=7),
        Stage(target=TeacherOutput(at_accuracy=0.8, temperature=2.0), steps=7),
        Stage(target=TeacherOutput(temperature=2.0)),
    )
    assert extracted(steps=9, blocks=[2, 3], weight=4.0).stages == (
        Stage(target=TeacherHidden(block=2, weight=4.0), steps=9),
        Stage(target=TeacherHidden(block=3, weight=4.0), steps=9),
        Stage(target=final),
    )
    assert extracted(steps=9, blocks=[2, 1], at_once=True, weight=4.0).stages == (
        Stage(target=TeacherHidden(block=(2, 1), weight=4.0), steps=9),
        Stage(target=final),
    )
    assert extracted(steps=9, at_once=True).stages[0] == Stage(target=TeacherHidden(block="all"), steps=9)
    assert extracted(steps=9).stages == (Stage(target=TeacherHidden(), steps=9), Stage(target=final))
    assert {stage.trains for stage in extracted().stages} == {"reach"}


@given(curriculum=curricula)
def test_json_round_trip(curriculum):
    again = Curriculum.model_validate_json(curriculum.model_dump_json())
    assert again == curriculum
    assert hash(again) == hash(curriculum)
    assert [type(stage.target) for stage in again.stages] == [type(stage.target) for stage in curriculum.stages]


@given(curriculum=curricula, step=st.integers(0, 60))
def test_stage_at_counts_the_lengths_down(curriculum, step):
    left, expected = step, curriculum.stages[-1]
    for stage in curriculum.stages:
        if stage.steps is None or left < stage.steps:
            expected = stage
            break
        left -= stage.steps
    assert curriculum.stage_at(step) is expected


def test_stage_at_the_boundaries():
    curriculum = Curriculum(
        stages=(Stage(target=Labels(), steps=3), Stage(target=TeacherHidden(block=1), steps=1), Stage(target=final))
    )
    assert curriculum.starts() == [0, 3, 4]
    kinds = [curriculum.stage_at(step).target.kind for step in range(6)]
    assert kinds == ["labels", "labels", "labels", "hidden", "output", "output"]


def test_the_last_stage_stays_once_its_length_is_over():
    curriculum = Curriculum(stages=(Stage(target=Labels(), steps=2), Stage(target=final, steps=2)))
    assert curriculum.stage_at(100) is curriculum.stages[1]


@pytest.mark.parametrize("n_blocks", [1, 2, 4])
def test_for_blocks_writes_out_each_block_shallow_to_deep(n_blocks):
    stage = Stage(target=TeacherHidden(centre=False, weight=2.0), steps=9, trains="block")
    curriculum = Curriculum(stages=(stage, *one_shot().stages)).for_blocks(n_blocks)
    assert curriculum.stages == (
        *(
            Stage(target=TeacherHidden(block=block, centre=False, weight=2.0), steps=9, trains="block")
            for block in range(1, n_blocks + 1)
        ),
        Stage(target=final),
    )
    assert curriculum.for_blocks(n_blocks) == curriculum


@given(curriculum=curricula, n_blocks=st.integers(6, 8))
def test_for_blocks_leaves_no_block_open_and_loses_no_stage(curriculum, n_blocks):
    each = [stage for stage in curriculum.stages if stage.target.kind == "hidden" and stage.target.block is None]
    if each and each[-1].steps is None:
        return  # each block for ever: see the next test
    written = curriculum.for_blocks(n_blocks)
    assert len(written.stages) == len(curriculum.stages) + (n_blocks - 1) * len(each)
    for stage in written.stages:
        assert stage.target.kind != "hidden" or (stage.target.blocks and len(stage.targets) == len(stage.target.blocks))


def test_several_blocks_at_once_are_one_stage_with_a_target_for_each():
    (stage, _) = extracted(9, at_once=True, weight=2.0).for_blocks(3).stages
    assert stage == Stage(target=TeacherHidden(block=(1, 2, 3), weight=2.0), steps=9)
    assert stage.targets == [TeacherHidden(block=block, weight=2.0) for block in (1, 2, 3)]
    assert extracted(9, at_once=True).for_blocks(1).stages[0].targets == [TeacherHidden(block=1)]
    (stage, _) = extracted(9, blocks=[4, 2], at_once=True).for_blocks(4).stages
    assert stage.targets == [TeacherHidden(block=4), TeacherHidden(block=2)]
    for target in (final, Labels()):
        assert Stage(target=target).targets == [target]
    for block in (None, "all"):
        with pytest.raises(InvalidValueError, match=r"set by Curriculum\.for_blocks"):
            TeacherHidden(block=block).blocks  # noqa: B018 - asking is enough


def test_each_block_for_ever_is_refused_in_plain_words():
    curriculum = Curriculum(stages=(Stage(target=TeacherHidden()),))
    assert curriculum.for_blocks(1).stages == (Stage(target=TeacherHidden(block=1)),)
    with pytest.raises(InvalidValueError, match="steps"):
        curriculum.for_blocks(2)


def test_a_block_beyond_the_networks_is_refused():
    with pytest.raises(InvalidValueError, match=r"block = 3 is not allowed: from 1 to 2"):
        extracted(blocks=[1, 3]).for_blocks(2)
    with pytest.raises(InvalidValueError, match=r"block = 3 is not allowed: from 1 to 2"):
        extracted(blocks=[1, 3], at_once=True).for_blocks(2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Stage(target=Labels(), steps=0), "steps"),
        (lambda: Curriculum(stages=()), "stages"),
        (lambda: Curriculum(stages=(*one_shot().stages, *one_shot().stages)), "stage 1 of 2 has no length"),
        (lambda: TeacherOutput(at_accuracy=0.6, at_step=100), "at_accuracy or at_step, not both"),
        (lambda: Stage(target=final, trains="block"), "trains = 'block' needs a hidden target"),
        (lambda: Stage(target=Labels(), trains="block"), "trains = 'block' needs a hidden target"),
        (lambda: Stage(target=TeacherHidden(block="all"), trains="block"), "one block, not of several at once"),
        (lambda: Stage(target=TeacherHidden(block=(1, 2)), trains="block"), "one block, not of several at once"),
        (lambda: TeacherHidden(block=0), "block"),
        (lambda: TeacherHidden(block=(1, 0)), "block"),
        (lambda: TeacherHidden(block=()), "block"),
        (lambda: TeacherHidden(block=(2, 1, 2)), "each block once"),
        (lambda: TeacherHidden(weight=0.0), "weight"),
        (lambda: TeacherOutput(temperature=-1.0), "temperature"),
        (lambda: progressive([1.5]), "at_accuracy"),
        (lambda: Stage(target={"kind": "logits"}), "logits"),
    ],
)
def test_impossible_curricula_are_refused(make, words):
    with pytest.raises(InvalidValueError, match=words):
        make()


def test_targets_say_what_they_are():
    shown = [Labels(), final, TeacherOutput(at_accuracy=0.62), TeacherOutput(at_step=0), TeacherHidden(block=2)]
    words = ["labels", "final output", "checkpoint at 62%", "checkpoint at step 0", "block 2, projected"]
    assert [str(target) for target in shown] == words
    several = [TeacherHidden(block=block) for block in ("all", (1, 2, 4), (3, 1), (2,))]
    assert [str(target).removesuffix(" at once, projected") for target in several] == [
        *("all blocks", "blocks 1, 2 and 4", "blocks 3 and 1", "blocks 2"),
    ]
    assert [target.final for target in shown[1:4]] == [True, False, False]


def test_projection_entries_have_variance_one_over_m():
    for m in (50, 800):
        entries = random_projection(m, 60, seed=0)
        assert entries.shape == (m, 60)
        assert entries.mean().abs() < 5 / (m * m * 60) ** 0.5
        assert entries.var().item() == pytest.approx(1 / m, rel=5 * (2 / (m * 60)) ** 0.5)


def test_projection_follows_seed_and_block():
    assert torch.equal(random_projection(6, 4, 3, 2), random_projection(6, 4, 3, 2))
    drawn = [random_projection(6, 4, seed, block) for seed in range(6) for block in range(1, 5)]
    assert all(not torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])


@pytest.mark.parametrize("sizes", [(0, 4, 0, 1), (4, 0, 0, 1), (4, 4, 0, 0)])
def test_projection_of_nothing_is_refused(sizes):
    with pytest.raises(InvalidValueError, match="at least 1 unit"):
        random_projection(*sizes)


def states(positions, batch=7, m=6, seed=0):
    return 3 + 2 * torch.randn(batch, m, *positions, generator=torch.Generator().manual_seed(seed)).double()


def matrices(members=3, m=6, r=4):
    return torch.stack([random_projection(m, r, seed) for seed in range(members)]).double()


def slow_target(matrix, state, mean=0.0, factor=1.0):
    """`(P^T h - mean) * factor` at one sample and one position after the other."""
    out = torch.zeros(state.shape[0], matrix.shape[1], *state.shape[2:], dtype=state.dtype)
    for sample in range(state.shape[0]):
        for place in torch.cartesian_prod(*(torch.arange(n) for n in (1, *state.shape[2:]))).reshape(
            -1, state.dim() - 1
        ):
            at = (slice(None), *place[1:].tolist())
            out[sample][at] = (matrix.T @ state[sample][at] - mean) * factor
    return out


@pytest.mark.parametrize("positions", [(), (5,), (2, 3)])
@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("scale", [True, False])
def test_targets_against_a_loop(positions, centre, scale):
    calibration, state = states(positions, batch=30), states(positions, seed=1)
    drawn = matrices()
    found = Projection.fit(drawn, calibration, centre, scale)(state)
    assert found.shape == (3, 7, 4, *positions)
    for member in range(3):
        raw = slow_target(drawn[member], calibration).transpose(0, 1).flatten(1)  # unit, everything else
        mean = raw.mean(dim=1) if centre else torch.zeros(4).double()
        factor = 1 / (raw - mean[:, None]).square().mean().sqrt() if scale else 1.0
        torch.testing.assert_close(found[member], slow_target(drawn[member], state, mean, factor))


@pytest.mark.parametrize("positions", [(), (2, 3)])
def test_on_the_calibration_set_each_unit_is_centred_and_all_together_have_deviation_1(positions):
    state = states(positions, batch=50)
    for target in Projection.fit(matrices(), state)(state):
        units = target.transpose(0, 1).flatten(1)
        assert units.mean(dim=1).abs().max() < 1e-9
        assert units.square().mean().item() == pytest.approx(1.0)
        assert units.std(dim=1).std() > 0.01  # one factor for all units: what a unit says more, it says more


def test_silent_states_do_not_divide_by_nothing():
    state = torch.zeros(5, 6)
    assert Projection.fit(matrices().float(), state)(state).isfinite().all()
