"""Accuracy against bytes: what is counted, and what `evaluate` gets to see."""

import pytest
import torch
from safetensors.torch import save
from toys import RESNET_TEACHER, used

from pwl_lab.loading.alternatives import accuracy_by_bytes
from pwl_lab.loading.bitplanes import decode, encode
from pwl_lab.loading.eightbit import dequantise, quantise
from pwl_lab.models import build


@pytest.fixture
def state():
    return used(build(RESNET_TEACHER, 0)).state_dict()


def test_rows_bits_and_bytes(state):
    table = accuracy_by_bytes(state, lambda _: 0.5, widths=(4, 4, 8))
    assert list(table.columns) == ["way", "bits", "bytes", "accuracy"]
    assert table["way"].tolist() == ["bit planes"] * 3 + ["8 bits", "plain"]
    assert table["bits"].tolist() == [4, 8, 16, 8, 32]
    planes = encode(state, (4, 4, 8))
    contiguous = {name: tensor.contiguous() for name, tensor in state.items()}
    arrived = [sum(len(planes.to_bytes(k + 1)) for k in range(stages)) for stages in (1, 2, 3)]
    assert table["bytes"].tolist() == [*arrived, len(save(quantise(state))), len(save(contiguous))]


def test_evaluate_sees_each_network_as_it_would_run(state):
    seen = []

    def evaluate(given):
        seen.append(given)
        return len(seen) / 10

    table = accuracy_by_bytes(state, evaluate, widths=(8, 8), whole_below=2)
    assert table["accuracy"].tolist() == [0.1, 0.2, 0.3, 0.4]
    planes = encode(state, (8, 8), whole_below=2)
    wanted = [decode(planes, 1), decode(planes, 2), dequantise(quantise(state)), state]
    for given, expected in zip(seen, wanted, strict=True):
        assert all(torch.equal(given[name], tensor) for name, tensor in expected.items())
