"""The language transformer: what each token may see, what padding does, strings shorter than the longest."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import LANGUAGE_STUDENT, LANGUAGE_TEACHER, STRINGS, ToyImages, ToyStrings, samples_for

from pwl_lab.fast.stacked import is_stackable
from pwl_lab.models import LanguageTransformerConfig, build, language, language_transformer
from pwl_lab.models.blocknet import real_tokens
from pwl_lab.models.language import LanguageLayer
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.tasks.parity import SparseParity

CONFIGS = [LANGUAGE_TEACHER, LANGUAGE_TEACHER.model_copy(update={"causal": True})]
configs = pytest.mark.parametrize("config", CONFIGS, ids=["both sides", "causal"])
PAD = 4


def moved(config, seed=0):
    """A network whose biases of distances are not the zeros that they start from."""
    net = build(config, seed).eval()
    with torch.no_grad():
        for block in net.blocks:
            block.distances.normal_()
    return net


def strings(samples=6, seed=0):
    return samples_for(LANGUAGE_TEACHER, samples, (9,), torch.Generator().manual_seed(seed))


@configs
def test_every_state_is_zero_at_padded_positions_and_only_there(config):
    net, inputs = moved(config), strings()
    states, logits = net.hidden_states(inputs)
    assert logits.shape == (6, 9, 3)
    assert logits.isfinite().all()
    for state in [net.stem(inputs), *states]:
        assert torch.equal(real_tokens(state), inputs != PAD)
    assert (inputs == PAD).any()


@configs
def test_padding_changes_nothing(config):
    net = moved(config)
    short = torch.randint(4, (5, 6))
    padded = torch.cat([short, torch.full((5, 3), PAD)], dim=1)
    torch.testing.assert_close(net(padded)[:, :6], net(short))
    # Nor does what the padding stands for: its vector is never seen, and never learns.
    with torch.no_grad():
        net.stem.symbols[PAD] += 5
    torch.testing.assert_close(net(padded)[:, :6], net(short))
    net(padded).square().sum().backward()
    assert not net.stem.symbols.grad[PAD].any()


@settings(max_examples=30)
@given(place=st.integers(0, 8), seed=st.integers(0, 99))
def test_a_causal_network_sees_nothing_that_comes_later_and_the_other_everything(place, seed):
    inputs = torch.randint(4, (1, 9), generator=torch.Generator().manual_seed(seed))
    other = inputs.clone()
    other[0, place] = (other[0, place] + 1) % 4
    for config in CONFIGS:
        net = moved(config, seed)
        differs = (net(inputs) - net(other)).abs().amax(dim=-1)[0] > 1e-6
        assert differs.tolist() == [position >= place or not config.causal for position in range(9)]


@configs
def test_the_bias_is_that_of_the_distance_between_two_tokens(config):
    layer = moved(config).blocks[0]
    real = torch.ones(2, 5, dtype=torch.bool)
    real[1, 3:] = False
    bias = layer.bias(real)
    for sample in range(2):
        for query in range(5):
            for key in range(5):
                hidden = not real[sample, key] or (config.causal and key > query)
                wanted = torch.full((4,), -1e9) if hidden else layer.distances[:, 8 + key - query]
                assert torch.equal(bias[sample, :, query, key], wanted)


def test_attention_is_softmax_of_scores_and_bias():
    layer = LanguageLayer(width=6, heads=1, hidden=4, length=5, causal=False)
    torch.nn.init.normal_(layer.distances)
    tokens = torch.randn(2, 5, 6)
    bias = layer.bias(torch.ones(2, 5, dtype=torch.bool))
    queries, keys, values = layer.queries_keys_values(tokens).chunk(3, dim=-1)
    weights = (queries @ keys.transpose(1, 2) / 6**0.5 + bias[:, 0]).softmax(dim=-1)
    torch.testing.assert_close(layer.attention(tokens, bias), layer.out(weights @ values))


@configs
def test_a_layer_for_long_strings_computes_the_same_in_parts_and_is_not_stacked(config, monkeypatch):
    net, inputs = moved(config), strings()
    whole = net(inputs)
    whole.square().sum().backward()
    wanted = {name: parameter.grad.clone() for name, parameter in net.named_parameters() if parameter.grad is not None}
    net.zero_grad()
    assert is_stackable(net)
    monkeypatch.setattr(language, "LONG", 8)
    monkeypatch.setattr(language, "MOST_SCORES", 2 * LANGUAGE_TEACHER.heads * 9**2)  # two strings at once
    long = moved(config)
    long.load_state_dict(net.state_dict())
    assert not is_stackable(long)
    calls = []
    monkeypatch.setattr(LanguageLayer, "_of_part", counted(calls, LanguageLayer._of_part))
    with torch.no_grad():
        torch.testing.assert_close(long(inputs), whole)
    assert calls == [2, 2, 2] * len(long.blocks)
    long(inputs).square().sum().backward()
    for name, gradient in wanted.items():
        torch.testing.assert_close(dict(long.named_parameters())[name].grad, gradient)


def counted(calls, method):
    """The method, which notes how many strings it is given."""

    def counting(self, state, bias):
        calls.append(len(state))
        return method(self, state, bias)

    return counting


def test_a_string_of_padding_alone_has_finite_logits_and_gradients():
    net = moved(LANGUAGE_TEACHER)
    logits = net(torch.full((2, 9), PAD))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


def test_initial_tokens_and_positions_have_the_scale():
    wide = LanguageTransformerConfig(**STRINGS | {"length": 40}, width=64, heads=2)
    for scale, made in ((0.5, wide.make()), (0.1, wide.model_copy(update={"scale": 0.1}).make())):
        assert made.stem.positions.std().item() == pytest.approx(scale, rel=0.1)
        assert made.stem.symbols.std().item() == pytest.approx(scale, rel=0.2)
        assert not made.blocks[0].distances.any()


def test_the_task_says_what_the_network_is_like():
    for objective in ("masked", "next"):
        config = language_transformer(ToyStrings(objective), width=6, heads=2, layers=3)
        assert config == LANGUAGE_STUDENT.model_copy(update={"causal": objective == "next"})
    for task in (ToyImages(), SparseParity(n_bits=6, k_sparse=2), ToyStrings("guess")):
        with pytest.raises(InvalidValueError, match="an objective, `masked` or `next`"):
            language_transformer(task, width=6, heads=2)
    with pytest.raises(InvalidValueError, match="width = 6 is not a multiple of heads = 4"):
        language_transformer(ToyStrings(), width=6, heads=4)
