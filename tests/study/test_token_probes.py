"""The probes on networks of which one knows what they know: parents in a state, predictions with and without neighbours."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from pwl_lab.study import token_probes
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.tasks.base import IGNORED, Batch
from pwl_lab.tasks.sequences import GrammarTask

TASK = GrammarTask("hidden", eval_strings=256)
TAIL = GrammarTask("cfg3b_tail", eval_strings=64)


class Stub(nn.Module):
    """A network that predicts by a rule, and whose one hidden state holds the parent of every token."""

    def __init__(self, task, rule):
        super().__init__()
        self.task, self.rule, self.seen, self.n_tokens = task, rule, [], task.n_tokens
        self.weight = nn.Parameter(torch.zeros(1))

    def stem(self, inputs):
        return torch.zeros(len(inputs), 2, inputs.shape[1])

    def hidden_states(self, inputs):
        split = next(name for name in ("validation", "test") if torch.equal(self.task.split(name).inputs, inputs))
        parents = torch.from_numpy(self.task.derivations(split).symbols[-1]).clamp_min(0)
        state = nn.functional.one_hot(parents, len(self.task.grammar.symbols)).float().transpose(1, 2)
        return [state], self(inputs)

    def forward(self, inputs):
        self.seen.append(inputs)
        return self.rule(inputs)


def teacher_of(net):
    """What stands in for a teacher with a single checkpoint."""
    return SimpleNamespace(checkpoint=lambda at_step: at_step, at=lambda _: net)


def exactly(inputs):
    return TASK.posterior(Batch(inputs, inputs)).clamp_min(1e-30).log().float()


def test_the_shown_string_is_the_splits_own_with_its_tree():
    trees, test = TAIL.derivations("test"), TAIL.split("test")
    for number in range(20):
        shown = token_probes.shown_string(TAIL, number)
        length = len(shown.tokens)
        assert [TAIL.class_names.index(token) for token in shown.tokens] == trees.tokens[number, :length].tolist()
        assert sum(shown.scored) == int((test.labels[number] != IGNORED).sum())
        for above, below in zip(shown.levels, shown.levels[1:], strict=False):
            for span in above:
                parts = [one.symbol for one in below if span.start <= one.start and one.end <= span.end]
                assert " ".join(parts) in TAIL.grammar.rules[span.symbol]
        for span in shown.levels[-1]:
            assert " ".join(shown.tokens[span.start : span.end]) in TAIL.grammar.rules[span.symbol]
        assert shown.posterior.sum(dim=1).tolist() == pytest.approx([1] * length)
    with pytest.raises(InvalidValueError, match="number = 64"):
        token_probes.shown_string(TAIL, 64)


def test_the_telling_string_has_a_sure_token_an_unsure_one_and_a_replaced_one():
    shown = token_probes.telling_string(TASK)
    best = shown.posterior.amax(dim=1)[torch.tensor(shown.scored)]
    assert best.max() > 0.9
    assert best.min() < 0.6
    assert any(seen not in (None, token) for seen, token in zip(shown.seen, shown.tokens, strict=True))


def test_parents_that_are_in_the_state_are_read_and_others_guessed():
    table = token_probes.parent_probe(TASK, teacher_of(Stub(TASK, exactly)), [7]).set_index("block")
    assert table["step"].tolist() == [7, 7]
    assert table.loc[1, "accuracy"] == 1.0
    assert table.loc[0, "accuracy"] == pytest.approx(table.loc[0, "chance"], abs=0.05), "the embedding holds nothing"


def test_scored_tokens_take_no_part_in_the_probe(monkeypatch):
    asked = []

    def guesses(known, classes, unknown):
        asked.append((len(known), len(unknown)))
        return torch.zeros(len(unknown), dtype=torch.long)

    monkeypatch.setattr(token_probes, "_linear_guesses", guesses)
    token_probes.parent_probe(TASK, teacher_of(Stub(TASK, exactly)), [0])
    splits = [TASK.split(name) for name in ("validation", "test")]
    there = tuple(int(((one.labels == IGNORED) & (one.inputs != TASK.pad)).sum()) for one in splits)
    assert asked == [there, there]


def test_a_network_that_ignores_the_neighbours_does_not_change():
    net = Stub(TASK, lambda inputs: torch.zeros(*inputs.shape, 3) + torch.arange(3.0))
    assert token_probes.neighbour_reliance(TASK, teacher_of(net), [1, 2])["change"].tolist() == [0, 0]


def test_an_exact_predictor_changes_as_the_posterior_does():
    table = token_probes.neighbour_reliance(TASK, teacher_of(Stub(TASK, exactly)), [5])
    assert table["change"].item() == pytest.approx(table["exact"].item(), abs=1e-5)
    assert 0.2 < table["exact"].item() < 0.8


def test_the_largest_change_is_one_half_of_the_absolute_differences():
    certain = torch.eye(3) * 60

    def rule(inputs):
        few = (inputs == TASK.mask).sum(dim=1) == 1
        return torch.where(few[:, None, None], certain[0], certain[1]).expand(*inputs.shape, 3)

    assert token_probes.neighbour_reliance(TASK, teacher_of(Stub(TASK, rule)), [0])["change"].item() == pytest.approx(1)


def test_one_token_is_masked_and_then_the_three_around_it():
    net = Stub(TASK, exactly)
    token_probes.neighbour_reliance(TASK, teacher_of(net), [0])
    alone, together = (inputs == TASK.mask for inputs in net.seen)
    assert (alone.sum(dim=1) == 1).all()
    assert (together.sum(dim=1) == 3).all()
    middle = alone.nonzero()[:, 1]
    assert torch.equal(together.nonzero()[:, 1].view(-1, 3), torch.stack([middle - 1, middle, middle + 1], dim=1))
    assert len(set(middle.tolist())) > 8, "anywhere in the string"
    strings = torch.from_numpy(TASK.derivations("test").tokens)
    for inputs, hidden in zip(net.seen, (alone, together), strict=True):
        assert torch.equal(inputs[~hidden], strings[~hidden])


def test_the_fall_lies_between_a_tenth_and_nine_tenths_of_the_way():
    losses = [1.5, 1.0, 1.0, 0.98, 0.8, 0.4, 0.22, 0.2, 0.2]
    history = pd.DataFrame({"step": np.arange(9) * 50, "validation_loss": losses})
    assert token_probes.phases(SimpleNamespace(history=history)) == (200, 300)


def test_checkpoints_are_spread_from_the_first_to_the_last():
    teacher = SimpleNamespace(checkpoints=[SimpleNamespace(step=step) for step in range(0, 1050, 50)])
    assert token_probes.checkpoint_steps(teacher, 3) == [0, 500, 1000]
    assert token_probes.checkpoint_steps(teacher, 99) == list(range(0, 1050, 50))
