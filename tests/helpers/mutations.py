"""What an enemy may make of JSON, and of the files that go with it."""

import copy
import json
from typing import Any

from hypothesis import strategies as st

DEEP: list = []
for _ in range(50):
    DEEP = [DEEP]
ODD = [
    *(None, True, -1, 0, 1, 2, 3, 7, 255, 20_000, 10**6, 10**9, 2**31, 2**63, 10**30, -(10**30)),
    *(0.0, -0.5, 0.5, 1.5, 3.0, 1e308, float("nan"), float("inf"), float("-inf")),
    *("", "x", "F32", "I8", "BOOL", "float32", "complex64", "mlp", "vit", "always", "\0", "\ud800", "a" * 5000),
    *([], {}, [1], [0], [-1], [1, 1], [10**9] * 3, [0, 10**30], {"": 1}, DEEP),
]


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The paths of all parts of a JSON value, its own (empty) first."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, part in inner for found in places(part, (*path, key)))]


@st.composite
def mutated(draw: st.DrawFn, value: Any, most: int = 3) -> Any:
    """`value` with one to `most` of its parts replaced, removed, moved, doubled or made larger."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, most))):
        paths = [path for path in places(value) if path]
        if not paths:
            return value
        path = draw(st.sampled_from(paths))
        holder = value
        for key in path[:-1]:
            holder = holder[key]
        before = holder[path[-1]]
        how = draw(st.sampled_from(["odd", "odd", "remove", "copy", "double", "scale", "add"]))
        if how == "remove":
            del holder[path[-1]]
        elif how == "copy":  # of what stands elsewhere, so of the right kind more often
            other = value
            for key in draw(st.sampled_from(paths)):
                other = other[key] if isinstance(other, dict | list) and _has(other, key) else other
            holder[path[-1]] = copy.deepcopy(other)
        elif how == "double" and isinstance(before, list):
            holder[path[-1]] = before + copy.deepcopy(before)
        elif how == "scale" and type(before) is int:
            holder[path[-1]] = before * draw(st.sampled_from([-1, 2, 1000, 10**9]))
        elif how == "add" and isinstance(before, dict):
            before[draw(st.sampled_from(["", "x", "__metadata__", "w::int8", "w::scale:float32", "::"]))] = draw(odd)
        else:
            holder[path[-1]] = draw(odd)
    return value


odd = st.sampled_from(ODD).map(copy.deepcopy)


def _has(holder: dict | list, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else isinstance(key, int) and key < len(holder)


@st.composite
def mutated_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """A safetensors file with its header, its numbers or its length changed."""
    length = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + length], bytearray(content[8 + length :])
    how = draw(st.sampled_from(["header", "header", "numbers", "noise", "cut", "longer", "length", "text"]))
    if how == "header":
        header = json.dumps(draw(mutated(json.loads(header)))).encode("utf-8", "surrogatepass")
    elif how == "numbers" and data:  # NaN, infinity, or what that makes of integers
        place = draw(st.integers(0, len(data) // 4 - 1)) * 4
        data[place : place + 4] = draw(
            st.sampled_from([b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f", b"\x80" * 4])
        )
    elif how == "noise":
        return draw(st.binary(min_size=8, max_size=200))
    elif how == "cut":
        data = data[: draw(st.integers(0, len(data)))]
    elif how == "longer":
        data += b"\0" * draw(st.integers(1, 64))
    elif how == "text":
        header = draw(
            st.sampled_from([b"[" * 10_000, b"{}", b"[]", b"null", b'{"a":' * 10_000, b"\xff", b'{"a":1e999}'])
        )
    size = draw(st.sampled_from([0, 2**63, len(header) + 8])) if how == "length" else len(header)
    return size.to_bytes(8, "little") + bytes(header) + bytes(data)
