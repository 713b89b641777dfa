"""All strings and all derivations of small grammars, by plain enumeration."""

from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from pwl_lab.tasks.grammar import Grammar


def language(grammar: Grammar) -> dict[tuple[int, ...], float]:
    """Each string with its probability."""
    n_tokens = len(grammar.tokens)
    below = {token: {(token,): 1.0} for token in range(n_tokens)}
    for symbol in reversed(range(len(grammar.symbols))):
        found: Counter = Counter()
        for share, parts in grammar.alternatives[symbol]:
            for chosen in product(*(below[part].items() for part in parts)):
                string, probability = (), share
                for piece, factor in chosen:
                    string, probability = string + piece, probability * factor
                found[string] += probability
        below[n_tokens + symbol] = found
    total: Counter = Counter()
    for share, symbol in grammar.beginnings:
        for string, probability in below[symbol].items():
            total[string] += share * probability
    return dict(total)


def derivations(grammar: Grammar) -> list[tuple[float, tuple[int, ...], list[tuple[int, int, int]]]]:
    """Each derivation: its probability, its string, and its spans as (symbol, begin, end)."""
    n_tokens = len(grammar.tokens)

    def below(part, begin):
        if part < n_tokens:
            return [(1.0, (part,), [])]
        found = []
        for share, parts in grammar.alternatives[part - n_tokens]:
            partial = [(share, (), [])]
            for each in parts:
                partial = [
                    (p * q, left + right, spans + more)
                    for p, left, spans in partial
                    for q, right, more in below(each, begin + len(left))
                ]
            found += [(p, s, [(part - n_tokens, begin, begin + len(s)), *spans]) for p, s, spans in partial]
        return found

    return [(share * p, s, spans) for share, part in grammar.beginnings for p, s, spans in below(part, 0)]


def padded(grammar: Grammar, strings: list[tuple[int, ...]]) -> torch.Tensor:
    """Strings as rows."""
    rows = np.full((len(strings), grammar.longest), grammar.pad)
    for row, string in zip(rows, strings, strict=True):
        row[: len(string)] = string
    return torch.from_numpy(rows)


@st.composite
def values_of_grammars(draw) -> dict[str, Any]:
    """Grammars of two tokens and up to three symbols, with weights; many of them are ambiguous or uneven in depth."""
    names = ["x", "y", "z"][: draw(st.integers(1, 3))]
    rules = {}
    for level, name in enumerate(names):
        parts = st.lists(st.sampled_from([*names[level + 1 :], "a", "b"]), min_size=1, max_size=2).map(" ".join)
        first = "a b" if level == len(names) - 1 else f"{names[level + 1]} a"  # all symbols are reached
        each = list(dict.fromkeys([first, *draw(st.lists(parts, max_size=2))]))
        weights = draw(st.lists(st.integers(1, 9), min_size=len(each), max_size=len(each)))
        rules[name] = {one: weight / sum(weights) for one, weight in zip(each, weights, strict=True)}
    start = draw(st.sampled_from([["x"], {"x": 0.75, names[-1]: 0.25} if len(names) > 1 else {"x": 1.0}]))
    return {"name": "drawn", "tokens": ("a", "b"), "start": start, "rules": rules}
