"""The inside recursion against enumeration: strings, tokens, spans and prefixes."""

from math import inf, log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from languages import derivations, language, padded, values_of_grammars

from pwl_lab.support.errors import InvalidValueError
from pwl_lab.tasks.grammar import Grammar
from pwl_lab.tasks.inside import log_probability, next_token, span_posterior, token_posterior

DOUBLE = {"atol": 1e-9, "rtol": 1e-9}
few = settings(max_examples=40)


def by_enumeration(grammar, likelihood, length):
    """The posterior of each token of one string, from the likelihood of what is seen: [length, tokens]."""
    found = torch.zeros(length, len(grammar.tokens), dtype=torch.float64)
    for string, share in language(grammar).items():
        if len(string) == length:
            weight = share
            for place, token in enumerate(string):
                weight *= likelihood[place][token]
            for place, token in enumerate(string):
                found[place, token] += weight
    return found / found.sum(dim=1, keepdim=True)


@given(values=values_of_grammars())
@few
def test_the_probability_of_each_string_is_that_of_enumeration(values):
    grammar = Grammar(**values)
    strings = language(grammar)
    found = log_probability(grammar, padded(grammar, list(strings)))
    torch.testing.assert_close(found.exp(), torch.tensor(list(strings.values()), dtype=torch.float64), **DOUBLE)
    assert found.exp().sum().item() == pytest.approx(1)


@given(values=values_of_grammars())
@few
def test_what_cannot_be_derived_has_probability_zero(values):
    grammar = Grammar(**values)
    strings = language(grammar)
    n = min(grammar.longest, 5)
    others = [tuple(bits) for bits in torch.cartesian_prod(*[torch.arange(2)] * n).view(-1, n).tolist()]
    others = [one for one in others if one not in strings]
    if others:
        assert (log_probability(grammar, padded(grammar, others)) == -inf).all()
        with pytest.raises(InvalidValueError, match=f"cannot derive {len(others)} of the strings"):
            token_posterior(grammar, padded(grammar, others))


@given(values=values_of_grammars(), data=st.data())
@few
def test_the_posterior_of_hidden_tokens_is_that_of_enumeration(values, data):
    grammar = Grammar(**values)
    strings = list(language(grammar))
    chosen = data.draw(st.lists(st.sampled_from(strings), min_size=1, max_size=4))
    tokens = padded(grammar, chosen)
    hidden = torch.tensor(data.draw(st.lists(st.booleans(), min_size=tokens.numel(), max_size=tokens.numel())))
    seen = torch.where(hidden.view(tokens.shape) & (tokens != grammar.pad), grammar.mask, tokens)
    found = token_posterior(grammar, seen)
    for row, string in enumerate(chosen):
        given_ = [[float(seen[row, i] in (token, grammar.mask)) for token in range(2)] for i in range(len(string))]
        torch.testing.assert_close(found[row, : len(string)], by_enumeration(grammar, given_, len(string)), **DOUBLE)
        assert (found[row, len(string) :] == 0).all()


@given(values=values_of_grammars(), data=st.data())
@few
def test_any_likelihood_may_stand_for_what_is_seen(values, data):
    grammar = Grammar(**values)
    string = data.draw(st.sampled_from(list(language(grammar))))
    share = st.floats(0.01, 1.0)
    likelihood = data.draw(st.lists(st.tuples(share, share), min_size=len(string), max_size=len(string)))
    tokens = padded(grammar, [string])
    logs = torch.zeros(*tokens.shape, 2, dtype=torch.float64)
    logs[0, : len(string)] = torch.tensor(likelihood, dtype=torch.float64).log()
    found = token_posterior(grammar, tokens, logs)[0, : len(string)]
    torch.testing.assert_close(found, by_enumeration(grammar, likelihood, len(string)), **DOUBLE)


@given(values=values_of_grammars(), data=st.data())
@few
def test_the_posterior_of_spans_is_that_of_all_derivations(values, data):
    grammar = Grammar(**values)
    trees = derivations(grammar)
    string = data.draw(st.sampled_from(sorted({string for _, string, _ in trees})))
    hidden = data.draw(st.lists(st.booleans(), min_size=len(string), max_size=len(string)))
    tokens = padded(grammar, [string])
    tokens[0, : len(string)][torch.tensor(hidden)] = grammar.mask
    expected, total = torch.zeros(len(grammar.symbols), grammar.longest, grammar.longest + 1, dtype=torch.float64), 0.0
    for share, other, spans in trees:
        if len(other) == len(string) and all(h or a == b for h, a, b in zip(hidden, other, string, strict=True)):
            total += share
            for span in spans:
                expected[span] += share
    torch.testing.assert_close(span_posterior(grammar, tokens)[0], expected / total, **DOUBLE)


@given(values=values_of_grammars())
@few
def test_the_next_token_is_that_of_all_strings_that_begin_so_and_go_on(values):
    grammar = Grammar(**values)
    strings = language(grammar)
    chosen = list(strings)[:6]
    found = next_token(grammar, padded(grammar, chosen))
    for row, string in enumerate(chosen):
        for place in range(len(string)):
            shares = torch.zeros(2, dtype=torch.float64)
            for other, share in strings.items():
                if len(other) > place and other[:place] == string[:place]:
                    shares[other[place]] += share
            torch.testing.assert_close(found[row, place], shares / shares.sum(), **DOUBLE)
        assert (found[row, len(string) :] == 0).all()


def test_padding_beyond_the_longest_string_changes_nothing():
    grammar = Grammar.load("hidden")
    tokens = padded(grammar, list(language(grammar))[:3])
    wider = torch.nn.functional.pad(tokens, (0, 4), value=grammar.pad)
    torch.testing.assert_close(log_probability(grammar, wider), log_probability(grammar, tokens), **DOUBLE)
    shorter = tokens[:, : int((tokens != grammar.pad).sum(dim=1).max())]
    torch.testing.assert_close(log_probability(grammar, shorter), log_probability(grammar, tokens), **DOUBLE)


def test_many_strings_are_the_same_in_pieces(monkeypatch):
    grammar = Grammar.load("cfg3b_tail")
    tokens = padded(grammar, list(language(grammar))[::1000])
    whole = token_posterior(grammar, torch.where(tokens == 1, grammar.mask, tokens))
    spans = span_posterior(grammar, tokens)
    monkeypatch.setattr("pwl_lab.tasks.inside.CELLS", 1)
    torch.testing.assert_close(
        token_posterior(grammar, torch.where(tokens == 1, grammar.mask, tokens)), whole, **DOUBLE
    )
    torch.testing.assert_close(span_posterior(grammar, tokens), spans, **DOUBLE)


def test_a_long_string_with_rare_tokens_does_not_underflow():
    rules = {"x0": {"a": 1e-9, "b": 1 - 1e-9}} | {f"x{n + 1}": [f"x{n} x{n}"] for n in range(8)}
    grammar = Grammar(name="long", tokens=("a", "b"), start=["x8"], rules=rules)
    tokens = torch.zeros(1, 256, dtype=torch.int64)
    assert log_probability(grammar, tokens).item() == pytest.approx(256 * log(1e-9))
    tokens[0, 5] = grammar.mask
    assert token_posterior(grammar, tokens)[0, 5, 0].item() == pytest.approx(1e-9)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([[0, 1, 9]], "tokens = 'from 0 to 9' is not allowed: from 0 to 4"),
        ([[0, -1, 1]], "tokens = 'from -1 to 1' is not allowed"),
        ([[0, 4, 1]], "padding only at its end"),
        ([[4, 4, 4]], "every string should have a token"),
    ],
)
def test_tokens_that_are_no_strings_are_refused(rows, said):
    with pytest.raises(InvalidValueError, match=said):
        log_probability(Grammar.load("hidden"), torch.tensor(rows))
