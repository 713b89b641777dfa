"""`scripts/parity_pairs.py`: its stacked steps are those of the package, and what it chooses from the tuning."""

import json
import runpy
import subprocess
import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pwl_lab.distill.targets import Projection
from pwl_lab.models import MLPConfig, build
from pwl_lab.support import paths
from pwl_lab.swap.pair_training import cross_loss, make_boundaries, recon_loss, sync_loss
from pwl_lab.swap.swapnet import SwapNet

SIZES, DRAWS = (10, 14), (0, 1)
LR, WEIGHT, MEMBER = 0.1, 0.7, 1  # the member with draw 1 at n = 10: its inputs are padded


@pytest.fixture(scope="module")
def script() -> Any:
    """The script and its engine as one namespace."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(paths.root() / "scripts"))
        driver = runpy.run_path(str(paths.root() / "scripts" / "parity_pairs.py"))
        import stacked_pairs
    return SimpleNamespace(**vars(stacked_pairs) | driver)


def _pairs(script: Any, arm: str) -> Any:
    draws = script.Draws(SIZES, DRAWS, "cpu")
    teacher = draws.initial(script.TEACHER_WIDTH, "init", "bits")  # any teacher will do
    # The middle one of three settings: the others must not reach it.
    settings = [[script.Setting(lr, WEIGHT)] * len(draws) for lr in (0.3, LR, 0.01)]
    return script.Pairs(script.ARMS[arm], draws, teacher, settings)


def _load(net: nn.Module, layers: Mapping[str, Tensor], at: int) -> None:
    linear = [one for one in net.modules() if isinstance(one, nn.Linear)]
    with torch.no_grad():
        for number, layer in enumerate(linear, start=1):
            layer.weight.copy_(layers[f"w{number}"][at].T[:, : layer.in_features])
            layer.bias.copy_(layers[f"b{number}"][at, 0])


def _plain(pairs: Any, width: int) -> SwapNet:
    """One pair of the stack as the package has it."""
    at, n = len(pairs.draws) + MEMBER, SIZES[0]
    nets = [build(MLPConfig(n_inputs=n, widths=(w, w)), 0, "cpu") for w in (width, pairs.student["w2"].shape[1])]
    _load(nets[0], pairs.shown, MEMBER)
    _load(nets[1], pairs.student, at)
    net = SwapNet(*nets, (n,))
    if "we" in pairs.student:
        for name, converter in (("e", net.converters.encoders[0]), ("d", net.converters.decoders[0])):
            layer = cast(nn.Linear, cast(Any, converter).map)
            with torch.no_grad():
                layer.weight.copy_(pairs.student[f"w{name}"][at].T)
                layer.bias.copy_(pairs.student[f"b{name}"][at, 0])
    return net


def _plain_losses(term: str, net: SwapNet, x: Tensor, labels: Tensor, pairs: Any) -> tuple[Tensor, Tensor]:
    """The output's loss and the extra term, by the package's functions."""
    with torch.no_grad():
        teacher_states, _ = net.teacher.hidden_states(x)
    states, logits = net.student.hidden_states(x)
    output, certain = F.cross_entropy(logits, labels), 200 * F.one_hot(labels, 2).float()  # a teacher that is sure
    boundaries = make_boundaries(net.converters, teacher_states, states)
    masks = {"cross": ["TS", "ST"], "cross_ts": ["TS"], "cross_st": ["ST"], "pwl": ["TS", "ST"]}.get(term, [])
    cross = cross_loss(net, boundaries, masks, certain, 1.0) if masks else torch.zeros(())
    if term == "hidden":
        fitted = [(p[MEMBER], o[MEMBER]) for p, o in zip(pairs.projections, pairs.offsets, strict=True)]
        shown = zip(states, teacher_states, fitted, strict=True)
        return output, torch.stack([(s - (t @ p - o)).square().mean() for s, t, (p, o) in shown]).mean()
    sums = {"sync": (1, 0, 0), "recon": (0, 1, 0), "pwl": (1, 1, 2), "none": (0, 0, 0)}.get(term, (0, 0, 1))
    parts = (sync_loss(boundaries), recon_loss(net.converters, boundaries), cross)
    return output, sum((w * part for w, part in zip(sums, parts, strict=True)), torch.zeros(()))


@pytest.mark.parametrize("arm", ["one_shot", "hidden", "sync", "recon", "cross", "cross_ts", "cross_st", "pwl"])
def test_a_stacked_network_is_trained_as_one_alone(script: Any, arm: str) -> None:
    pairs = _pairs(script, arm)
    net, at = _plain(pairs, script.TEACHER_WIDTH), len(pairs.draws) + MEMBER
    trained = [*net.student.parameters(), *net.converters.parameters()]
    optimiser = torch.optim.SGD(trained, LR, momentum=script.MOMENTUM)
    for _ in range(3):
        x = pairs.draws.inputs(16, pairs.draws.stream)
        one = x[MEMBER, :, : SIZES[0]]
        assert (x[MEMBER, :, SIZES[0] :] == 0).all()
        output, extra = _plain_losses(pairs.arm.term, net, one, pairs.draws.labels(x)[MEMBER], pairs)
        stacked = pairs.losses(x)
        torch.testing.assert_close(stacked[0][at], output, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(stacked[1][at], extra, rtol=1e-4, atol=1e-5)
        optimiser.zero_grad()
        (output + WEIGHT * extra).backward()
        nn.utils.clip_grad_norm_(trained, script.CLIP)
        optimiser.step()
        pairs.step(x)
    alone = {name: value.detach() for name, value in pairs.student.items()}
    found = _plain(pairs, script.TEACHER_WIDTH)  # the stacked network after its steps
    for name, value in net.student.state_dict().items():
        torch.testing.assert_close(found.student.state_dict()[name], value, rtol=1e-3, atol=1e-5, msg=name)
    assert alone["w1"].shape[0] == 3 * len(pairs.draws)


def test_a_first_stage_trains_on_its_term_alone(script: Any) -> None:
    pairs = _pairs(script, "sync_first")
    pairs.stage.fill_(1)
    head = pairs.student["w3"].detach().clone()
    pairs.step(pairs.draws.inputs(16, pairs.draws.stream))
    assert torch.equal(pairs.student["w3"], head)
    pairs.step(pairs.draws.inputs(16, pairs.draws.stream))
    assert not torch.equal(pairs.student["w3"], head)


def test_the_control_shows_an_untrained_teacher_but_the_same_labels(script: Any) -> None:
    draws = script.Draws(SIZES, DRAWS, "cpu")
    trained = {name: value + 1 for name, value in draws.initial(script.TEACHER_WIDTH, "init", "bits").items()}
    settings = [[script.Setting(LR, WEIGHT)] * len(draws)]
    x = draws.inputs(64, draws.stream)
    real, control = (script.Pairs(script.ARMS[arm], draws, trained, settings) for arm in ("cross", "cross_untrained"))
    assert torch.equal(real.seen(x).labels, control.seen(x).labels)
    untrained = script.states(draws.initial(script.TEACHER_WIDTH, "init", "bits"), x)[0]
    assert torch.equal(control.seen(x).first, untrained)
    assert not torch.equal(real.seen(x).first, untrained)
    assert not torch.equal(real.seen(x).behind["w2"], control.seen(x).behind["w2"])


def test_projected_targets_are_those_of_the_package(script: Any) -> None:
    pairs = _pairs(script, "hidden")
    x = pairs.draws.inputs(4096, torch.Generator().manual_seed(5))
    shown, matrices = script.states(pairs.shown, x), pairs.draws.projections()
    for block in (0, 1):
        state = shown[block][MEMBER]
        fitted = Projection.fit(matrices[block, MEMBER : MEMBER + 1], state)
        ours = pairs.seen(x).hidden[block][MEMBER]
        torch.testing.assert_close(ours, fitted(state)[0], rtol=0.1, atol=0.15)  # fitted on other samples
        assert ours.std().item() == pytest.approx(1, abs=0.05)


def test_labels_are_products_over_a_support_of_real_bits(script: Any) -> None:
    draws = script.Draws(SIZES, DRAWS, "cpu")
    x = draws.inputs(100, draws.stream)
    for at, (n, _) in enumerate(draws.members):
        support = draws.supports[at].tolist()
        assert len(set(support)) == script.K
        assert max(support) < n
        assert torch.equal(draws.labels(x)[at], (x[at, :, support].prod(dim=1) > 0).long())


def test_all_draws_of_a_batch_differ_and_a_second_run_sees_the_same(script: Any) -> None:
    one, other = (script.Draws(SIZES, DRAWS, "cpu") for _ in range(2))
    assert torch.equal(one.inputs(8, one.stream), other.inputs(8, other.stream))
    x = one.inputs(64, one.stream)[:, :, : SIZES[0]]
    assert not torch.equal(x[0], x[1])
    start = one.initial(8, "student", "bits")["w1"]
    assert all(not torch.equal(start[a], start[b]) for a, b in product(range(4), repeat=2) if a < b)


def test_the_best_setting_counts_the_unreached_as_twice_the_steps_that_were_run(script: Any) -> None:
    rows = [
        {"arm": "sync", "n": 30, "lr": lr, "weight": 1.0, "stage": 0, "steps": steps, "ran": 400}
        for lr, found in {0.1: (100, None), 0.2: (300, 250), 0.4: (None, None)}.items()
        for steps in found
    ]
    assert script.chosen(rows, "sync") == {30: script.Setting(0.2, 1.0, 0)}
    rows[3]["steps"] = rows[2]["steps"] = 320  # 100 and 800 are now the better pair
    assert script.chosen(rows, "sync") == {30: script.Setting(0.1, 1.0, 0)}
    assert script.chosen(rows, "recon") == {}


def test_between_two_tuned_sizes_a_setting_is_a_power_of_n(script: Any) -> None:
    tuned = {30: script.Setting(0.04, 1.0, 100), 60: script.Setting(0.01, 1.0, 400)}
    for n, lr, stage in ((20, 0.04, 100), (30, 0.04, 100), (60, 0.01, 400)):  # below the smallest: as at it
        found = script.between(tuned, n)
        assert (found.lr, found.stage) == (pytest.approx(lr), stage)
    half = script.between(tuned, 42)
    assert half.lr == pytest.approx(0.02, rel=0.05)
    assert half.stage == 200


def test_a_student_that_did_not_get_there_keeps_the_samples_it_saw(script: Any, tmp_path: Path) -> None:
    rows = [
        {"arm": arm, "n": 20, "draw": draw, "lr": 0.1, "weight": 0.0, "stage": 0, "steps": steps, "ran": 400}
        for arm, draw, steps in (("one_shot", 0, 300), ("one_shot", 1, None), ("sync", 0, None))
    ]
    (tmp_path / "measure_cut.jsonl").write_text("\n".join(map(json.dumps, [rows[2], rows[0]])))
    (tmp_path / "measure.jsonl").write_text("\n".join(map(json.dumps, rows[:2])))
    table = script.students(tmp_path)
    assert table[["curriculum", "seed"]].apply(tuple, axis=1).tolist() == [
        ("one_shot", 0),
        ("one_shot", 1),
        ("sync", 0),
    ]
    assert table["samples"].tolist() == [300 * script.BATCH, 400 * script.BATCH, 400 * script.BATCH]
    assert table["reached"].tolist() == [True, False, False]


def test_the_parts_run_one_after_the_other_and_a_second_call_does_nothing(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["all", "--smoke", "--arms", "one_shot,recon", "--out", str(tmp_path)]
    path = paths.root() / "scripts" / "parity_pairs.py"
    for _ in range(2):
        subprocess.run([sys.executable, str(path), *command], check=True, cwd=paths.root())
        rows = [json.loads(line) for line in (tmp_path / "measure.jsonl").read_text().splitlines()]
        assert [(row["arm"], row["n"], row["draw"]) for row in rows] == [
            (arm, n, draw) for arm in ("one_shot", "recon") for n in (12, 16) for draw in (0, 1)
        ]
    assert all(row["weight"] == (row["arm"] == "recon") for row in rows)  # not tuned: one-shot's rate, weight 1
    assert {row["arm"] for row in map(json.loads, (tmp_path / "tune.jsonl").read_text().splitlines())} == {"one_shot"}
    monkeypatch.setattr(paths, "results", lambda: tmp_path / "shipped")
    (tmp_path / "shipped").mkdir()
    script.ship(tmp_path)
    table = pd.read_csv(tmp_path / "shipped" / "parity_pairs.csv")
    assert len(table) == len(rows)
    made = json.loads((tmp_path / "shipped" / "parity_pairs.json").read_text())
    assert made["draws"] == {"reported": [0, 1], "tuning": list(script.TUNING)}
    assert str(tmp_path) not in json.dumps(made)
