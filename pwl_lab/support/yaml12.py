"""A strict YAML reader for values that users type, for presets and for grids.

The grammar is ruamel.yaml's; what a plain word means is YAML 1.2's core schema (section 10.3.2 of its specification), and
nothing more: `050` is fifty, while `1:30`, `no`, `5_000` and `2024-13-45` are strings. Anything that may mean something
else than it seems to is refused: anchors and aliases, tags, directives, a second document, a key that is given twice or
is not a string, and a number that a float cannot represent.
"""

import re
import sys
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
)

from pwl_lab.support.errors import InvalidValueError

DEEPEST = 20  # levels of nested lists and mappings
LONGEST_NUMBER = 400  # characters; the largest float has 309 digits
WORDS = {"": None, "~": None} | {
    form: value
    for word, value in (("null", None), ("true", True), ("false", False))
    for form in (word, word.title(), word.upper())
}
WHOLE = {re.compile(r"[-+]?[0-9]+"): 10, re.compile(r"0o[0-7]+"): 8, re.compile(r"0x[0-9a-fA-F]+"): 16}
DECIMAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def read_yaml(text: str) -> Any:
    """Parse YAML into None, booleans, numbers, strings, lists, and mappings with string keys; an empty text is None.

    Raises InvalidValueError with the reason and, if the text has several lines, the line.
    """
    value, documents = None, 0
    try:
        events = iter(YAML(typ="safe", pure=True).parse(text))
        for event in events:
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if event.version or event.tags:
                    raise _refused("directives (%) are not supported: values are read as YAML 1.2", event.start_mark)
                if documents > 1:
                    raise _refused(f"a second document ({'---' if event.explicit else 'after ...'})", event.start_mark)
            elif isinstance(event, NodeEvent):
                value = _value(event, events)
    except MarkedYAMLError as error:
        raise _refused(error.problem or error.context or "this is not valid YAML", error.problem_mark) from None
    except YAMLError as error:
        raise InvalidValueError(f"this is not valid YAML: {' '.join(str(error).split())}") from None
    return value


def _plain(text: str) -> Any:
    """The value of an unquoted word in YAML 1.2. Raises InvalidValueError for a number that does not fit a float."""
    if text in WORDS:
        return WORDS[text]
    base = next((base for pattern, base in WHOLE.items() if pattern.fullmatch(text)), None)
    if base is None and not DECIMAL.fullmatch(text):
        return float(text.replace(".", "", 1)) if NOT_FINITE.fullmatch(text) else text
    if len(text) > LONGEST_NUMBER:
        raise InvalidValueError(f"a number of {len(text):,} characters is too long")
    value = int(text, base) if base else float(text)
    vanished = value == 0 and bool(re.search("[1-9]", re.split("[eE]", text)[0])) and base is None
    if vanished or abs(value) > sys.float_info.max:
        raise InvalidValueError(f"the number {text} is too {'small' if vanished else 'large'} for a float")
    return value


def _value(event: Event, events: Iterator[Event], depth: int = 0) -> Any:
    """The value that begins with `event`; the rest of it is taken from `events`."""
    if not isinstance(event, ScalarEvent | CollectionStartEvent) or event.anchor:
        raise _refused("anchors (&) and aliases (*) are not supported; write the value itself", event.start_mark)
    if event.tag is not None:  # a tag changes what a value means
        raise _refused(f"tags ({event.tag}) are not supported; put a string in quotes", event.start_mark)
    if isinstance(event, ScalarEvent):
        return _scalar(event)
    if depth == DEEPEST:
        raise _refused(f"more than {DEEPEST} nested lists or mappings", event.start_mark)
    if not isinstance(event, MappingStartEvent):
        return [_value(each, events, depth + 1) for each in _inside(events)]
    content: dict[str, Any] = {}
    for each in _inside(events):
        key = _value(each, events, depth + 1)
        if not isinstance(key, str):
            raise _refused(f"the key {key} is not a string; put it in quotes", each.start_mark)
        if key in content:
            raise _refused(f"{key} is given twice", each.start_mark)
        content[key] = _value(next(events), events, depth + 1)
    return content


def _inside(events: Iterator[Event]) -> Iterator[Event]:
    """The first event of each value in a list, or of each key in a mapping, up to its end."""
    while not isinstance(event := next(events), CollectionEndEvent):
        yield event


def _scalar(event: ScalarEvent) -> Any:
    """A quoted string or a block as it is; a plain word as its value."""
    if event.style is not None:
        return event.value
    try:
        return _plain(event.value)
    except InvalidValueError as error:
        raise _refused(str(error), event.start_mark) from None


def _refused(reason: str, mark: Any) -> InvalidValueError:
    """An error with the reason and, from the second line on, the line number."""
    return InvalidValueError(f"line {mark.line + 1}: {reason}" if mark is not None and mark.line else reason)
