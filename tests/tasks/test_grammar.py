"""Grammars: what they derive, how often each string is drawn, the trees of strings, and what is refused."""

import json
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from languages import language, values_of_grammars
from scipy.stats import chisquare

from pwl_lab.support import paths
from pwl_lab.support.errors import InvalidValueError, MissingDataError, UnknownNameError
from pwl_lab.tasks.grammar import Grammar

OURS = ("hidden", "cfg3b_tail", "cfg3b")
SMALL = {"name": "small", "tokens": ("a", "b"), "start": ["x"], "rules": {"x": ["y y", "y"], "y": ["a", "b a"]}}


def lengths(grammar, strings):
    return (strings != grammar.pad).sum(axis=1)


def words(strings, pad):
    return [tuple(token for token in row if token != pad) for row in strings.tolist()]


@pytest.mark.parametrize("name", ["hidden", "cfg3b_tail"])
def test_every_string_of_every_length_is_drawn_as_often_as_it_should(name):
    grammar, n = Grammar.load(name), 250_000
    expected = language(grammar)
    assert sum(expected.values()) == pytest.approx(1)
    drawn = Counter(words(grammar.draw(n, np.random.default_rng(0)), grammar.pad))
    assert set(drawn) <= set(expected)
    assert min(expected.values()) * n > 5  # the test needs that
    assert chisquare([drawn[one] for one in expected], [n * share for share in expected.values()]).pvalue > 0.001
    by_length, seen = Counter(), Counter()
    for one, share in expected.items():
        by_length[len(one)] += n * share
        seen[len(one)] += drawn[one]
    assert chisquare([seen[length] for length in by_length], list(by_length.values())).pvalue > 0.001


@given(values=values_of_grammars(), seed=st.integers(0, 2**31))
@settings(max_examples=40)
def test_any_grammar_is_sampled_by_its_probabilities(values, seed):
    grammar = Grammar(**values)
    n, expected = 4_000, language(grammar)
    drawn = Counter(words(grammar.draw(n, np.random.default_rng(seed)), grammar.pad))
    assert set(drawn) <= set(expected)
    assert max(map(len, expected)) == grammar.longest
    for one, share in expected.items():
        assert abs(drawn[one] - n * share) <= 6 * (n * share * (1 - share)) ** 0.5 + 1e-6


@pytest.mark.parametrize(
    ("name", "shortest", "longest", "mean"),
    [("hidden", 12, 18, 16.0), ("cfg3b_tail", 12, 27, 20.0), ("cfg3b", 165, 380, 276.0)],
)
def test_lengths_are_those_that_are_known(name, shortest, longest, mean):
    grammar = Grammar.load(name)
    found = lengths(grammar, grammar.draw(2_000, np.random.default_rng(0)))
    assert shortest <= found.min()
    assert found.max() <= min(longest, grammar.longest)
    assert abs(found.mean() - mean) < 5 * found.std() / 2_000**0.5 + 0.05


@pytest.mark.parametrize("name", OURS)
def test_the_tree_of_a_string_follows_the_rules(name):
    grammar = Grammar.load(name)
    trees = grammar.derive(20, np.random.default_rng(3))
    assert np.array_equal(trees.tokens, grammar.draw(20, np.random.default_rng(3)))
    assert len(trees.symbols) == grammar.depth
    for row, length in enumerate(lengths(grammar, trees.tokens)):
        assert (trees.symbols[:, row, length:] == -1).all()
        assert (trees.starts[:, row, length:] == -1).all()
        levels = [
            [(begin, grammar.symbols[symbol]) for begin, symbol in sorted(set(zip(starts, symbols, strict=True)))]
            for starts, symbols in zip(trees.starts[:, row, :length], trees.symbols[:, row, :length], strict=True)
        ]
        levels.append([(place, grammar.tokens[token]) for place, token in enumerate(trees.tokens[row, :length])])
        assert levels[0] == [(0, levels[0][0][1])]
        assert levels[0][0][1] in grammar.start
        for above, below in pairwise(levels):
            for (begin, symbol), (end, _) in zip(above, [*above[1:], (length, "")], strict=True):
                children = " ".join(child for place, child in below if begin <= place < end)
                assert children in grammar.rules[symbol]


def test_a_token_that_is_derived_early_keeps_its_parent_at_the_levels_below():
    rules = {"x": ["a y"], "y": ["b z"], "z": ["a b"]}
    trees = Grammar(name="uneven", tokens=("a", "b"), start=["x"], rules=rules).derive(1, np.random.default_rng(0))
    assert trees.symbols[:, 0].tolist() == [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 2]]
    assert trees.starts[:, 0].tolist() == [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 2]]


def test_levels_do_not_depend_on_which_trees_are_drawn():
    rules = {"x": {"a b": 0.999, "y a": 0.001}, "y": ["z"], "z": ["b"]}
    trees = Grammar(name="uneven", tokens=("a", "b"), start=["x"], rules=rules).derive(2, np.random.default_rng(0))
    assert trees.symbols[:, 0].tolist() == [[0, 0]] * 3


def test_symbols_come_before_those_that_they_lead_to():
    grammar = Grammar.load("cfg3b")
    for symbol, alternatives in grammar.rules.items():
        for part in " ".join(alternatives).split():
            assert part in grammar.tokens or grammar.symbols.index(symbol) < grammar.symbols.index(part)


def test_strings_are_drawn_fast_enough():
    import time

    grammar = Grammar.load("hidden")
    grammar.draw(10, np.random.default_rng(0))
    begin = time.process_time()
    grammar.draw(20_000, np.random.default_rng(0))
    assert time.process_time() - begin < 1  # 0.06 s on one core


@pytest.mark.parametrize("name", OURS)
def test_the_grammars_are_as_published(name):
    grammar = Grammar.load(name)
    assert grammar.name == name
    assert grammar.tokens == ("a", "b", "c")
    assert grammar.start == ({"s": 1.0} if name == "cfg3b" else dict.fromkeys("jkl", 1 / 3))
    assert {share for each in grammar.rules.values() for share in each.values()} == {0.5}
    upper = Grammar.load("cfg3b").rules
    assert {one: grammar.rules[one] for one in "jklghi"} == {one: upper[one] for one in "jklghi"}


def test_a_pair_of_the_hidden_grammar_sums_to_its_parent():
    grammar = Grammar.load("hidden")
    for number, parent in enumerate("def"):
        for pair in grammar.rules[parent]:
            assert sum(grammar.tokens.index(token) for token in pair.split()) % 3 == number


def with_(**changes):
    return SMALL | changes


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (with_(rules=SMALL["rules"] | {"z": ["a"]}), "'z' is unreachable"),
        (with_(tokens=("a", "b", "c")), "'c' is unreachable"),
        (with_(rules=SMALL["rules"] | {"y": ["a", "b a", "y z"], "z": ["z a"]}), "'z' is non-terminating"),
        (with_(rules={"x": ["x"]}), "'x' is non-terminating"),
        (with_(rules=SMALL["rules"] | {"y": ["a", "b x"]}), "'x' is recursive: strings would grow without bound"),
        (with_(rules=SMALL["rules"] | {"y": ["a", "b y"]}), "'y' is recursive"),
        (
            with_(rules=SMALL["rules"] | {"y": ["a", ""]}),
            "an alternative is empty, so the grammar would derive the empty",
        ),
        (with_(rules=SMALL["rules"] | {"y": ["a", " "]}), "an alternative is empty"),
        (with_(rules=SMALL["rules"] | {"y": ["a", "b q"]}), "'q' is undefined"),
        (with_(start=["q"]), "'q' is undefined"),
        (with_(start={"x": 0.5, "y": 0.4}), "the probabilities of start should sum to 1, not to 0.9"),
        (
            with_(rules=SMALL["rules"] | {"y": {"a": 0.7, "b a": 0.7}}),
            "the probabilities of y should sum to 1, not to 1.4",
        ),
        (
            with_(rules=SMALL["rules"] | {"y": {"a": 1.0, "b a": 0.0}}),
            "the probabilities of y should be numbers above 0",
        ),
        (with_(rules=SMALL["rules"] | {"y": {"a": float("nan"), "b a": 0.5}}), "probabilities of y should be numbers"),
        (with_(rules=SMALL["rules"] | {"y": {"a": True, "b a": 0.5}}), "probabilities of y should be numbers"),
        (with_(rules=SMALL["rules"] | {"y": {"a": "1"}}), "probabilities of y should be numbers"),
        (with_(rules=SMALL["rules"] | {"y": ["a", "b a", "b  a"]}), "an alternative of y is there twice"),
        (with_(start=["x", "x"]), "an alternative of start is there twice"),
        (with_(rules=SMALL["rules"] | {"y": ["a", 1]}), "the alternatives of y should be text; put numbers in quotes"),
        (with_(rules=SMALL["rules"] | {"y": "a"}), "y should have a list of alternatives"),
        (with_(rules=SMALL["rules"] | {"y": []}), "y should have a list of alternatives"),
        (with_(rules=[]), "a mapping from symbols to their alternatives"),
        (with_(tokens=("a", "b", "a")), "the token 'a' is listed twice"),
        (with_(tokens=("a", "b", "y")), "'y' is a token, so it cannot have a rule"),
        (with_(tokens=("a", "b b")), "'b b' is not a name of a symbol"),
        (with_(tokens=("a", "")), "'' is not a name of a symbol"),
        (with_(start=["x", "a"]), "the start symbol 'a' is a token, so it has no rule"),
        (with_(start=["x y"]), "'x y' is not a name of a symbol"),
        (with_(tokens=("a",)), "tokens = "),
        (
            with_(rules={f"x{n}": [f"x{n + 1} x{n + 1}"] for n in range(10)} | {"x10": ["a", "b"]}, start=["x0"]),
            "1,024 tokens",
        ),
        ({"name": "small", "tokens": ("a", "b"), "start": ["x"]}, "rules is missing"),
        (with_(rule={}), "unknown parameter of Grammar: 'rule'. Did you mean 'rules'?"),
    ],
)
def test_a_grammar_that_is_not_valid_is_refused_by_name(values, said):
    with pytest.raises(InvalidValueError, match=re.escape(said)):
        Grammar(**values)


def test_a_grammar_is_checked_before_anything_is_computed():
    code = "import sys; from pwl_lab.tasks.grammar import Grammar; Grammar.load('cfg3b'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_grammar_is_read_from_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\ntokens: [a, b]\nstart: {x: 0.9, y: 0.1}\nrules:\n  x: [y y]\n  y: {a b: 0.25, b: 0.75}\n"
    )
    grammar = Grammar.load(path)
    assert grammar == Grammar.load(str(path))
    assert language(grammar)[0, 1] == pytest.approx(0.1 * 0.25)
    assert json.loads(json.dumps(grammar.model_dump(mode="json")))["start"] == {"x": 0.9, "y": 0.1}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"name: mine\nname: other", "name is given twice"),
        (b"- a", "it should have the keys name, tokens, start and rules"),
        (b"name: mine\ntokens: [a, b]\nstart: [x]\nrules: {x: [a b, x]}", "'x' is recursive"),
        (b"\xff\xfe", "not in UTF-8"),
    ],
)
def test_a_file_that_is_no_grammar_is_named(tmp_path, content, said):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(InvalidValueError, match=f"mine.yaml.*{said}"):
        Grammar.load(path)


def test_unknown_names_and_missing_files_are_told_apart(tmp_path):
    with pytest.raises(UnknownNameError, match=r"unknown grammar 'hiden'. Did you mean 'hidden'"):
        Grammar.load("hiden")
    with pytest.raises(MissingDataError, match=r"none.yaml is missing"):
        Grammar.load(tmp_path / "none.yaml")


def test_the_readme_lists_the_grammars():
    text = (paths.data() / "README.md").read_text(encoding="utf-8")
    for file in (paths.data() / "grammars").glob("*.yaml"):
        assert f"`{file.name}`" in text
