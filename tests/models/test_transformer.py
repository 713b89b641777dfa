"""The parity transformer: its contract as a `BlockNet`, its parts against references, and students side by side."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toys import as_trained, assert_close, distil_cohort

from pwl_lab.distill.curriculum import extracted, from_labels, one_shot, progressive
from pwl_lab.models import TransformerConfig, build, transformer
from pwl_lab.models.transformer import SignTokens, TransformerLayer
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainPlan

TASK = SparseParity(n_bits=5, k_sparse=2, eval_samples=64)
TEACHER = TransformerConfig(n_tokens=5, width=8, heads=4)
STUDENT = TransformerConfig(n_tokens=5, width=4, heads=2, mlp_ratio=2)
CURRICULA = {
    "scratch": from_labels(),
    "one_shot": one_shot(temperature=0),
    "progressive": progressive([0.6], steps=4),
    "extracted": extracted(steps=4),
}


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("readout", ["mean", "class"])
def test_states_have_channels_first_and_one_token_per_bit(readout):
    net = build(TransformerConfig(n_tokens=5, width=8, heads=2, layers=3, readout=readout), 0)
    inputs = TASK.split("test").inputs[:7]
    states, logits = net.hidden_states(inputs)
    tokens = 5 + (readout == "class")
    assert [tuple(state.shape) for state in states] == [(7, 8, tokens)] * 3
    assert net.state_shapes((5,)) == [(8, tokens)] * 3
    assert logits.shape == (7, 2)
    assert torch.equal(logits, net(inputs))
    assert torch.equal(logits, net.head(states[-1]))


def test_a_layer_is_pre_norm_attention_and_mlp():
    layer, state = TransformerLayer(width=6, heads=3, hidden=10), torch.randn(4, 6, 5)
    reference = nn.MultiheadAttention(6, 3, batch_first=True)
    reference.load_state_dict(
        {
            "in_proj_weight": layer.queries_keys_values.weight,
            "in_proj_bias": layer.queries_keys_values.bias,
            "out_proj.weight": layer.out.weight,
            "out_proj.bias": layer.out.bias,
        }
    )
    tokens = state.transpose(1, 2)
    normed = F.layer_norm(tokens, (6,))
    tokens = tokens + reference(normed, normed, normed)[0]
    tokens = tokens + layer.mlp(F.layer_norm(tokens, (6,)))
    torch.testing.assert_close(layer(state), tokens.transpose(1, 2))


def test_a_sign_is_added_to_its_position():
    stem, inputs = SignTokens(3, 4, scale=1.0, class_token=True), torch.tensor([[1.0, -1.0, 1.0]])
    tokens = stem(inputs)[0].T
    torch.testing.assert_close(tokens[0], stem.positions[0])
    torch.testing.assert_close(tokens[2], stem.positions[2] - stem.sign)
    torch.testing.assert_close(tokens[3], stem.positions[3] + stem.sign)


def test_tokens_begin_at_the_scale_that_was_asked_for():
    net = build(TransformerConfig(n_tokens=400, width=64, heads=4, position_scale=0.5), 0)
    assert net.stem.positions.std().item() == pytest.approx(0.5, rel=0.03)
    assert net.stem.sign.std().item() == pytest.approx(0.5, rel=0.3)


def test_the_mean_does_not_care_which_position_carries_which_bit():
    net, order = build(TEACHER, 0), torch.tensor([3, 1, 0, 4, 2])
    inputs = TASK.split("test").inputs
    before = net(inputs)
    net.stem.positions.data = net.stem.positions[order]
    torch.testing.assert_close(net(inputs[:, order]), before)


@pytest.mark.parametrize("optimiser", [{"lr": 0.05}, {"optimiser": "adam", "lr": 0.01}], ids=["sgd", "adam"])
def test_students_side_by_side_are_as_if_each_were_alone(optimiser):
    teacher = as_trained(TEACHER, checkpoints={0: 0.5, 10: 0.7})
    plan = TrainPlan(steps=12, batch_size=8, eval_every=6, **optimiser)
    together = distil_cohort(teacher, STUDENT, TASK, CURRICULA, [0, 3], plan)
    for name, curriculum in CURRICULA.items():
        for seed in (0, 3):
            alone = distil_cohort(teacher, STUDENT, TASK, {name: curriculum}, [seed], plan)
            assert_close(together.weights[name, seed], alone.weights[name, seed], 1e-9)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_a_student_of_a_cohort_is_what_a_plain_loop_makes(optimiser):
    plan = TrainPlan(steps=10, batch_size=8, eval_every=5, optimiser=optimiser, lr=0.01)
    found = distil_cohort(as_trained(TEACHER), STUDENT, TASK, {"scratch": from_labels()}, [2, 4], plan)
    for seed in (2, 4):
        net = build(STUDENT, seed, stream="student")
        kind = torch.optim.Adam if optimiser == "adam" else torch.optim.SGD
        update, batches = kind(net.parameters(), lr=0.01), TASK.batches(0, 8, role="student")
        for _ in range(plan.steps):
            batch = next(batches)
            update.zero_grad()
            F.cross_entropy(net(batch.inputs), batch.labels).backward()
            update.step()
        assert_close(found.weights["scratch", seed], net.state_dict(), 1e-9)


def test_a_configuration_for_a_task():
    found = transformer(TASK, width=8, heads=4, mlp_ratio=2)
    assert found == TransformerConfig(n_tokens=5, width=8, heads=4, layers=2, mlp_ratio=2)
    assert found.n_blocks == 2


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"heads": 3}, "width = 8 is not a multiple of heads = 3"),
        ({"heads": 0}, "heads"),
        ({"layers": 0}, "layers"),
        ({"mlp_ratio": 0}, "mlp_ratio"),
        ({"readout": "last"}, "readout"),
        ({"position_scale": -1}, "position_scale"),
    ],
)
def test_impossible_configurations_are_refused(values, field):
    with pytest.raises(InvalidValueError, match=field):
        TransformerConfig(**({"n_tokens": 5, "width": 8, "heads": 2} | values))
