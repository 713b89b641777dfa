"""The linear layers for wide networks: the same map and the same gradients as torch's own, whatever their layout."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pwl_lab.fast.linear import FewOutputs, laid_out_by_input
from pwl_lab.models import build
from pwl_lab.models.mlp import MLPConfig
from pwl_lab.study.store import Artifact, Recipe, Store


def _like(layer: nn.Linear, plain: nn.Linear) -> nn.Linear:
    """`plain` with the weights of `layer`."""
    plain.load_state_dict(layer.state_dict())
    return plain


def _everything(layer, inputs, twice, autocast):
    """The output and all gradients; with `twice`, those of the gradient's own length, too."""
    at = inputs.detach().clone().requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = layer(at)
    wanted = [at, *layer.parameters()]
    found = torch.autograd.grad((out.double() ** 3).sum(), wanted, create_graph=twice)
    again = torch.autograd.grad(sum(part.square().sum() for part in found), wanted) if twice else ()
    return out, *found, *again


# The inputs as they lie in memory: as torch lays them out, transposed, or one row standing for all.
LAYOUTS = {
    "plain": torch.randn,
    "transposed": lambda *shape: (
        torch.randn(*shape[:-2], *shape[:-3:-1]).transpose(-1, -2) if shape[1:] else torch.randn(shape)
    ),
    "expanded": lambda *shape: torch.randn(shape[-1]).expand(shape),
}


@given(
    batch=st.lists(st.integers(0, 4), max_size=3),
    units=st.integers(1, 9),
    outputs=st.integers(1, 4),
    bias=st.booleans(),
    layout=st.sampled_from(sorted(LAYOUTS)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    mode=st.sampled_from(["once", "twice", "autocast"]),
    seed=st.integers(0, 99),
)
def test_few_outputs_is_linear_wherever_linear_works(batch, units, outputs, bias, layout, dtype, mode, seed):
    torch.manual_seed(seed)
    ours = FewOutputs(units, outputs, bias=bias, dtype=dtype)
    plain = _like(ours, nn.Linear(units, outputs, bias=bias, dtype=dtype))
    inputs = LAYOUTS[layout](*batch, units).to(dtype)
    both = [_everything(layer, inputs, mode == "twice", mode == "autocast") for layer in (ours, plain)]
    for mine, torchs in zip(*both, strict=True):
        torch.testing.assert_close(mine, torchs, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of addcmul_ under vmap, where nothing is trained
def test_few_outputs_is_linear_under_functional_transforms():
    torch.manual_seed(0)
    ours = FewOutputs(4, 3)
    plain, inputs = _like(ours, nn.Linear(4, 3)), torch.randn(5, 2, 4)
    for transform in (
        lambda layer: torch.func.vmap(layer)(inputs),
        lambda layer: torch.func.vmap(torch.func.grad(lambda at: layer(at).pow(2).sum()))(inputs),
        lambda layer: torch.func.jacrev(layer)(inputs[0]),
        lambda layer: torch.func.vmap(
            lambda weight: torch.func.functional_call(layer, {"weight": weight}, (inputs[0],))
        )(torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0))),
    ):
        torch.testing.assert_close(transform(ours), transform(plain))


@pytest.mark.parametrize("shape", [(3,), (2, 5)])
def test_few_outputs_refuses_what_linear_refuses(shape):
    with pytest.raises(RuntimeError):
        FewOutputs(4, 2)(torch.randn(shape))


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
