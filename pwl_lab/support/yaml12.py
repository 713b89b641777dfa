"""What a person types as a value, or writes into a preset or a grid: one strict reading of YAML for all of them.

The grammar is ruamel.yaml's; what a plain word means is YAML 1.2's core schema (section 10.3.2 of its specification), and
nothing beyond it: `050` is fifty, while `1:30`, `no`, `5_000` and `2024-13-45` are texts. What could stand for something
else than it shows is refused: anchors and aliases, tags, directives, a second document, a key that is given twice or is
not a text, and a number that no float can hold.
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

DEEPEST = 20  # lists and mappings within each other
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
    """What this YAML says: None, true or false, numbers, texts, lists, and mappings from texts; None for an empty text.

    Raises InvalidValueError, whose text is the reason and, where there are several lines, the line.
    """
    value, documents = None, 0
    try:
        events = iter(YAML(typ="safe", pure=True).parse(text))
        for event in events:
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if event.version or event.tags:
                    raise _refused("directives (%) are not read: values are those of YAML 1.2", event.start_mark)
                if documents > 1:
                    raise _refused(f"a second document ({'---' if event.explicit else 'after ...'})", event.start_mark)
            elif isinstance(event, NodeEvent):
                value = _value(event, events)
    except MarkedYAMLError as error:
        raise _refused(error.problem or error.context or "this is not YAML", error.problem_mark) from None
    except YAMLError as error:
        raise InvalidValueError(f"this is not YAML: {' '.join(str(error).split())}") from None
    return value


def _plain(text: str) -> Any:
    """What a word without quotes means in YAML 1.2. Raises InvalidValueError for a number that no float can hold."""
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
    """The value that begins with `event`; what else belongs to it is taken from `events`."""
    if not isinstance(event, ScalarEvent | CollectionStartEvent) or event.anchor:
        raise _refused("anchors (&) and aliases (*) are not read; write the value itself", event.start_mark)
    if event.tag is not None:  # it says that a value is something else than it looks
        raise _refused(f"tags ({event.tag}) are not read; put a text into quotes", event.start_mark)
    if isinstance(event, ScalarEvent):
        return _scalar(event)
    if depth == DEEPEST:
        raise _refused(f"more than {DEEPEST} lists or mappings within each other", event.start_mark)
    if not isinstance(event, MappingStartEvent):
        return [_value(each, events, depth + 1) for each in _inside(events)]
    content: dict[str, Any] = {}
    for each in _inside(events):
        key = _value(each, events, depth + 1)
        if not isinstance(key, str):
            raise _refused(f"the key {key} is not a text; put it into quotes", each.start_mark)
        if key in content:
            raise _refused(f"{key} is given twice", each.start_mark)
        content[key] = _value(next(events), events, depth + 1)
    return content


def _inside(events: Iterator[Event]) -> Iterator[Event]:
    """The first event of each value in a list, or of each key in a mapping, up to its end."""
    while not isinstance(event := next(events), CollectionEndEvent):
        yield event


def _scalar(event: ScalarEvent) -> Any:
    """A text in quotes or a block as it stands, a plain word as what it means."""
    if event.style is not None:
        return event.value
    try:
        return _plain(event.value)
    except InvalidValueError as error:
        raise _refused(str(error), event.start_mark) from None


def _refused(reason: str, mark: Any) -> InvalidValueError:
    """An error with the reason and, from the second line on, the line."""
    return InvalidValueError(f"line {mark.line + 1}: {reason}" if mark is not None and mark.line else reason)
