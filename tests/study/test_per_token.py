"""All that works on other tasks works where each token has a label: verbs, every mask, bundles, serving."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F
from toys import LANGUAGE_STUDENT, LANGUAGE_TEACHER, MLP_STUDENT, MLP_TEACHER, PARITY, ToyStrings

from pwl_lab import plots, widgets
from pwl_lab.benchmarks.accuracy import network_accuracies
from pwl_lab.benchmarks.baselines import Files
from pwl_lab.distill.curriculum import extracted, from_labels, one_shot, progressive
from pwl_lab.loading.model import ProgressiveModel
from pwl_lab.loading.sources import INDEX, BundleError
from pwl_lab.study.recipes import string_predictions
from pwl_lab.study.verbs import distill, train_or_load, train_pair
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.swap.evaluation import boundary_similarity, score_masks
from pwl_lab.swap.masks import all_masks
from pwl_lab.swap.pair_training import PairLossConfig
from pwl_lab.tasks.base import IGNORED
from pwl_lab.training import TrainPlan

PLAN = TrainPlan(steps=40, batch_size=16, lr=0.01, optimiser="adam", eval_every=20, keep_checkpoints=True)
objectives = pytest.mark.parametrize("objective", ["masked", "next"])
PATIENCE_S = 60


def networks(objective):
    causal = {"causal": objective == "next"}
    return LANGUAGE_TEACHER.model_copy(update=causal), LANGUAGE_STUDENT.model_copy(update=causal)


def trained(objective, **changes):
    task, plan = ToyStrings(objective, **changes), PLAN.model_copy(update={"steps": 300, "eval_every": 100})
    return task, train_or_load(networks(objective)[0], task, plan, device="cpu")


def loss_of(net, batch):
    """Accuracy and loss over scored tokens, one by one."""
    logits, where = net(batch.inputs), batch.labels != IGNORED
    rows, labels = logits[where], batch.labels[where]
    return (rows.argmax(dim=-1) == labels).double().mean().item(), F.cross_entropy(rows, labels).item()


@objectives
def test_a_teacher_learns_what_can_be_predicted_and_is_loaded_again(objective, store_folder):
    task, teacher = trained(objective)
    value, _ = loss_of(teacher.model, task.split("test"))
    assert teacher.test_accuracy == pytest.approx(value)
    last = teacher.history.iloc[-1]
    assert (last["accuracy"], last["validation_loss"]) == pytest.approx(
        loss_of(teacher.model, task.split("validation"))
    )
    assert teacher.test_accuracy > 0.45  # a third by chance
    again = train_or_load(teacher.config, task, PLAN.model_copy(update={"steps": 300, "eval_every": 100}), device="cpu")
    assert torch.equal(again.model(task.split("test").inputs), teacher.model(task.split("test").inputs))


@objectives
def test_students_of_every_curriculum(objective, store_folder):
    task, teacher = trained(objective)
    curricula = {
        "labels": from_labels(),
        "soft": one_shot(),
        "hard": one_shot(0.0),
        "progressive": progressive(at_steps=[100], steps=10),
        "extracted": extracted(8),
        "last block": extracted(10, blocks=[3]),
        "reversed": extracted(8, blocks=[3, 2, 1]),
        "all at once": extracted(10, at_once=True),
    }
    runs = distill(teacher, networks(objective)[1], task, curricula, [0, 1], PLAN, device="cpu")
    assert len(runs.weights) == 16
    targets = runs.stages.groupby("curriculum")["target"].agg(list)
    assert targets["all at once"] == ["blocks 1, 2 and 3 at once, projected", "final output"]
    assert targets["reversed"] == [*(f"block {n}, projected" for n in (3, 2, 1)), "final output"]
    for name in curricula:
        value, _ = loss_of(runs.student(name, 1), task.split("test"))
        rows = runs.history.query("curriculum == @name and seed == 1")
        assert rows["accuracy"].iloc[-1] == pytest.approx(value)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PWL_LAB_RUNS", str(tmp_path_factory.mktemp("runs")))
        task, teacher = trained("masked")
        return train_pair(teacher, LANGUAGE_STUDENT, task, PLAN, PairLossConfig(), device="cpu", to_export=True)


def test_a_pair_has_accuracy_and_loss_of_every_mask(pair):
    assert pair.history["loss_cross"].iloc[-1] < pair.history["loss_cross"].iloc[1]
    for split in ("validation", "test"):
        batch = pair.task.split(split)
        for _, row in pair.masks.iterrows():
            value, loss = loss_of(lambda inputs, mask=row["mask"]: pair.net(inputs, mask), batch)
            assert row[split] == pytest.approx(value)
            assert row[f"{split}_loss"] == pytest.approx(loss, rel=1e-5)
    curve = pair.masks.set_index("mask")["test_loss"]
    assert pair.prefix_perplexity() == pytest.approx([math.exp(curve[m]) for m in ("SSS", "TSS", "TTS", "TTT")])
    scores = score_masks(pair.net, pair.task.split("test"), ["STS"], chunk=7)
    assert scores.accuracies()["STS"] == pair.accuracy("STS")
    assert scores.losses()["STS"] == pytest.approx(curve["STS"], rel=1e-5)
    by_class = pair.classes.query("mask == 'STS'")["test"]
    shares = torch.stack([(pair.task.split("test").labels == c).sum() for c in range(3)]).double()
    assert (by_class.to_numpy() * (shares / shares.sum()).numpy()).sum() == pytest.approx(pair.accuracy("STS"))


def test_padding_stays_zero_through_every_mask(pair):
    batch = pair.task.split("test")
    real = (batch.inputs != pair.task.pad).unsqueeze(1)
    for mask in all_masks(3):
        state = pair.net.enter(batch.inputs, mask[0])
        for boundary in (1, 2):
            converted = pair.net.convert(state, boundary, mask[boundary - 1], mask[boundary])
            state = pair.net.advance(state, boundary, mask[boundary - 1], mask[boundary])
            for one in (converted, state):
                assert not one.masked_select(~real).any()
    table = boundary_similarity(pair.net, batch.inputs)
    assert table["after"].between(0, 1).all()


def test_a_pair_with_a_curriculum_of_all_blocks_at_once(store_folder):
    task, teacher = trained("next")
    own = extracted(10, at_once=True)
    made = train_pair(teacher, networks("next")[1], task, PLAN, device="cpu", curriculum=own)
    assert {"loss_hidden", "loss_output"} <= set(made.history)


def test_it_predicts_strings_while_it_loads(pair, tmp_path):
    index = pair.export(tmp_path / "bundle")
    assert index.inputs.n_tokens == 5
    assert index.class_names == ("a", "b", "c")
    inputs = pair.task.split("test").inputs
    with ProgressiveModel.open(tmp_path / "bundle", device="cpu", int8_first=True) as model:
        first = model.predict(inputs)
        assert first.classes.shape == first.confidence.shape == inputs.shape
        model.wait("TTT", PATIENCE_S)
        last = model.predict(inputs)
        with pytest.raises(InvalidValueError, match="takes token ids, which `predict` takes as they are"):
            model.prepare(inputs)
        for wrong in (inputs.float(), inputs[:, :8], inputs + 1):
            with pytest.raises(InvalidValueError, match="inputs"):
                model.predict(wrong)
    with torch.no_grad():
        assert torch.equal(last.logits, pair.net.teacher(inputs))
        if first.mask == "sss":
            assert (first.logits - pair.net.student(inputs)).abs().max() < 0.2
    found = network_accuracies(Files(tmp_path, index), ["SSS", "TtS"], pair.task.split("test"))
    assert found["SSS"] == pair.accuracy("SSS")
    assert found["TtS"] == pytest.approx(pair.accuracy("TTS"), abs=0.05)


def test_a_bundle_whose_networks_do_not_take_its_inputs_is_refused(pair, tmp_path):
    pair.export(tmp_path / "bundle")
    path = tmp_path / "bundle" / INDEX
    path.write_text(path.read_text().replace('"n_tokens": 5\n', '"n_tokens": 6\n'))
    with pytest.raises(BundleError, match="do not take its inputs, 6 different tokens"):
        ProgressiveModel.open(tmp_path / "bundle", device="cpu")


@objectives
def test_what_is_shown_of_strings_is_what_each_mask_predicts(objective, pair, store_folder):
    if objective == "next":
        task, teacher = trained("next")
        pair = train_pair(teacher, networks("next")[1], task, PLAN, device="cpu")
    task, batch = pair.task, pair.task.split("test")
    drawn, picked = (string_predictions(pair, 4, kind=kind) for kind in ("drawn", "picked"))
    assert drawn.strings != picked.strings
    assert (drawn.kind, picked.kind, drawn.class_names) == ("drawn", "picked", ("a", "b", "c"))
    names = [*"abc", "□"]
    for number, string in enumerate(drawn.strings):
        assert [token.symbol for token in string] == [names[i] for i in batch.inputs[number] if i != task.pad]
    places = [(s, t) for s in range(4) for t in range(9) if batch.labels[s, t] != IGNORED]
    assert drawn.labels.tolist() == [int(batch.labels[place]) for place in places]
    shown = [(s, t, token) for s, string in enumerate(drawn.strings) for t, token in enumerate(string)]
    found = {token.number: (s, t) for s, t, token in shown if token.number is not None}
    assert found == {number: (s, t + (objective == "next")) for number, (s, t) in enumerate(places)}
    for mask in all_masks(3):
        logits = pair.net(batch.inputs, mask)
        for number, place in enumerate(places):
            torch.testing.assert_close(drawn.probabilities[mask][number], logits[place].softmax(dim=-1))
    assert sum(drawn.right("TTT")) == sum(
        int(pair.net.teacher(batch.inputs)[p].argmax() == batch.labels[p]) for p in places
    )

    def changes(samples):
        path = [samples.predicted[mask] for mask in ("SSS", "TSS", "TTS", "TTT")]
        return sum(int((one != other).sum()) for one, other in pairwise(path))

    assert changes(picked) > changes(drawn)


def test_strings_in_the_layer_loader_and_as_a_figure(pair):
    samples = string_predictions(pair, 2)
    live, page = (widgets.layer_loader(pair, samples, interactive) for interactive in (True, False))
    (group,) = live.data["pairs"][0]["groups"].values()
    assert group["strings"] == [[[token.symbol, token.number] for token in string] for string in samples.strings]
    assert "images" not in group
    assert group["labels"] == samples.labels.tolist()
    assert group["predicted"]["STS"] == samples.predicted["STS"].tolist()
    assert page.data["pairs"][0]["groups"] == live.data["pairs"][0]["groups"]
    figure = plots.strings_by_mask(samples)
    texts = [text.get_text() for text in figure.axes[0].texts]
    bold = [text.get_text() for text in figure.axes[0].texts if text.get_weight() == "bold"]
    assert texts.count("TSS") == texts.count("label") == 2
    symbols, predicted = sum(len(string) for string in samples.strings), len(samples.labels)
    assert len(texts) == symbols + 5 * predicted + 10
    assert len(bold) == sum(sum(samples.right(mask)) for mask in ("SSS", "TSS", "TTS", "TTT"))


def test_white_space_is_made_visible(pair):
    spaced = ToyStrings()
    spaced.class_names = ("a", " ", "\n")
    samples = string_predictions(replace(pair, task=spaced), 3)
    assert samples.class_names == ("a", "␣", "↵")
    assert {token.symbol for string in samples.strings for token in string} <= {"a", "␣", "↵", "□"}


def test_rows_of_numbers_are_shown_with_a_place_for_the_answer(store_folder):
    plan = PLAN.model_copy(update={"steps": 4, "eval_every": 2})
    teacher = train_or_load(MLP_TEACHER, PARITY, plan, device="cpu")
    pair = train_pair(teacher, MLP_STUDENT, PARITY, plan, device="cpu")
    samples, test = string_predictions(pair, 3, kind="drawn"), PARITY.split("test")
    for number, (row, inputs) in enumerate(zip(samples.strings, test.inputs, strict=False)):
        assert [float(token.symbol) for token in row[:-1]] == inputs.tolist()
        assert (row[-1].symbol, row[-1].number) == ("?", number)
    assert samples.labels.tolist() == test.labels[:3].tolist()
    predicted, _ = pair.predictions(test.inputs[:3], ["TST"])
    page = widgets.layer_loader(pair, samples, interactive=False)
    (group,) = page.data["pairs"][0]["groups"].values()
    assert group["predicted"]["TST"] == predicted[0].tolist()
    assert group["classes"] == ["0", "1"]


def test_a_network_and_a_task_that_do_not_fit_are_named_before_training(store_folder):
    with pytest.raises(InvalidValueError, match=r"takes 5 different tokens, .*this one takes numbers"):
        train_or_load(MLP_TEACHER, ToyStrings(), PLAN, device="cpu")
    with pytest.raises(InvalidValueError, match=r"takes numbers, .*this one takes 5 different tokens"):
        train_or_load(LANGUAGE_TEACHER, PARITY, PLAN, device="cpu")
    task, teacher = trained("masked")
    for verb in (
        lambda: distill(teacher, MLP_STUDENT, task, {"one": one_shot()}, [0], PLAN, device="cpu"),
        lambda: train_pair(teacher, MLP_STUDENT, task, PLAN, device="cpu"),
    ):
        with pytest.raises(InvalidValueError, match="this one takes numbers"):
            verb()
