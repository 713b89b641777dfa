"""Tasks with a label for each token: what is scored, what is refused."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import LANGUAGE_STUDENT, ToyImages, ToyStrings

from pwl_lab.models import build
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.tasks.base import (
    IGNORED,
    Batch,
    accuracy,
    at_once,
    batches_of,
    check_inputs,
    check_labels,
    label_loss,
    scored,
    split_of,
)
from pwl_lab.training import predict

labels_and_seed = given(
    rows=st.lists(st.lists(st.sampled_from([IGNORED, 0, 1, 2]), min_size=4, max_size=4), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)


@labels_and_seed
def test_scored_values_are_those_at_the_labels_that_count(rows, seed):
    labels, values = torch.tensor(rows), torch.randn(2, len(rows), 4, 3, generator=torch.Generator().manual_seed(seed))
    places = [(s, t) for s, row in enumerate(rows) for t, label in enumerate(row) if label != IGNORED]
    assert scored(labels, labels).tolist() == [rows[s][t] for s, t in places]
    assert Batch(torch.zeros(len(rows), 4).long(), labels).n_scored == len(places)
    for found, of in ((scored(values, labels), values), (scored(values[0], labels).unsqueeze(0), values[:1])):
        assert found.shape == (len(of), len(places), 3)
        for number, (sample, token) in enumerate(places):
            assert torch.equal(found[:, number], of[:, sample, token])


@labels_and_seed
def test_accuracy_and_loss_are_means_over_scored_tokens(rows, seed):
    labels, logits = torch.tensor(rows), torch.randn(len(rows), 4, 3, generator=torch.Generator().manual_seed(seed))
    places = [(s, t) for s, row in enumerate(rows) for t, label in enumerate(row) if label != IGNORED]
    if not places:
        assert label_loss(logits, labels) == 0
        with pytest.raises(InvalidValueError, match="at least one sample"):
            accuracy(logits, labels)
        return
    hits = [int(logits[s, t].argmax()) == rows[s][t] for s, t in places]
    nats = [
        math.log(sum(math.exp(x) for x in logits[s, t].tolist())) - float(logits[s, t, rows[s][t]]) for s, t in places
    ]
    assert accuracy(logits, labels) == pytest.approx(sum(hits) / len(hits))
    assert label_loss(logits, labels).item() == pytest.approx(sum(nats) / len(nats), abs=1e-5)


def test_with_one_label_for_each_sample_everything_counts():
    labels, logits = torch.tensor([0, 2]), torch.randn(3, 2, 5)
    assert scored(logits, labels) is logits
    assert scored(labels, labels) is labels
    assert Batch(torch.randn(2, 5), labels).n_scored == 2


def a_batch(**changes):
    whole = ToyStrings().split("test")
    return Batch(**{"inputs": whole.inputs, "labels": whole.labels} | changes)


WHOLE = a_batch()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inputs": WHOLE.inputs.float()}, r"inputs of .*float32 .*int64 of shape \[batch, 9\]"),
        ({"inputs": WHOLE.inputs[:, :8]}, r"inputs of .*int64 of shape \[batch, 9\]"),
        ({"inputs": WHOLE.inputs + 1}, r"inputs of .* = .from 1 to 5. .*token ids from 0 to 4"),
        ({"inputs": WHOLE.inputs - 1}, r"inputs of .* = .from -1 to 3. .*token ids from 0 to 4"),
        ({"labels": WHOLE.labels.clamp_min(-1)}, r"labels of .* = .from -1 to 2. .*class indices from 0 to 2"),
        ({"labels": WHOLE.labels.where(WHOLE.labels != 2, 3)}, r"labels of .*to 3. .*class indices from 0 to 2"),
        ({"labels": WHOLE.labels[:, :8]}, r"labels of .*\[60, 8\]. .*\[60\], .*or \[60, 9\], one for each token"),
        ({"labels": WHOLE.labels.int()}, r"labels of .*int32 .*int64 of shape \[60\]"),
    ],
)
def test_what_does_not_match_the_task_is_refused(changes, words, monkeypatch):
    task = ToyStrings()
    monkeypatch.setattr(task, "split", lambda *_: a_batch(**changes))
    monkeypatch.setattr(task, "batches", lambda *_, **__: iter([a_batch(**changes)]))
    with pytest.raises(InvalidValueError, match=words):
        split_of(task, "test", "cpu")
    with pytest.raises(InvalidValueError, match=words):
        batches_of(task, 0, 8, "cpu", role="student")


def test_of_long_strings_fewer_are_computed_at_once():
    lengths = {9: 1024, 64: 1024, 128: 256, 367: 31, 5_000: 1}
    assert {length: at_once(torch.zeros(2, length).long(), 1024) for length in lengths} == lengths
    assert at_once(torch.zeros(2, 5_000), 1024) == 1024
    net, inputs = build(LANGUAGE_STUDENT.model_copy(update={"length": 300}), 0), torch.randint(4, (9, 300))
    torch.testing.assert_close(predict(net, inputs, chunk=64), net(inputs))


def test_tokens_may_have_one_label_a_string_but_numbers_none_for_each_feature():
    check_labels(torch.zeros(60, dtype=torch.int64), WHOLE.inputs, 3)
    with pytest.raises(InvalidValueError, match=r"int64 of shape \[60\], one class index for each input$"):
        check_labels(torch.zeros(60, 9, dtype=torch.int64), torch.zeros(60, 9), 3)


def test_a_network_takes_what_it_says():
    net = build(LANGUAGE_STUDENT, 0)
    assert predict(net, WHOLE.inputs).shape == (60, 9, 3)
    assert net.state_shapes((9,)) == [(6, 9)] * 3
    with pytest.raises(InvalidValueError, match=r"float32 .*int64"):
        predict(net, WHOLE.inputs.float())
    with pytest.raises(InvalidValueError, match="token ids from 0 to 4"):
        predict(net, WHOLE.inputs + 1)
    with pytest.raises(InvalidValueError, match=r"int64 .*float32"):
        check_inputs(WHOLE.inputs, ToyImages().input_shape)
