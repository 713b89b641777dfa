"""The correlation probe: against a slow reference, and on functions whose correlations are known."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import as_trained

from pwl_lab.distill import probes
from pwl_lab.distill.probes import CorrelationProbe
from pwl_lab.distill.targets import random_projection
from pwl_lab.models import MLPConfig, TransformerConfig, build, mlp
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.tasks.parity import SparseParity

TASK = SparseParity(n_bits=10, k_sparse=3, support=[1, 4, 7])


def all_inputs(n_bits: int) -> torch.Tensor:
    """Every row of signs once: over these, different monomials are exactly uncorrelated."""
    return torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * n_bits)


def exact_probe(task: SparseParity = TASK, off: int = 10_000) -> CorrelationProbe:
    """A probe over all inputs and all subsets."""
    drawn = CorrelationProbe.draw(task, samples=2, off_subsets=off)
    return CorrelationProbe(all_inputs(task.n_bits), drawn.support, drawn.in_support, drawn.off_support)


@given(batch=st.integers(3, 40), functions=st.integers(1, 4), degree=st.integers(1, 3), seed=st.integers(0, 10_000))
@settings(max_examples=30)
def test_correlations_are_those_of_a_slow_reference(batch, functions, degree, seed):
    random = torch.Generator().manual_seed(seed)
    inputs = torch.randint(0, 2, (batch, 6), generator=random) * 2.0 - 1
    values = torch.randn(batch, functions, generator=random) * 3 + 100
    subsets = list(combinations(range(6), degree))
    found = probes.correlations(values, probes.monomials(inputs, torch.tensor(subsets)))
    for row in range(functions):
        for column, subset in enumerate(subsets):
            products = np.array([math.prod(float(x[i]) for i in subset) for x in inputs])
            expected = 0.0 if np.ptp(products) == 0 else np.corrcoef(values[:, row].double().numpy(), products)[0, 1]
            assert found[row, column].item() == pytest.approx(expected, abs=2e-4)


def test_a_constant_has_no_correlation():
    inputs = all_inputs(3)
    values = torch.stack([torch.full((8,), 0.1), inputs[:, 0]], dim=1)
    assert probes.correlations(values, inputs).tolist() == [[0, 0, 0], [1, 0, 0]]


def test_subsets_in_the_support_are_all_of_them():
    assert probes.in_support_subsets([7, 1, 4], 2).tolist() == [[1, 4], [1, 7], [4, 7]]
    assert probes.in_support_subsets([7, 1, 4], 1).tolist() == [[1], [4], [7]]


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_subsets_off_the_support_are_all_of_them_where_that_is_few(degree):
    found = {tuple(subset) for subset in probes.off_support_subsets([1, 4, 7], 10, degree, 1_000).tolist()}
    everything = set(combinations(range(10), degree))
    assert found == everything - set(combinations([1, 4, 7], degree))


@given(degree=st.integers(1, 4), at_most=st.integers(1, 40), seed=st.integers(0, 100))
@settings(max_examples=40)
def test_drawn_subsets_are_distinct_and_off_the_support(degree, at_most, seed):
    support = (0, 5, 11, 19)
    found = probes.off_support_subsets(support, 20, degree, at_most, seed)
    assert found.shape == (min(at_most, math.comb(20, degree) - math.comb(4, degree)), degree)
    subsets = [tuple(subset) for subset in found.tolist()]
    assert len(set(subsets)) == len(subsets)
    for subset in subsets:
        assert len(set(subset)) == degree
        assert not set(subset) <= set(support)
    assert torch.equal(found, probes.off_support_subsets(support, 20, degree, at_most, seed))


def test_a_function_of_one_bit_of_the_support():
    probe = exact_probe()
    first, second = probe(probe.inputs[:, [4]] * 2 + 1)
    assert first == pytest.approx({"degree": 1, "in_support": 1 / 3, "off_support": 0}, abs=1e-6)
    assert second == pytest.approx({"degree": 2, "in_support": 0, "off_support": 0}, abs=1e-6)


def test_a_sum_of_monomials_has_the_correlations_of_its_coefficients():
    probe, x = exact_probe(), all_inputs(10)
    values = 3 * x[:, 1] - 4 * x[:, 4] * x[:, 7] + 12 * x[:, 0]  # norm 13
    first, second = probe(values.unsqueeze(1))
    assert first["in_support"] == pytest.approx(3 / 13 / 3, abs=1e-6)
    assert first["off_support"] == pytest.approx(12 / 13 / 7, abs=1e-6)
    assert second["in_support"] == pytest.approx(4 / 13 / 3, abs=1e-6)
    assert second["off_support"] == pytest.approx(0, abs=1e-6)
    found = probe.bit_map(values)
    assert found.diagonal()[[0, 1, 2, 4]].tolist() == pytest.approx([12 / 13, 3 / 13, 0, 0], abs=1e-5)
    assert found[4, 7].item() == found[7, 4].item() == pytest.approx(-4 / 13, abs=1e-5)
    assert found.abs().sum().item() == pytest.approx((12 + 3 + 2 * 4) / 13, abs=1e-3)


def test_parity_itself_shows_nothing_below_its_degree():
    probe = exact_probe()
    for reading in probe(probe.inputs[:, [1, 4, 7]].prod(dim=1, keepdim=True)):
        assert reading["in_support"] == pytest.approx(0, abs=1e-6)


def test_noise_floor_is_what_independent_values_show():
    probe = CorrelationProbe.draw(SparseParity(n_bits=40, k_sparse=3), samples=500, off_subsets=400)
    noise = torch.randn(500, 64, generator=torch.Generator().manual_seed(0))
    for reading in probe(noise):
        assert reading["off_support"] == pytest.approx(probe.noise_floor, rel=0.05)
    assert probe.noise_floor == pytest.approx(math.sqrt(2 / math.pi / 500))


def test_degrees_are_one_to_k_minus_one_and_single_bits_are_never_sampled():
    probe = CorrelationProbe.draw(TASK, samples=16, off_subsets=5)
    assert list(probe.in_support) == list(probe.off_support) == [1, 2]
    assert len(probe.off_support[1]) == 7
    assert len(probe.off_support[2]) == 5


@pytest.mark.parametrize(
    ("keys", "field"),
    [
        ({"degrees": [4]}, "degree = 4"),
        ({"degrees": [0]}, "degree = 0"),
        ({"samples": 1}, "samples = 1"),
        ({"off_subsets": 0, "degrees": [2]}, "degree = 2"),
    ],
)
def test_impossible_probes_are_refused(keys, field):
    with pytest.raises(InvalidValueError, match=field):
        CorrelationProbe.draw(TASK, **keys)


def test_a_support_of_all_bits_has_nothing_off_it():
    with pytest.raises(InvalidValueError, match="bits outside it"):
        CorrelationProbe.draw(SparseParity(n_bits=3, k_sparse=3))


def test_a_teacher_is_read_at_every_checkpoint_and_at_its_end():
    teacher = as_trained(mlp(TASK, width=6), checkpoints={0: 0.5, 5: 0.7})
    probe = exact_probe()
    readings = probes.probe_teacher(teacher, probe)
    assert readings.steps == [0, 5, 20]
    assert readings.table["step"].tolist() == [0, 0, 5, 5, 20, 20]
    assert readings.table["final"].tolist() == [False] * 4 + [True] * 2
    logits = teacher.at(teacher.checkpoints[1])(probe.inputs)
    values = (logits[:, 1] - logits[:, 0]).unsqueeze(1)
    assert readings.table["in_support"].tolist()[2:4] == [reading["in_support"] for reading in probe(values)]
    torch.testing.assert_close(readings.maps[5].diagonal(), probes.correlations(values, probe.inputs)[0])
    assert readings.accuracies == {0: 0.5, 5: 0.7, 20: 1.0}


def test_a_teacher_that_ends_at_a_checkpoint_has_that_step_once():
    teacher = as_trained(mlp(TASK, width=6), checkpoints={0: 0.5, 20: 1.0})
    readings = probes.probe_teacher(teacher, exact_probe())
    assert readings.table["step"].tolist() == [0, 0, 20, 20]
    assert readings.table["final"].tolist() == [False, False, True, True]


def test_projected_states_are_the_students_targets():
    net = build(MLPConfig(n_inputs=10, widths=(9, 8)), 3)
    inputs = TASK.split("test").inputs[:1500]  # more than one chunk
    with torch.no_grad():
        states, _ = net.hidden_states(inputs)
    found = probes.projected_states(net, inputs, width=4, seeds=[2, 5], block=2)
    for row, seed in enumerate([2, 5]):
        torch.testing.assert_close(found[row], states[1] @ random_projection(8, 4, seed, block=2))


def test_tokens_count_as_units_of_their_own():
    config = TransformerConfig(n_tokens=10, width=8, heads=2)
    net, inputs = build(config, 0), TASK.split("test").inputs[:50]
    found = probes.projected_states(net, inputs, width=3, seeds=[0, 1])
    assert found.shape == (2, 50, 30)
    with torch.no_grad():
        state = net.hidden_states(inputs)[0][0]
    expected = torch.einsum("bmt,mr->brt", state, random_projection(8, 3, seed=1))
    torch.testing.assert_close(found[1], expected.flatten(1))


def test_the_projection_probe_has_a_row_per_seed_and_degree():
    net = build(mlp(TASK, width=12), 0)
    probe = exact_probe()
    table = probes.probe_projections(net, probe, width=5, seeds=[3, 4])
    assert table[["seed", "degree"]].to_numpy().tolist() == [[3, 1], [3, 2], [4, 1], [4, 2]]
    values = probes.projected_states(net, probe.inputs, 5, [4])[0]
    assert table["in_support"].tolist()[2:] == pytest.approx([reading["in_support"] for reading in probe(values)])
