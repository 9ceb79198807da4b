"""What a column holds, and what two of them have in common.

A `Shape` describes the values of a column, nested ones included, closely enough to decide without
reading them again whether two chunks fit one Arrow type. The order is small: null is below
everything, integers are below floats where every one of them is exact as a float, lists and
objects are merged member by member, and whatever has nothing in common becomes JSON text.

==========================  ==============================================================
Python                      Arrow
==========================  ==============================================================
``None``                    null
``bool``                    bool
``int``                     int64; uint64 if none is negative and one needs it; else JSON text
``float``                   float64
``str``, ``UUID``           string; U+FFFD in place of what UTF-8 can't say, a lone surrogate
``bytes``                   binary
``datetime`` without zone   timestamp[us]
``datetime`` with zone      timestamp[us, tz=UTC], the same instant
``date``, ``time``          date32, time64[us]
``timedelta``               duration[us]
``Decimal``                 decimal128(38, digits after the point); JSON text if it does not fit
``list``, ``tuple``         list
``set``, ``frozenset``      list, sorted
``dict`` with text keys     struct of all keys seen; JSON text for more than 1,000 of them
``dict`` with other keys    JSON text, a list of pairs
``Enum``, numpy scalar      as their plain value
==========================  ==============================================================

An object without any key is written as the JSON text ``{}`` as long as no row shows a key: an
Arrow struct without members can be stored, but not written to Parquet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

MAX_KEYS = 1_000
"""Different keys of a nested object above which it becomes JSON text."""
MAX_DEPTH = 24
"""Nesting above which values become JSON text; Arrow's own reader stops at 64 levels."""
MAX_DECIMAL_DIGITS = 38
LONE_SURROGATES = "text with lone surrogates"
"""In words, halves of characters, such as some services write into their JSON."""

_EXACT_AS_FLOAT = 2**53
_INT64_LOW, _INT64_HIGH = -(2**63), 2**63 - 1
_UINT64_HIGH = 2**64 - 1

_WORDS = {
    "bool": "booleans",
    "int": "integers",
    "float": "floats",
    "text": "text",
    "bytes": "bytes",
    "date": "dates",
    "datetime": "date-times without a zone",
    "instant": "date-times with a zone",
    "time": "times of day",
    "duration": "durations",
    "decimal": "decimals",
    "list": "lists",
    "struct": "objects",
}
_FORMS = {
    "json": "JSON text",
    "float": "float64",
    "text": "text with U+FFFD in place of each",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """What the values of one column have in common.

    Attributes:
        kind: ``null``, ``json`` or a key of the table of words in this module.
        low: Least integer; for decimals the most digits after the point.
        high: Greatest integer; for decimals the most digits before the point.
        item: What the items of a list have in common.
        members: Per key of an object its values, in the order in which keys were first seen.
        held: In words what was met, where that is more than ``kind`` says.
    """

    kind: str
    low: int = 0
    high: int = 0
    item: Shape | None = None
    members: Mapping[str, Shape] = field(default_factory=dict)
    held: frozenset[str] = frozenset()


NULL = Shape("null")
Layout: TypeAlias = "str | tuple[str, Layout] | tuple[str, tuple[tuple[str, Layout], ...]]"


def json_shape(*held: str) -> Shape:
    """JSON text, and in words why."""
    return Shape("json", held=frozenset(held))


def integers(low: int, high: int) -> Shape:
    """Integers from ``low`` to ``high``."""
    if low >= _INT64_LOW and high <= (_INT64_HIGH if low < 0 else _UINT64_HIGH):
        return Shape("int", low, high)
    return json_shape("integers beyond 64 bits")


def decimals(after: int, before: int) -> Shape:
    """Decimals with at most so many digits after and before the point."""
    if after + before <= MAX_DECIMAL_DIGITS:
        return Shape("decimal", after, before)
    return json_shape(f"decimals of more than {MAX_DECIMAL_DIGITS} digits")


def objects(members: Mapping[str, Shape]) -> Shape:
    """Objects with these keys, each of which may be missing in some."""
    if len(members) <= MAX_KEYS:
        return Shape("struct", members=members)
    return json_shape(f"objects with more than {MAX_KEYS:,} different keys")


def words(shape: Shape) -> frozenset[str]:
    """Say in words what a column held."""
    return shape.held or frozenset({_WORDS[shape.kind]})


def is_unsigned(shape: Shape) -> bool:
    """Whether integers of this shape need the unsigned type."""
    return shape.kind == "int" and shape.high > _INT64_HIGH


def merge(left: Shape, right: Shape) -> Shape:
    """Find the least shape that covers both; associative, and commutative but for key order."""
    if left is right or right.kind == "null":
        return left
    if left.kind == "null":
        return right
    if left.kind == right.kind:
        return _merge_alike(left, right)
    if {left.kind, right.kind} == {"int", "float"}:
        ints = left if left.kind == "int" else right
        if ints.low >= -_EXACT_AS_FLOAT and ints.high <= _EXACT_AS_FLOAT:
            return Shape("float", held=words(left) | words(right))
        return json_shape("floats", "integers that no float holds exactly")
    return json_shape(*words(left), *words(right))


def _merge_alike(left: Shape, right: Shape) -> Shape:
    match left.kind:
        case "int":
            return integers(min(left.low, right.low), max(left.high, right.high))
        case "decimal":
            return decimals(max(left.low, right.low), max(left.high, right.high))
        case "list":
            return Shape("list", item=merge(left.item or NULL, right.item or NULL))
        case "struct":
            return objects(merge_members(left.members, right.members))
        case "json":
            return json_shape(*left.held, *right.held)
    if left.held == right.held:
        return left
    return Shape(left.kind, held=words(left) | words(right))


def merge_members(left: Mapping[str, Shape], right: Mapping[str, Shape]) -> dict[str, Shape]:
    """Merge columns by name; the names of ``left`` come first."""
    merged = dict(left)
    for name, shape in right.items():
        known = merged.get(name)
        merged[name] = shape if known is None else merge(known, shape)
    return merged


def layout(shape: Shape) -> Layout:
    """Say how values of this shape are stored; equal layouts need no conversion."""
    if shape.kind == "list":
        return ("list", layout(shape.item or NULL))
    if shape.kind == "struct":
        return ("struct", members_layout(shape.members))
    if shape.kind == "decimal":
        return f"decimal {shape.low}"
    return "unsigned" if is_unsigned(shape) else shape.kind


def members_layout(members: Mapping[str, Shape]) -> tuple[tuple[str, Layout], ...]:
    """Layout of columns, order included."""
    return tuple((name, layout(shape)) for name, shape in members.items())


def notes(members: Mapping[str, Shape]) -> tuple[str, ...]:
    """One sentence for each column, nested ones included, whose values had to change form."""
    return tuple(_notes(members, ""))


def _notes(members: Mapping[str, Shape], prefix: str) -> Iterator[str]:
    for name, shape in members.items():
        path = f"{prefix}{name}"
        while shape.kind == "list" and shape.item is not None:
            path, shape = f"{path}[]", shape.item
        if shape.kind == "struct":
            yield from _notes(shape.members, f"{path}.")
        elif shape.held:
            form = _FORMS[shape.kind]
            yield f"Column {path!r} held {_enumerate(sorted(shape.held))}: it is written as {form}."


def _enumerate(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
