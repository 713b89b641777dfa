"""Networks that are made to be filled: laid out as any other, without memory and without initial values."""

import subprocess
import sys

import pytest
import torch
from bundles import FAMILIES

from pwl_lab.loading.weightless import build_empty
from pwl_lab.models import build


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_for_weights_from_elsewhere_draws_none_itself(family):
    """Else most of the time until a loaded network answers would go into weights that are thrown away."""
    before = torch.get_rng_state()
    net = build_empty(FAMILIES[family][0])
    assert torch.equal(torch.get_rng_state(), before)
    like = build(FAMILIES[family][0], 0).state_dict()
    assert {name: t.shape for name, t in net.state_dict().items()} == {name: t.shape for name, t in like.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_for_weights_from_elsewhere_is_laid_out_as_any_other_and_takes_no_memory(family):
    net, like = build_empty(FAMILIES[family][0]), build(FAMILIES[family][0], 0)
    layout = {name: (t.shape, t.stride(), t.dtype) for name, t in like.state_dict().items()}
    assert {name: (t.shape, t.stride(), t.dtype) for name, t in net.state_dict().items()} == layout
    assert all(tensor.is_meta for tensor in net.state_dict().values())
    net.load_state_dict(like.state_dict(), assign=True)
    assert not any(tensor.is_meta for tensor in (*net.parameters(), *net.buffers()))


def test_networks_for_weights_from_elsewhere_need_no_compiler():
    """Loading it takes seconds, where a first prediction takes a tenth of one."""
    names = ", ".join(f"{type(config).__name__}(**{config.model_dump()!r})" for config, *_ in FAMILIES.values())
    lines = [
        "import sys",
        "from pwl_lab.models import *",
        "from pwl_lab.loading.weightless import build_empty",
        f"nets = [build_empty(config) for config in ({names},)]",
        "assert 'torch._dynamo' not in sys.modules",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)
