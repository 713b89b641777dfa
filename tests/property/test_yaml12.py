"""Values as people type them: YAML 1.2 and nothing else, at every place; what is no value is refused in one sentence."""

import json
import math
import re
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pwl_lab.runner.grid import plan_grid, read_grid
from pwl_lab.runner.parameters import parse_parameters
from pwl_lab.runner.points import Point, select
from pwl_lab.study.settings import CurriculaSettings
from pwl_lab.support import config
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.support.yaml12 import read_yaml

NUMBER_WORDS = st.from_regex(r"[-+]?[0-9.:_a-fxoeEXOB+-]{1,12}", fullmatch=True)
READINGS = {  # as YAML 1.2's core schema has it; beside it what YAML 1.1, or Python, would make of the same
    "050": 50,  # 40
    "0o50": 40,
    "0x1f": 31,
    "1e-3": 0.001,  # a text
    "1:30": "1:30",  # 90
    "190:20:30.15": "190:20:30.15",
    "no": "no",  # false
    "on": "on",
    "y": "y",
    "5_000": "5_000",  # 5000
    "0b11": "0b11",  # 3
    "0x_": "0x_",
    "2024-13-45": "2024-13-45",  # no day
    "2024-01-01": "2024-01-01",  # a day
    "<<": "<<",
    "=": "=",
    "True": True,
    "~": None,
}
REFUSED = [
    "5" * 5000,
    "1" + "0" * 399,
    "1e999",
    "1e-999",
    "[" * 5000,
    "[" * 1000 + "]" * 1000,
    "- " * 3000 + "x",
    "{a: " * 500 + "1" + "}" * 500,
    "&a [*a]",
    "&a {b: *a}",
    "[&a [x, x], *a]",
    "!!int '5'",
    "!!timestamp 2024-13-45",
    "!!binary x",
    "!!python/name:os.system",
    "%YAML 1.1\n---\nno",
    "1\n---\n2",
    "{a: 1, a: 2}",
    "{1: 2}",
    "? [1]\n: 2",
    "[0",
    "\x00",
    "\udc80",
]


@pytest.fixture
def ways_in(tmp_path, monkeypatch):
    """Every place where a person types a value, as a function from its text to what was read."""

    def grid(text):
        path = tmp_path / "grid.yaml"
        path.write_text(f"notebook: 02\nparameters:\n  a: {text}\n", encoding="utf-8", errors="surrogatepass")
        return read_grid(path)[0].parameters["a"]

    def preset(text):
        return config._parsed("odd", f"distillation_curricula:\n  a: {text}\n")["distillation_curricula"]["a"]

    def only(text):
        met = []

        class Axis(dict):  # takes down what it is compared with
            def __getitem__(self, name):
                class Any:
                    def __eq__(self, other):
                        met.append(other)
                        return True

                    __hash__ = None

                return Any()

        select([Point("0", Axis(a=0), {})], [f"a={text}"])
        return met[0]

    return {"-p": lambda text: parse_parameters([f"a={text}"])["a"], "grid": grid, "preset": preset, "--only": only}


@pytest.mark.parametrize("way", ["-p", "grid", "preset", "--only"])
@pytest.mark.parametrize("text", READINGS)
def test_every_way_in_reads_the_same(ways_in, way, text) -> None:
    found = ways_in[way](text)
    assert (found, type(found)) == (READINGS[text], type(READINGS[text]))


@pytest.mark.parametrize("way", ["-p", "grid", "preset", "--only"])
@pytest.mark.parametrize("text", REFUSED, ids=lambda text: repr(text[:12]))
def test_every_way_in_refuses_the_same_in_one_short_sentence(ways_in, way, text) -> None:
    if way in ("grid", "preset") and ("\n" in text or text.startswith("- ")):
        pytest.skip("as the value of a key this is another text")
    with pytest.raises(InvalidValueError) as refusal:
        ways_in[way](text)
    assert len(str(refusal.value)) < 1000
    assert "\n" not in str(refusal.value)


@settings(max_examples=400)
@given(word=NUMBER_WORDS)
def test_a_number_is_what_the_core_schema_says_and_any_other_word_is_a_text(word) -> None:
    try:
        found = read_yaml(f"[{word}]")
    except InvalidValueError:
        return
    found = found[0] if isinstance(found, list) and len(found) == 1 else word
    if re.fullmatch(r"[-+]?[0-9]+", word):
        assert found == int(word)
        assert type(found) is int
    elif re.fullmatch(r"0o[0-7]+|0x[0-9a-fA-F]+", word):
        assert found == int(word, 0)
    elif re.fullmatch(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", word):
        assert found == float(word)
    elif not isinstance(found, dict):  # "1:" begins a mapping
        assert found == word


@settings(max_examples=300)
@given(text=st.text(max_size=40) | st.text(alphabet="[]{}:,-?&*!|>'\"%@` \n\t#ab01.", max_size=40))
def test_any_text_is_a_plain_value_or_is_refused(text) -> None:
    def check(value) -> None:
        assert value is None or type(value) in (bool, int, float, str, list, dict)
        for key, inner in (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        ):
            assert isinstance(key, str if isinstance(value, dict) else int)
            check(inner)

    with suppress(InvalidValueError):
        check(read_yaml(text))


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("ab 'é:#", max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(value=plain)
def test_json_is_read_as_json(value) -> None:
    assert read_yaml(json.dumps(value)) == value


def test_what_is_not_finite() -> None:
    assert read_yaml("[.inf, -.INF, .nan]")[:2] == [math.inf, -math.inf]
    assert math.isnan(read_yaml(".NaN"))


def test_a_wrong_number_reaches_no_settings() -> None:
    for text in ("1:30", "no", "0b1100", "1_2", "2024-01-01"):
        with pytest.raises(InvalidValueError, match="n_bits = "):
            CurriculaSettings.load("smoke", **parse_parameters([f"n_bits={text}"]))
    assert CurriculaSettings.load("smoke", **parse_parameters(["n_bits=050"])).n_bits == 50


def test_a_grid_says_in_which_line(tmp_path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text("notebook: 02\npreset: smoke\nparameters: {n_bits: &a 3, k_sparse: *a}\n")
    with pytest.raises(InvalidValueError, match=r"line 3: anchors \(&\) and aliases \(\*\) are not supported"):
        plan_grid(path)


@pytest.mark.parametrize(
    ("text", "sign"), [("a\n...\nb", "after ..."), ("a\n---\nb", "---"), ("a\n...\n---\nb", "---")]
)
def test_a_second_document_is_told_by_the_sign_that_begins_it(text: str, sign: str) -> None:
    with pytest.raises(InvalidValueError, match=re.escape(f"a second document ({sign})")):
        read_yaml(text)
