"""Grammar and text tasks: splits, what is masked, streams, exact ceilings, and what is refused."""

import gzip
import json
import re
import runpy
from itertools import islice

import numpy as np
import pytest
import torch
from languages import language

from pwl_lab.models import language_transformer
from pwl_lab.support import paths
from pwl_lab.support.errors import InvalidValueError, MissingDataError, UnknownNameError
from pwl_lab.tasks.base import IGNORED, Task, batches_of, split_of
from pwl_lab.tasks.grammar import Grammar
from pwl_lab.tasks.inside import token_posterior
from pwl_lab.tasks.sequences import DEVIL, GrammarTask, TextTask
from pwl_lab.training import TrainPlan, fit

ANY = Grammar(
    name="any", tokens=("a", "b", "c"), start=["x"], rules={"x": ["y y y y y y", "y y y y"], "y": ["a", "b", "c"]}
)
TEXT = "the quick brown fox jumps over the lazy dog; " * 60


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "fox.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def take(task, n, seed=0, batch_size=64, **role):
    return list(islice(task.batches(seed, batch_size, **role), n))


def real_strings(task, batch):
    """The strings behind a batch for the next token, whose labels are all there."""
    return {tuple(token for token in row if token != IGNORED) for row in batch.labels.tolist()}


@pytest.fixture(params=["grammar", "text"])
def make(request, text):
    """A task of either kind, with the given options."""
    return (
        (lambda **options: GrammarTask("cfg3b_tail", **options))
        if request.param == "grammar"
        else (lambda **options: TextTask(text, length=16, **options))
    )


@pytest.mark.parametrize("objective", ["masked", "next"])
def test_they_are_tasks_whose_batches_are_as_they_say(make, objective):
    task = make(objective=objective)
    assert isinstance(task, Task)
    assert task.n_tokens == task.n_classes + 2 == task.pad + 1 == task.mask + 2
    assert len(task.class_names) == task.n_classes
    batch = next(batches_of(task, 0, 8, "cpu", "student"))
    for found in (batch, split_of(task, "validation", "cpu"), split_of(task, "test", "cpu")):
        assert found.inputs.shape == found.labels.shape == (len(found), *task.input_shape)
        assert found.inputs.dtype == found.labels.dtype == torch.int64
    assert len(batch) == 8


@pytest.mark.parametrize("name", ["hidden", "cfg3b_tail"])
def test_no_string_is_in_two_splits(name):
    task = GrammarTask(name, "next", eval_strings=2_000)
    held_out = {split: real_strings(task, task.split(split)) for split in ("validation", "test")}
    trained = set().union(*(real_strings(task, batch) for batch in take(task, 100, batch_size=500)))
    trained |= set().union(*(real_strings(task, batch) for batch in take(task, 20, batch_size=500, role="student")))
    assert not trained & held_out["validation"]
    assert not trained & held_out["test"]
    assert not held_out["validation"] & held_out["test"]
    everything = language(task.grammar)
    assert trained | held_out["validation"] | held_out["test"] <= set(everything)
    share = sum(everything[one] for one in trained)
    assert 0.7 < share < 0.81  # eight tenths of the strings, nearly all of which were drawn


def test_masking_does_not_change_which_strings_are_drawn():
    masked, shifted = GrammarTask("hidden"), GrammarTask("hidden", "next")
    strings, batch = shifted.split("test").labels, masked.split("test")
    assert torch.equal(torch.where(batch.labels == IGNORED, strings, batch.labels), strings)


@pytest.mark.parametrize("rate", [0.15, 0.3])
def test_tokens_are_scored_masked_and_replaced_at_the_rates_that_are_said(make, rate):
    task = make(mask_rate=rate)
    batches = take(task, 60, batch_size=128)
    inputs, labels = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("inputs", "labels"))
    real, scored = inputs != task.pad, labels != IGNORED

    def close(count, n, share):
        return abs(count.item() - n.item() * share) < 5 * (n.item() * share * (1 - share)) ** 0.5

    n = scored.sum()
    assert close(n, real.sum(), rate)
    assert close((inputs == task.mask).sum(), n, 0.8)
    assert close((scored & (inputs == labels)).sum(), n, 0.1 + 0.1 / task.n_classes)
    assert not (~scored & (inputs == task.mask)).any()
    random = inputs[scored & (inputs != labels) & (inputs != task.mask)]
    assert set(random.tolist()) == set(range(task.n_classes))
    # one token's fate says nothing about its neighbour's
    both, pairs = scored[:, 1:] & scored[:, :-1], real[:, 1:]
    assert close(both.sum(), pairs.sum(), rate**2)


def test_padding_is_never_scored_and_fills_the_end():
    for task in (GrammarTask("cfg3b_tail"), GrammarTask("cfg3b_tail", "next")):
        for batch in (*take(task, 5), task.split("test")):
            padding = batch.inputs == task.pad
            assert padding.any()
            assert (batch.labels[padding] == IGNORED).all()
            assert not (~padding[:, 1:] & padding[:, :-1]).any()


def test_what_is_not_scored_stays_as_it_is():
    task = GrammarTask("cfg3b_tail")
    batch, strings = task.split("test"), torch.from_numpy(task.derivations("test").tokens)
    scored = batch.labels != IGNORED
    assert torch.equal(batch.inputs[~scored], strings[~scored])
    assert torch.equal(batch.labels[scored], strings[scored])


def test_the_next_token_is_the_label_of_what_comes_before(make):
    task = make(objective="next")
    batch = task.split("test")
    real = batch.inputs != task.pad
    assert torch.equal(real, batch.labels != IGNORED)
    assert (batch.inputs[:, 0] == task.mask).all()
    assert torch.equal(batch.inputs[:, 1:][real[:, 1:]], batch.labels[:, :-1][real[:, 1:]])


def test_every_batch_has_a_scored_token():
    task = GrammarTask("hidden", mask_rate=0.01)
    assert all((batch.labels != IGNORED).any() for batch in take(task, 100, batch_size=1))


def test_batches_repeat_for_a_seed_and_differ_for_a_role(make):
    task = make()
    first, again, other, role = (take(task, 3, **which)[2] for which in ({}, {}, {"seed": 1}, {"role": "student"}))
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.inputs, other.inputs)
    assert not torch.equal(first.inputs, role.inputs)


def test_evaluation_sets_are_fixed_and_belong_to_the_seed(make):
    one, same, other = make(), make(), make(seed=1)
    for name in ("validation", "test"):
        assert torch.equal(one.split(name).inputs, same.split(name).inputs)
        assert torch.equal(one.split(name).labels, one.split(name).labels)
        assert not torch.equal(one.split(name).labels, other.split(name).labels)


def test_a_short_batch_does_not_change_what_follows():
    """Strings are drawn many at a time; how many a batch takes must not lose any."""
    task = GrammarTask("hidden", "next")
    small = torch.cat([batch.labels for batch in take(task, 300, batch_size=10)])
    large = torch.cat([batch.labels for batch in take(task, 3, batch_size=1000)])
    assert torch.equal(small, large)


# Exact ceilings


def seen_probability(task, shown, true, scored=None):
    """How probable it is that a token shows as this, by going through what may happen to it."""
    rate, v = task.mask_rate, task.n_classes
    when_scored = 0.8 * (shown == task.mask) + 0.1 * (shown == true) + 0.1 / v * (shown != task.mask)
    return when_scored * rate if scored else (1 - rate) * (shown == true) + when_scored * rate


@pytest.mark.parametrize("name", ["hidden", "cfg3b_tail"])
def test_the_posterior_is_that_of_going_through_all_strings(name):
    task = GrammarTask(name, eval_strings=6)
    batch = task.split("test")
    found = task.posterior(batch)
    strings = language(task.grammar)
    for row in range(len(batch)):
        shown = [token for token in batch.inputs[row].tolist() if token != task.pad]
        alike = [one for one in strings if len(one) == len(shown)]
        tokens, shares = np.array(alike), np.array([strings[one] for one in alike])
        single = np.array([[seen_probability(task, s, t) for t in range(3)] for s in shown])
        likelihood = single[np.arange(len(shown)), tokens]  # [strings, tokens]
        for place in range(len(shown)):
            own = np.array([seen_probability(task, shown[place], t, scored=True) for t in range(3)])
            others = shares * np.delete(likelihood, place, axis=1).prod(axis=1) * own[tokens[:, place]]
            expected = np.array([others[tokens[:, place] == t].sum() for t in range(3)])
            np.testing.assert_allclose(found[row, place].numpy(), expected / expected.sum(), atol=1e-9)
        assert (found[row, len(shown) :] == 0).all()


@pytest.mark.parametrize(("name", "accuracy"), [("hidden", 0.808), ("cfg3b_tail", 0.957)])
def test_the_ceiling_of_masked_accuracy_is_known_and_reached_on_average(name, accuracy):
    """The numbers are those of 30,000 other strings of all splits; here, on 2,048, within four standard errors."""
    task = GrammarTask(name, eval_strings=2_048)
    ceiling, batch = task.ceiling(), task.split("test")
    best, scored = task.posterior(batch), batch.labels != IGNORED
    assert abs(ceiling.accuracy - accuracy) < 0.012
    right = (best.argmax(dim=-1) == batch.labels)[scored].double()
    loss = -best[scored].gather(1, batch.labels[scored][:, None]).log()
    assert abs(right.mean().item() - ceiling.accuracy) < 4 * right.std().item() / len(batch) ** 0.5
    assert abs(loss.mean().item() - ceiling.loss) < 4 * loss.std().item() / len(batch) ** 0.5


def test_no_predictor_that_takes_seen_tokens_at_their_word_exceeds_the_ceiling():
    task = GrammarTask("hidden", eval_strings=2_048)
    batch, ceiling = task.split("test"), task.ceiling()
    scored = batch.labels != IGNORED
    neighbours = batch.inputs.roll(1, dims=1)
    for guess in (torch.zeros_like(neighbours), neighbours.clamp(max=2)):
        assert (guess == batch.labels)[scored].double().mean().item() < ceiling.accuracy - 0.2
    blind = token_posterior(task.grammar, torch.where(batch.inputs == task.pad, task.pad, task.mask))
    assert (blind.argmax(dim=-1) == batch.labels)[scored].double().mean().item() < ceiling.accuracy - 0.2


def test_the_floor_of_the_next_token_is_the_known_one():
    task = GrammarTask("hidden", "next")
    ceiling = task.ceiling()
    assert abs(ceiling.loss - 0.542) < 0.012
    few = task.ceiling(n=50)
    best = task.posterior(task.split("test"))[:50]
    scored = task.split("test").labels[:50] != IGNORED
    assert few.accuracy == pytest.approx(best.amax(dim=-1)[scored].mean().item())


def test_without_structure_the_ceiling_is_what_a_kept_token_tells():
    """If all strings of a length are equally likely, a mask is a guess and only seen tokens can be known."""
    task = GrammarTask(ANY, eval_strings=512)
    batch = task.split("test")
    best = task.posterior(batch)
    hidden = batch.inputs == task.mask
    torch.testing.assert_close(best[hidden], torch.full_like(best[hidden], 1 / 3))
    shown = (batch.inputs < task.mask) & (batch.labels != IGNORED)
    right = best[shown].gather(1, batch.inputs[shown][:, None])
    torch.testing.assert_close(right, torch.full_like(right, (0.1 + 0.1 / 3) / 0.2))
    assert task.ceiling().accuracy == pytest.approx(0.8 / 3 + 0.2 * (0.1 + 0.1 / 3) / 0.2, abs=0.02)


def test_the_derivations_are_those_of_the_split():
    task = GrammarTask("hidden", "next", eval_strings=700)
    trees = task.derivations("validation")
    assert trees.symbols.shape == trees.starts.shape == (3, 700, 18)
    strings = np.where(
        task.split("validation").labels.numpy() == IGNORED, task.pad, task.split("validation").labels.numpy()
    )
    assert np.array_equal(trees.tokens, strings)


# Text


def test_windows_stay_within_their_part_of_the_text(tmp_path):
    path = tmp_path / "parts.txt"
    path.write_text("abab" * 200 + "ba" * 50 + "aabb" * 25)  # 800, 100 and 100 characters
    task = TextTask(path, length=10, objective="next")
    parts = {"train": "ab" * 400, "validation": "ba" * 50, "test": "aabb" * 25}
    for name in ("validation", "test"):
        rows = ["".join(task.symbols(row)) for row in task.split(name).labels]
        assert len(rows) == 10
        assert "".join(rows) == parts[name]
    for batch in take(task, 20):
        assert all("".join(task.symbols(row)) in parts["train"] for row in batch.labels)


def test_fewer_windows_are_spread_over_the_part(text):
    task = TextTask(text, length=16, objective="next", eval_windows=4)
    part = TEXT[len(TEXT) * 9 // 10 :]
    rows = ["".join(task.symbols(row)) for row in task.split("test").labels]
    assert rows == [part[16 * k : 16 * k + 16] for k in (0, 4, 8, 12)]


def test_the_alphabet_is_that_of_the_training_part(text):
    task = TextTask(text, length=16)
    assert task.class_names == tuple(sorted(set(TEXT)))
    assert task.symbols(task.encode("the fox")) == list("the fox")
    with pytest.raises(InvalidValueError, match="symbols = 'Ä' is not allowed: only the symbols of the training part"):
        task.encode("thÄt")
    with pytest.raises(InvalidValueError, match="at least one"):
        task.encode("")


def test_hidden_tokens_and_padding_are_shown_as_such():
    task = GrammarTask("hidden")
    tokens = torch.tensor([*task.encode("abc").tolist(), task.mask, task.pad])
    assert task.symbols(tokens) == ["a", "b", "c", "□"]
    assert task.symbols(tokens, masked="?")[-1] == "?"
    assert task.encode(["c", "a"]).tolist() == [2, 0]


def test_packed_text_and_a_byte_order_mark_change_nothing(tmp_path, text):
    packed, marked = tmp_path / "fox.gz", tmp_path / "marked.txt"
    packed.write_bytes(gzip.compress(text.read_bytes()))
    marked.write_bytes(b"\xef\xbb\xbf" + text.read_bytes())
    plain = TextTask(text, length=16)
    for other in (packed, marked):
        assert torch.equal(TextTask(other, length=16).split("test").inputs, plain.split("test").inputs)
    assert TextTask(packed, length=16).fingerprint() == plain.fingerprint()


def test_the_bundled_text_is_the_recorded_one_and_described():
    task = TextTask()
    assert (task.n_classes, task.input_shape, len(task.split("test"))) == (83, (64,), 512)
    assert DEVIL.sha256 in json.dumps(task.fingerprint())
    readme = (paths.data() / "README.md").read_text(encoding="utf-8")
    size = (paths.data() / DEVIL.name).stat().st_size
    assert f"`{DEVIL.name}`" in readme
    assert DEVIL.sha256 in readme
    assert f"{size:,} bytes" in readme
    assert "A Public Domain Text, Copyright Expired" in readme


@pytest.fixture
def script():
    return runpy.run_path(str(paths.root() / "scripts" / "make_devils_dictionary.py"))


def test_the_script_takes_the_book_out_of_the_package(script, tmp_path):
    path = tmp_path / "devil.dict.dz"
    path.write_bytes(gzip.compress(b"00-database-short\n   PREFACE\n\nA.\n\n abcdefghijklmnopqrstuvwxyz\n"))
    assert script["build"](path) == b"PREFACE\n\nA.\n"
    path.write_bytes(gzip.compress(b"something else\n"))
    with pytest.raises(InvalidValueError, match="is not the file of dict-devil"):
        script["build"](path)


def test_the_script_gives_the_bundled_text(script):
    if not script["SOURCE"].is_file():
        pytest.skip("the package dict-devil is not installed")
    assert script["build"](script["SOURCE"]) == (paths.data() / DEVIL.name).read_bytes()


def test_a_bundled_text_that_was_changed_is_refused(tmp_path, monkeypatch):
    (tmp_path / DEVIL.name).write_text(TEXT)
    monkeypatch.setattr(paths, "data", lambda: tmp_path)
    with pytest.raises(MissingDataError, match=DEVIL.name):
        TextTask()


def test_a_text_file_that_cannot_be_used_is_named(tmp_path):
    path = tmp_path / "mine.txt"
    with pytest.raises(MissingDataError, match=r"mine.txt is missing"):
        TextTask(path)
    path.write_bytes(b"abc\xff" * 400)
    with pytest.raises(InvalidValueError, match=r"file = .*mine.txt.*UTF-8; byte 3 is 0xff"):
        TextTask(path)
    path.write_text("ab" * 300)
    with pytest.raises(
        InvalidValueError, match=r"length = 64 is not allowed: at most 60, .* 600 characters of mine.txt"
    ):
        TextTask(path)
    assert len(TextTask(path, length=60).split("test")) == 1
    path.write_text("")
    with pytest.raises(InvalidValueError, match="length = 64 is not allowed: at most 0"):
        TextTask(path)
    path.write_text("ab" * 480 + "aß" * 20 + "ab" * 100)
    with pytest.raises(InvalidValueError, match=r"validation part of mine.txt = 'ß' is not allowed: only the symbols"):
        TextTask(path, length=10)
    path.write_text("a" * 1000)
    with pytest.raises(InvalidValueError, match="at least two different characters"):
        TextTask(path, length=10)


# What is refused, and fingerprints


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mask_rate": 0.0}, "mask_rate = 0.0 is not allowed: a number above 0 and below 1"),
        ({"mask_rate": 1.0}, "mask_rate = 1.0 is not allowed"),
        ({"mask_rate": 1}, "mask_rate = 1 is not allowed"),
        ({"mask_rate": -0.1}, "mask_rate = -0.1 is not allowed"),
        ({"mask_rate": float("nan")}, "mask_rate = nan is not allowed"),
        ({"mask_rate": True}, "mask_rate = True is not allowed"),
        ({"objective": "mask"}, "unknown objective 'mask'. Did you mean 'masked'?"),
    ],
)
def test_bad_options_are_refused(make, options, said):
    with pytest.raises(InvalidValueError, match=re.escape(said)):
        make(**options)


def test_bad_sizes_and_names_are_refused(make, text):
    with pytest.raises(InvalidValueError, match="eval_strings = 0"):
        GrammarTask("hidden", eval_strings=0)
    with pytest.raises(InvalidValueError, match="eval_windows = 0"):
        TextTask(text, eval_windows=0)
    with pytest.raises(InvalidValueError, match="length = 0"):
        TextTask(text, length=0)
    with pytest.raises(InvalidValueError, match="batch_size = 0"):
        make().batches(0, 0)
    with pytest.raises(InvalidValueError, match="split = 'train' is not allowed: one of validation, test"):
        make().split("train")
    with pytest.raises(InvalidValueError, match="n = 0 is not allowed"):
        GrammarTask("hidden").ceiling(n=0)
    with pytest.raises(UnknownNameError, match=r"unknown grammar 'hiden'"):
        GrammarTask("hiden")


def test_a_grammar_of_too_few_strings_is_refused():
    tiny = Grammar(name="tiny", tokens=("a", "b"), start=["x"], rules={"x": ["a b", "b a"]})
    with pytest.raises(
        InvalidValueError, match=r"grammar = 'tiny' is not allowed: one with more strings: none of 102,400"
    ):
        GrammarTask(tiny)


def test_a_posterior_of_what_the_grammar_cannot_give_is_refused():
    task = GrammarTask("hidden", "next")
    batch = task.split("test")
    batch = type(batch)(batch.inputs[:1], torch.where(batch.labels[:1] == IGNORED, IGNORED, 0))
    with pytest.raises(InvalidValueError, match="cannot derive"):
        task.posterior(batch)


def test_fingerprints_are_json_and_tell_tasks_apart(text, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text(TEXT.replace("quick", "slow"))
    tasks = [
        *(GrammarTask(name) for name in ("hidden", "cfg3b_tail", ANY)),
        *(
            GrammarTask("hidden", **option)
            for option in ({"objective": "next"}, {"mask_rate": 0.15}, {"seed": 1}, {"eval_strings": 9})
        ),
        *(TextTask(text, length=length) for length in (16, 17)),
        *(TextTask(file, length=16, objective="next") for file in (text, other)),
        *(TextTask(text, length=16, **option) for option in ({"mask_rate": 0.15}, {"seed": 1}, {"eval_windows": 9})),
    ]
    texts = [json.dumps(task.fingerprint(), sort_keys=True) for task in tasks]
    assert len(set(texts)) == len(texts)
    assert GrammarTask("hidden").fingerprint() == tasks[0].fingerprint()
    assert GrammarTask("hidden", "next", mask_rate=0.2).fingerprint() == tasks[3].fingerprint()  # nothing is masked


def test_each_task_can_say_how_it_was_made(text):
    assert repr(GrammarTask("hidden", seed=3)) == "GrammarTask('hidden', 'masked', mask_rate=0.3, seed=3)"
    assert repr(TextTask(text, length=16)) == "TextTask('fox', length=16, objective='masked', seed=0)"


# Networks


def test_networks_learn_something_and_stay_below_the_ceiling(text):
    plan = TrainPlan(steps=80, batch_size=32, eval_every=40, lr=0.01, optimiser="adam")
    for task, guessing in (
        (GrammarTask("hidden", "next", eval_strings=300), 1 / 3),
        (GrammarTask("hidden", eval_strings=300), 1 / 3),
        (TextTask(text, length=16), TEXT.count(" ") / len(TEXT)),
    ):
        found = fit(language_transformer(task, width=16, heads=2, layers=2), task, plan, seed=0).test_accuracy
        assert found > guessing + 0.08
        if isinstance(task, GrammarTask):
            assert found < task.ceiling().accuracy
