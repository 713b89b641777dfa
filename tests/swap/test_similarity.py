"""CKA against its invariances and a case by hand; boundaries against the states themselves."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import MLP_STUDENT, MLP_TEACHER, VGG_STUDENT, VGG_TEACHER, changed, snapshot, used

from pwl_lab.models import build
from pwl_lab.models.blocknet import parameter_bytes
from pwl_lab.study.results import outline
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.swap.evaluation import boundary_similarity, linear_cka, unexplained
from pwl_lab.swap.swapnet import SwapNet

PAIRS = {"mlp": (MLP_TEACHER, MLP_STUDENT, (6,)), "vgg": (VGG_TEACHER, VGG_STUDENT, (1, 9, 7))}


@pytest.fixture(params=PAIRS)
def net_and_inputs(request):
    teacher, student, shape = PAIRS[request.param]
    net = SwapNet(used(build(teacher, 1)), used(build(student, 2), seed=5), shape)
    return net, torch.randn(30, *shape, generator=torch.Generator().manual_seed(0))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seed=st.integers(0, 99), samples=st.integers(3, 30), scale=st.floats(0.01, 100), features=st.integers(2, 20))
def test_rotation_shift_and_scale_change_nothing(seed, samples, scale, features):
    x, y = normal(samples, features, seed=seed), normal(samples, 7, seed=seed + 100)
    rotation = torch.linalg.qr(normal(features, features, seed=seed + 200))[0]
    value = linear_cka(x, y)
    assert 0 <= value <= 1
    assert linear_cka(scale * (x @ rotation) + 3, y) == pytest.approx(value)
    assert linear_cka(y, x) == pytest.approx(value)
    assert linear_cka(x, -scale * (x @ rotation) + 3) == pytest.approx(1)


def test_a_map_that_stretches_is_seen():
    x = normal(50, 4)
    assert linear_cka(x, x * torch.tensor([10.0, 1, 1, 1])) < 0.9


def test_by_hand():
    x = torch.tensor([[0.0], [1], [2]])  # centred: -1, 0, 1
    y = torch.tensor([[0.0, 0], [1, 0], [0, 1]])  # centred: (-1, -1), (2, -1), (-1, 2), each over 3
    # Y'X = (0, 1), so 1; X'X = 2; Y'Y = ((6, -3), (-3, 6)) / 9, whose squared norm is 90 / 81.
    assert linear_cka(x, y) == pytest.approx(1 / (2 * (90 / 81) ** 0.5))


def test_unrelated_features_of_a_large_batch_are_near_0():
    assert linear_cka(normal(5000, 8), normal(5000, 8, seed=1)) < 0.01


def test_it_is_the_same_over_samples_as_over_features():
    x, y = normal(12, 3, 2, 2), normal(12, 9, seed=1)
    padded = torch.cat(
        [y, torch.zeros(12, 40, dtype=y.dtype)], dim=1
    )  # more features than samples, nothing new in them
    assert linear_cka(x, padded) == pytest.approx(linear_cka(x, y))


def test_bad_batches_are_refused_and_constants_have_no_similarity():
    with pytest.raises(InvalidValueError, match=r"samples = \(3, 4\).*the same number"):
        linear_cka(torch.randn(3, 2), torch.randn(4, 2))
    with pytest.raises(InvalidValueError, match="at least 2"):
        linear_cka(torch.randn(1, 2), torch.randn(1, 2))
    assert torch.tensor(linear_cka(torch.ones(5, 2), torch.randn(5, 2))).isnan()


def test_unexplained():
    wanted = normal(20, 3, 2)
    assert unexplained(wanted, wanted) == 0
    assert unexplained(wanted.mean(dim=0).expand_as(wanted), wanted) == pytest.approx(1)
    assert unexplained(torch.zeros(2, 1), torch.tensor([[1.0], [3.0]])) == pytest.approx((1 + 9) / 2)


def test_boundaries_compare_what_stands_there(net_and_inputs):
    net, inputs = net_and_inputs
    table = boundary_similarity(net, inputs)
    assert table["boundary"].tolist() == [1, 1, 2, 2]
    assert table["direction"].tolist() == ["encoder", "decoder"] * 2
    net.eval()
    with torch.no_grad():
        teacher, student = net.teacher.hidden_states(inputs)[0][1], net.student.hidden_states(inputs)[0][1]
        encoded, decoded = net.converters.encode(teacher, 2), net.converters.decode(student, 2)
    encoder, decoder = table.iloc[2], table.iloc[3]
    assert encoder["before"] == decoder["before"] == linear_cka(teacher, student)
    assert encoder["after"] == linear_cka(encoded, student)
    assert decoder["after"] == linear_cka(decoded, teacher)
    assert encoder["unexplained"] == unexplained(encoded, student)
    assert decoder["unexplained"] == unexplained(decoded, teacher)


def test_an_untrained_student_is_compared_with_the_teacher(net_and_inputs):
    net, inputs = net_and_inputs
    other = used(build({6: MLP_STUDENT, 7: VGG_STUDENT}[inputs.shape[-1]], 9), seed=3)
    table = boundary_similarity(net, inputs, other)
    assert "untrained" not in boundary_similarity(net, inputs)
    with torch.no_grad():
        teacher, untrained = (one.eval().hidden_states(inputs)[0] for one in (net.teacher, other))
    wanted = [linear_cka(teacher[boundary], untrained[boundary]) for boundary in (0, 0, 1, 1)]
    assert table["untrained"].tolist() == wanted


def test_perfect_converters_leave_nothing_unexplained():
    teacher = build(MLP_TEACHER, 1)
    net = SwapNet(teacher, build(MLP_TEACHER, 1), (6,), placement="if_different")
    table = boundary_similarity(net, torch.randn(40, 6))
    assert table["before"].tolist() == table["after"].tolist() == pytest.approx([1] * 4)
    assert table["unexplained"].tolist() == [0] * 4


def test_nothing_of_the_pair_is_changed(net_and_inputs):
    net, inputs = net_and_inputs
    net.train()
    before, modes = snapshot(net), [module.training for module in net.modules()]
    boundary_similarity(net, inputs)
    assert changed(before, snapshot(net)) == set()
    assert [module.training for module in net.modules()] == modes


def test_an_outline_lists_every_part_with_its_size():
    net = SwapNet(build(VGG_TEACHER, 0), build(VGG_STUDENT, 0), (1, 9, 7))
    table = outline(net, (1, 9, 7)).set_index(["part", "block"])
    assert table.loc["teacher"]["channels"].tolist() == [4, 6, 7]
    assert table.loc["student"]["channels"].tolist() == [3, 5, 6]
    assert table.loc["teacher"]["layers"].tolist() == [1, 2, 1]
    assert table.loc["teacher"]["positions"].tolist() == ["5×4", "3×2", "2×1"]
    assert table.loc["encoder"]["channels"].tolist() == [3, 5]
    assert table.loc["decoder"]["channels"].tolist() == [4, 6]
    assert table.loc[("encoder", 2), "bytes"] == 4 * (6 * 5 + 5)
    sums = table.groupby("part")["bytes"].sum()
    assert sums["teacher"] == parameter_bytes(net.teacher)
    assert sums["student"] == parameter_bytes(net.student)
    assert sums["encoder"] + sums["decoder"] == parameter_bytes(net.converters)
    plain = outline(SwapNet(build(MLP_TEACHER, 0), build(MLP_STUDENT, 0), (6,)), (6,))
    assert set(plain["positions"]) == {""}
