"""Probabilistic context-free grammars as data: read from YAML, checked, and sampled from.

A grammar derives finitely many strings: rules must not lead back to their own symbol. torch is not imported, so that a
grammar can be checked before anything is computed.
"""

import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Int
from pydantic import Field, field_validator, model_validator

from pwl_lab.support import paths
from pwl_lab.support.config import Frozen
from pwl_lab.support.errors import InvalidValueError, MissingDataError, unknown
from pwl_lab.support.yaml12 import read_yaml
from pwl_lab.tasks.checks import check_count

LONGEST = 512  # tokens in a string; tables of spans grow with its square
SLACK = 1e-6  # how far a sum of probabilities may be from 1

Strings = Int[np.ndarray, "strings length"]  # token indices; padded at the end with `Grammar.pad`


class Derivations(NamedTuple):
    """Strings with the trees that they were derived by.

    For each level and token, `symbols` has the token's ancestor, as an index into `Grammar.symbols`, and `starts` the
    position where that ancestor's span begins; both are -1 at padding. Level 0 is the start symbol. A token that is derived
    early keeps its parent at the levels below, so the last level holds the parent of each token.
    """

    tokens: Strings
    symbols: Int[np.ndarray, "levels strings length"]
    starts: Int[np.ndarray, "levels strings length"]


class Extent(NamedTuple):
    """How many tokens are derived from a symbol at least and at most, and the last position at which they may begin."""

    shortest: int
    longest: int
    latest: int


class Grammar(Frozen):
    """Rules, each with alternatives: symbols separated by spaces.

    Alternatives in a list are equally likely; a mapping gives each one its probability.
    """

    name: str = Field(min_length=1, description="what the grammar is called")
    tokens: tuple[str, ...] = Field(min_length=2, description="what strings are made of, in the order of the classes")
    start: dict[str, float] = Field(description="the symbols that a derivation may begin with")
    rules: dict[str, dict[str, float]] = Field(description="for each symbol, what it may be replaced by")

    @classmethod
    def load(cls, name: str | Path) -> Self:
        """A grammar that comes with the study (`hidden`, `cfg3b_tail`, `cfg3b`), or the one in a YAML file.

        Raises UnknownNameError for a name that is neither, MissingDataError for a file that is missing, and
        InvalidValueError, which names the file, for a grammar that is not valid.
        """
        ours = {file.stem: file for file in (paths.data() / "grammars").glob("*.yaml")}
        path = ours.get(str(name), Path(name))
        if path.suffix != ".yaml":
            raise unknown("grammar", str(name), [*ours, "the path of a file that ends in .yaml"])
        if not path.is_file():
            raise MissingDataError(f"{path} is missing")
        try:
            content = read_yaml(path.read_text(encoding="utf-8"))
            if not isinstance(content, Mapping):
                raise InvalidValueError("it should have the keys name, tokens, start and rules")
            return cls(**content)
        except UnicodeDecodeError:
            raise InvalidValueError(f"{path} is not in UTF-8") from None
        except InvalidValueError as error:
            raise type(error)(f"{path}: {error}") from None

    @field_validator("start", mode="before")
    @classmethod
    def _weighted_start(cls, value: Any) -> dict[str, float]:
        return _weighted(value, "start")

    @field_validator("rules", mode="before")
    @classmethod
    def _weighted_rules(cls, value: Any) -> dict[str, dict[str, float]]:
        if not isinstance(value, Mapping) or not value:
            raise ValueError("a mapping from symbols to their alternatives")
        return {symbol: _weighted(alternatives, symbol) for symbol, alternatives in value.items()}

    @model_validator(mode="after")
    def _derives_strings(self) -> Self:
        """Refuse a grammar that does not define finitely many strings, none of them empty, naming the symbol."""
        if problem := next(self._problems(), None):
            raise ValueError(f"grammar {self.name!r}: {problem}")
        return self

    def _problems(self) -> Iterator[str]:
        """What is wrong, in an order in which each check may rely on the ones before."""
        right = [self.start, *self.rules.values()]
        for symbol in (one for one in self.tokens if self.tokens.count(one) > 1):
            yield f"the token {symbol!r} is listed twice"
        for symbol in (*self.tokens, *self.rules, *self.start):
            if len(symbol.split()) != 1 or symbol != symbol.strip():
                yield f"{symbol!r} is not a name of a symbol: it should be a word without spaces"
        for symbol in (one for one in self.tokens if one in self.rules):
            yield f"{symbol!r} is a token, so it cannot have a rule"
        if "" in self.tokens or any("" in alternatives for alternatives in right):
            yield "an alternative is empty, so the grammar would derive the empty string"
        for symbol in (part for alternatives in right for each in alternatives for part in each.split()):
            if symbol not in self.rules and symbol not in self.tokens:
                yield f"the symbol {symbol!r} is undefined: it has no rule and is not one of the tokens"
        for symbol in (one for one in self.start if one in self.tokens):
            yield f"the start symbol {symbol!r} is a token, so it has no rule"
        ends = _ending(self.rules, set(self.tokens))
        for symbol in (one for one in self.rules if one not in ends):
            yield f"the symbol {symbol!r} is non-terminating: no string of tokens can be derived from it"
        reached = _reached(self.rules, self.start)
        for symbol in (one for one in (*self.rules, *self.tokens) if one not in reached):
            yield f"the symbol {symbol!r} is unreachable from the start symbols"
        for symbol in self.rules:
            if symbol in _reached(self.rules, _parts(self.rules[symbol])):
                yield f"the symbol {symbol!r} is recursive: strings would grow without bound"
        if self.longest > LONGEST:
            yield f"its longest string has {self.longest:,} tokens; at most {LONGEST} are supported"

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        """The symbols that have rules, each one before those that it leads to."""
        below = {
            symbol: len(_reached(self.rules, _parts(self.rules[symbol])) & set(self.rules)) for symbol in self.rules
        }
        return tuple(sorted(self.rules, key=lambda symbol: -below[symbol]))

    @property
    def mask(self) -> int:
        """The token index that stands for a hidden token."""
        return len(self.tokens)

    @property
    def pad(self) -> int:
        """The token index after the end of a string."""
        return len(self.tokens) + 1

    @property
    def longest(self) -> int:
        """The number of tokens in the longest string."""
        return max(self.extents[number].longest for _, number in self.beginnings)

    @cached_property
    def depth(self) -> int:
        """The number of levels in the deepest derivation."""
        depth = dict.fromkeys(self.tokens, 0)
        for symbol in reversed(self.symbols):
            depth[symbol] = 1 + max(depth[part] for part in _parts(self.rules[symbol]))
        return max(depth[symbol] for symbol in self.start)

    @cached_property
    def extents(self) -> tuple[Extent, ...]:
        """How far what is derived from each token and each of `symbols` may reach."""
        n_tokens = len(self.tokens)
        least, most = ([1] * n_tokens + [0] * len(self.symbols) for _ in range(2))
        latest = [0] * len(least)
        for number, rule in reversed([*enumerate(self.alternatives, n_tokens)]):
            least[number] = min(sum(least[part] for part in parts) for _, parts in rule)
            most[number] = max(sum(most[part] for part in parts) for _, parts in rule)
        for number, rule in enumerate(self.alternatives, n_tokens):
            for _, parts in rule:
                begin = latest[number]
                for part in parts:
                    latest[part], begin = max(latest[part], begin), begin + most[part]
        return tuple(map(Extent, least, most, latest))

    @cached_property
    def alternatives(self) -> tuple[tuple[tuple[float, tuple[int, ...]], ...], ...]:
        """For each of `symbols`, the probability and the parts of each alternative.

        A part below `len(tokens)` is a token; from there on, parts count through `symbols`.
        """
        return tuple(
            tuple(
                (share, tuple(self._index[part] for part in each.split())) for each, share in self.rules[symbol].items()
            )
            for symbol in self.symbols
        )

    @cached_property
    def beginnings(self) -> tuple[tuple[float, int], ...]:
        """The start symbols, numbered as the parts of `alternatives` are, with their probabilities in front."""
        return tuple((share, self._index[symbol]) for symbol, share in self.start.items())

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: number for number, name in enumerate((*self.tokens, *self.symbols))}

    @cached_property
    def _table(self) -> "_Table":
        return _Table.of(self)

    def draw(self, n: int, random: np.random.Generator) -> Strings:
        """`n` random strings, padded to the length of the longest possible one."""
        *_, (symbols, owners, _) = self._expansions(n, random)
        return self._padded(symbols, owners, n, self.pad)

    def derive(self, n: int, random: np.random.Generator) -> Derivations:
        """`n` random strings with their trees: the strings that `draw` gives for the same random numbers."""
        rounds = list(self._expansions(n, random))
        symbols, owners, _ = rounds[-1]
        offsets = np.searchsorted(owners, np.arange(n))  # where each string begins
        above, levels, starts = np.arange(len(symbols)), [], []
        for level in range(len(rounds) - 2, -1, -1):
            above = rounds[level + 1][2][above]  # the ancestor of each token in this round
            first = np.searchsorted(above, np.arange(len(rounds[level][0])))  # its first token
            levels.append(rounds[level][0][above] - len(self.tokens))
            starts.append(first[above] - offsets[owners])
        for level in range(len(levels) - 2, -1, -1):  # the first level is the last of the list
            early = levels[level] < 0  # a token already
            levels[level][early], starts[level][early] = levels[level + 1][early], starts[level + 1][early]
        missing = self.depth - len(levels)  # the deepest derivations were not among these
        levels, starts = ([part[0]] * missing + part for part in (levels, starts))
        parts = ([self._padded(one, owners, n, -1) for one in reversed(part)] for part in (levels, starts))
        return Derivations(self._padded(symbols, owners, n, self.pad), *map(np.stack, parts))

    def _expansions(self, n: int, random: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """All strings, flat, with every symbol replaced in each round: symbols, their strings, their parents' places."""
        check_count("n", n)
        table, n_tokens = self._table, len(self.tokens)
        shares, index = zip(*self.beginnings, strict=True)
        symbols = random.choice(index, n, p=shares)
        owners = parents = np.arange(n)
        yield symbols, owners, parents
        while (symbols >= n_tokens).any():
            chosen = table.first[symbols] + (random.random(len(symbols))[:, None] >= table.below[symbols]).sum(axis=1)
            sizes = table.sizes[chosen]
            parents = np.repeat(np.arange(len(symbols)), sizes)
            within = np.arange(len(parents)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            symbols, owners = table.parts[chosen[parents], within], owners[parents]
            yield symbols, owners, parents

    def _padded(self, values: np.ndarray, owners: np.ndarray, n: int, padding: int) -> Strings:
        """Flat values of all strings as one row for each."""
        rows = np.full((n, self.longest), padding, dtype=np.int64)
        rows[owners, np.arange(len(values)) - np.searchsorted(owners, np.arange(n))[owners]] = values
        return rows


class _Table(NamedTuple):
    """The rules as arrays. A token's only alternative is the token itself."""

    first: np.ndarray  # [symbols] its first alternative
    below: np.ndarray  # [symbols, alternatives - 1] the probability of all alternatives up to each one but the last
    sizes: np.ndarray  # [all alternatives] the number of parts
    parts: np.ndarray  # [all alternatives, parts]

    @classmethod
    def of(cls, grammar: Grammar) -> "_Table":
        """The table of a grammar."""
        rules = [((1.0, (token,)),) for token in range(len(grammar.tokens))] + list(grammar.alternatives)
        width = max(len(alternatives) for alternatives in rules)
        below = np.full((len(rules), width - 1), np.inf)
        for row, alternatives in zip(below, rules, strict=True):
            row[: len(alternatives) - 1] = np.cumsum([share for share, _ in alternatives])[:-1]
        each = [parts for alternatives in rules for _, parts in alternatives]
        table = np.zeros((len(each), max(map(len, each))), dtype=np.int64)
        for line, parts in zip(table, each, strict=True):
            line[: len(parts)] = parts
        counts = [len(alternatives) for alternatives in rules]
        return cls(np.cumsum([0, *counts[:-1]]), below, np.array([len(parts) for parts in each]), table)


def _weighted(value: Any, symbol: str) -> dict[str, float]:
    """Alternatives with their probabilities, which are equal if only the alternatives are given."""
    if not isinstance(value, list | tuple | Mapping) or not value:
        raise ValueError(f"{symbol} should have a list of alternatives, or a mapping from them to their probabilities")
    if not all(isinstance(each, str) for each in value):
        raise ValueError(f"the alternatives of {symbol} should be text; put numbers in quotes")
    names = [" ".join(each.split()) for each in value]
    if len(set(names)) < len(names):
        raise ValueError(f"an alternative of {symbol} is there twice")
    if not isinstance(value, Mapping):
        return dict.fromkeys(names, 1 / len(names))
    shares = list(value.values())
    if not all(isinstance(share, int | float) and not isinstance(share, bool) and 0 < share <= 1 for share in shares):
        raise ValueError(f"the probabilities of {symbol} should be numbers above 0, up to 1")
    if abs(sum(shares) - 1) > SLACK:
        raise ValueError(f"the probabilities of {symbol} should sum to 1, not to {sum(shares):.6g}")
    return dict(zip(names, (share / math.fsum(shares) for share in shares), strict=True))


def _parts(alternatives: Mapping[str, float]) -> set[str]:
    """The symbols in these alternatives."""
    return {part for each in alternatives for part in each.split()}


def _reached(rules: Mapping[str, Mapping[str, float]], start: Mapping[str, float] | set[str]) -> set[str]:
    """The symbols that derivations from these ones contain, these included."""
    reached, new = set(), set(start)
    while new:
        reached |= new
        new = {part for symbol in new for part in _parts(rules.get(symbol, {}))} - reached
    return reached


def _ending(rules: Mapping[str, Mapping[str, float]], tokens: set[str]) -> set[str]:
    """The symbols from which a string of tokens can be derived, and the tokens."""
    ends: set[str] = set()
    new = set(tokens)
    while new:
        ends |= new
        new = {symbol for symbol, each in rules.items() if any(set(one.split()) <= ends for one in each)} - ends
    return ends
