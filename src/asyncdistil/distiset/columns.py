"""From rows to columns, in plain Python.

Everything runs column by column, because ``set(map(type, values))`` and its like look at a value
in 10 to 30 ns, where a Python function that is called for each takes ten times as long.
"""

from __future__ import annotations

import datetime
import enum
import json
import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import chain
from operator import itemgetter
from typing import Any

from asyncdistil.batch import Row
from asyncdistil.codec import encode_value
from asyncdistil.distiset.shape import (
    LONE_SURROGATES,
    MAX_DEPTH,
    NULL,
    Shape,
    decimals,
    integers,
    json_shape,
    merge,
    objects,
)

_KINDS: dict[type, str] = {
    bool: "bool",
    int: "int",
    float: "float",
    str: "text",
    bytes: "bytes",
    datetime.datetime: "datetime",
    datetime.date: "date",
    datetime.time: "time",
    datetime.timedelta: "duration",
    Decimal: "decimal",
    list: "list",
    dict: "struct",
}
_NONE = type(None)
_DIRECT_OR_NONE = frozenset({*_KINDS, _NONE})
_DURATION_DAYS = 106_000_000  # beyond them microseconds do not fit 64 bits


@dataclass(slots=True)
class Column:
    """Values of one column and what they have in common.

    Attributes:
        shape: What they have in common.
        values: One for each row, ``None`` where it is missing.
        item: For lists, all items one after another.
        members: For objects, the values of each key, one for each row.
    """

    shape: Shape
    values: Sequence[Any]
    item: Column | None = None
    members: dict[str, Column] = field(default_factory=dict)


def columns_of(rows: Sequence[Row]) -> dict[str, Column]:
    """Turn rows into columns, in the order in which their names are first seen."""
    names = dict.fromkeys(chain.from_iterable(rows))
    return {name: column_of(_pick(rows, name)) for name in names}


def column_of(values: Sequence[Any], depth: int = 0) -> Column:
    """Look at the values of one column.

    Args:
        values: One for each row.
        depth: Lists and objects around this column.
    """
    types = set(map(type, values))
    if not types <= _DIRECT_OR_NONE:
        values = [v if type(v) in _DIRECT_OR_NONE else _plain(v) for v in values]
        types = set(map(type, values))
    nullable = _NONE in types
    types.discard(_NONE)
    if not types:
        return Column(NULL, values)
    present = [v for v in values if v is not None] if nullable else values
    if len(types) > 1:
        return Column(_mixed(types, present), values)
    kind = _KINDS[types.pop()]
    if kind == "text" and not _is_unicode(present):
        whole = [None if value is None else whole_characters(value) for value in values]
        return Column(Shape("text", held=frozenset({LONE_SURROGATES})), whole)
    if kind in ("list", "struct"):
        if depth >= MAX_DEPTH:
            return Column(json_shape(f"more than {MAX_DEPTH} levels of nesting"), values)
        nest = _list_column if kind == "list" else _struct_column
        return nest(values, present, depth)
    return Column(_scalar_shape(kind, present), values)


def _mixed(types: Collection[type], present: Sequence[Any]) -> Shape:
    shape = NULL
    for each in types:
        kind = _KINDS[each]
        # Of lists and objects only the name is needed: with anything else they become JSON text.
        alike = [] if kind in ("list", "struct") else [v for v in present if type(v) is each]
        shape = merge(shape, _scalar_shape(kind, alike) if alike else Shape(kind))
    return shape


def _scalar_shape(kind: str, present: Sequence[Any]) -> Shape:
    match kind:
        case "int":
            return integers(min(present), max(present))
        case "datetime":
            return _datetime_shape(present)
        case "time":
            if any(value.tzinfo is not None for value in present):
                return json_shape("times of day with a zone")
        case "duration":
            if any(abs(value.days) > _DURATION_DAYS for value in present):
                return json_shape("durations of more than 290,000 years")
        case "decimal":
            return _decimal_shape(present)
    return Shape(kind)


def _datetime_shape(present: Sequence[datetime.datetime]) -> Shape:
    zoned = {value.tzinfo is not None for value in present}
    if True not in zoned:
        return Shape("datetime")
    if False in zoned:
        return merge(Shape("datetime"), Shape("instant"))
    # In UTC these could fall out of the years that Python knows.
    if not {value.year for value in present}.isdisjoint({datetime.MINYEAR, datetime.MAXYEAR}):
        return json_shape("date-times with a zone in the year 1 or 9999")
    return Shape("instant")


def _decimal_shape(present: Sequence[Decimal]) -> Shape:
    if not all(map(Decimal.is_finite, present)):
        return json_shape("decimals that are not finite")
    after = before = 0
    for value in present:
        _, digits, exponent = value.as_tuple()
        assert isinstance(exponent, int)
        after = max(after, -exponent)
        before = max(before, len(digits) + exponent)
    return decimals(after, before)


def _list_column(values: Sequence[Any], present: Sequence[list[Any]], depth: int) -> Column:
    item = column_of(list(chain.from_iterable(present)), depth + 1)
    return Column(Shape("list", item=item.shape), values, item=item)


def _struct_column(values: Sequence[Any], present: Sequence[Row], depth: int) -> Column:
    keys = dict.fromkeys(chain.from_iterable(present))
    if set(map(type, keys)) - {str}:
        return Column(json_shape("objects with keys that are not text"), values)
    if not _is_unicode(keys):
        return Column(json_shape("objects whose keys hold lone surrogates"), values)
    shape = objects(dict.fromkeys(keys, NULL))
    if shape.kind == "json":
        return Column(shape, values)
    filled = [{} if v is None else v for v in values] if len(present) < len(values) else values
    members = {key: column_of(_pick(filled, key), depth + 1) for key in keys}
    shapes = {key: member.shape for key, member in members.items()}
    return Column(Shape("struct", members=shapes), values, members=members)


def _pick(rows: Sequence[Row], name: str) -> list[Any]:
    try:
        return list(map(itemgetter(name), rows))
    except KeyError:
        return [row.get(name) for row in rows]


def _is_unicode(texts: Iterable[str]) -> bool:
    joined = "".join(texts)
    if joined.isascii():
        return True
    try:
        joined.encode()
    except UnicodeEncodeError:
        return False
    return True


def whole_characters(text: str) -> str:
    """Join halves of characters that stand side by side; U+FFFD stands for any other half.

    The rest of a column is not to pay for one bad text by becoming another type.
    """
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _plain(value: Any) -> Any:
    """Replace a value of a richer type by one that has a place in `_KINDS`."""
    match value:
        case tuple():
            return list(value)
        case set() | frozenset():
            return _sorted(value)
        case uuid.UUID():
            return str(value)
        case enum.Enum():
            return _plain_or_direct(value.value)
        case bytearray() | memoryview():
            return bytes(value)
    if hasattr(value, "dtype"):
        return _plain_or_direct(value.tolist())
    base: Any
    for base in (int, float, str, bytes, list, dict):
        if isinstance(value, base):
            return base(value)
    return str(value)


def _plain_or_direct(value: Any) -> Any:
    return value if type(value) in _DIRECT_OR_NONE else _plain(value)


def _sorted(members: Collection[Any]) -> list[Any]:
    """Bring a set into an order that does not depend on this process."""
    types = set(map(type, members))
    if types == {str} or types <= {int, float}:
        return sorted(members)
    return sorted(members, key=encode_value)


def json_text(value: Any) -> str:
    """Write any value that a row may hold as JSON text.

    Text is quoted, so that every cell of such a column can be read back. NaN and the infinities
    are written as Python's ``json`` writes and reads them; bytes as hexadecimal digits.
    """
    text = json.dumps(_jsonable(value), ensure_ascii=False)
    # A lone surrogate in a key becomes the escape that JSON has for it: keys stay different.
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _jsonable(value: Any) -> Any:
    if type(value) is str:
        # As in a column of text, for some chunks may have been written as one.
        return whole_characters(value)
    if type(value) in _JSON_SCALARS:
        return value
    match value:
        case list():
            return [_jsonable(each) for each in value]
        case dict():
            if set(map(type, value)) <= {str}:
                return {key: _jsonable(each) for key, each in value.items()}
            return [[_jsonable(key), _jsonable(each)] for key, each in value.items()]
        case bytes():
            return value.hex()
        case datetime.date() | datetime.time():
            return value.isoformat()
        case datetime.timedelta() | Decimal():
            return str(value)
    return _jsonable(_plain(value))


_JSON_SCALARS = frozenset({_NONE, bool, int, float})
