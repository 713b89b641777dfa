"""The linear layers for wide networks: the same map and the same gradients as torch's own, whatever their layout."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pwl_lab.models import build
from pwl_lab.models.linear import FewOutputs, laid_out_by_input
from pwl_lab.models.mlp import MLPConfig
from pwl_lab.store import Artifact, Recipe, Store


def _like(layer: nn.Linear, plain: nn.Linear) -> nn.Linear:
    """`plain` with the weights of `layer`."""
    plain.load_state_dict(layer.state_dict())
    return plain


@given(batch=st.integers(1, 7), units=st.integers(1, 9), outputs=st.integers(1, 4), seed=st.integers(0, 99))
def test_few_outputs_is_linear_forwards_and_backwards(batch, units, outputs, seed):
    torch.manual_seed(seed)
    ours = FewOutputs(units, outputs)
    plain = _like(ours, nn.Linear(units, outputs))
    inputs = torch.randn(batch, units)
    results = []
    for layer in (ours, plain):
        at = inputs.clone().requires_grad_(True)
        out = layer(at)
        (out**2).sum().backward()
        results.append((out, at.grad, layer.weight.grad, layer.bias.grad))
    for mine, torchs in zip(*results, strict=True):
        torch.testing.assert_close(mine, torchs)


def test_few_outputs_computes_no_gradient_that_nobody_asks_for():
    layer = FewOutputs(5, 2).requires_grad_(False)
    inputs = torch.randn(3, 5, requires_grad=True)
    layer(inputs).sum().backward()
    assert layer.weight.grad is None
    assert inputs.grad is not None
    assert not layer(torch.randn(3, 5)).requires_grad


def test_the_layout_stays_through_training_loading_and_its_gradient():
    torch.manual_seed(0)
    ours = laid_out_by_input(nn.Linear(6, 8))
    plain = _like(ours, nn.Linear(6, 8))
    assert ours.weight.stride() == (1, 8)
    assert plain.weight.stride() == (6, 1)
    inputs = torch.randn(4, 6)
    for layer in (ours, plain):
        optimiser = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, foreach=True)
        for _ in range(3):
            optimiser.zero_grad()
            layer(inputs).pow(2).sum().backward()
            assert layer.weight.grad.stride() == layer.weight.stride()
            optimiser.step()
    torch.testing.assert_close(ours.weight, plain.weight)
    ours.load_state_dict(plain.state_dict())
    assert ours.weight.stride() == (1, 8)


@pytest.mark.parametrize("n_classes", [2, 10])
def test_an_mlp_goes_through_the_store_unchanged(n_classes, tmp_path):
    net = build(MLPConfig(n_inputs=6, widths=(8,), n_classes=n_classes), 0)
    store, recipe = Store(tmp_path), Recipe("teacher", 1, {"n": n_classes})
    loaded = store.get(recipe, lambda: Artifact(net.state_dict()))
    again = Store(tmp_path).get(recipe, lambda: pytest.fail("made twice"))
    for name, tensor in net.state_dict().items():
        assert torch.equal(loaded.tensors[name], tensor)
        assert torch.equal(again.tensors[name], tensor)
