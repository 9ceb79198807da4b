"""Whatever rows hold and however they drift, each value is found again."""

from __future__ import annotations

import json
import math
import tempfile
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from asyncdistil.codec import decode_rows, encode_rows
from asyncdistil.distiset.columns import json_text, whole_characters
from asyncdistil.distiset.shape import Shape, decimals, integers, json_shape, layout, merge, objects
from asyncdistil.distiset.tables import StoredTable
from asyncdistil.distiset.writer import LeafWriter

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-5, 5),
    st.floats(),
    st.text(max_size=5),
    st.text(st.characters(codec=None), max_size=3),
    st.binary(max_size=3),
    st.dates(),
    st.datetimes(),
    st.datetimes(timezones=st.just(UTC)),
    st.timedeltas(),
    st.times(),
    st.uuids(),
    st.decimals(),
    st.decimals(places=2, min_value=-(10**6), max_value=10**6),
)  # fmt: skip
hashables = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3))
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.sampled_from(["a", "b", "", "\udfff"]), inner, max_size=3),
        st.dictionaries(hashables, inner, max_size=2),
        st.frozensets(hashables, max_size=3),
        st.sets(hashables, max_size=3),
    ),
    max_leaves=6,
)
names = st.sampled_from(["a", "b", "c", "", ".."])
drifting_rows = st.lists(st.dictionaries(names, anything, max_size=4), max_size=8)


def same(stored: Any, given: Any) -> bool:
    """Whether a cell stands for a value: as itself, in the documented form, or as JSON text."""
    if isinstance(stored, str):
        return (
            isinstance(given, str | UUID) and stored == whole_characters(str(given))
        ) or is_json_of(stored, given)  # text, or a UUID
    match stored, given:
        case (float(), int() | float()):
            return stored == given or (math.isnan(stored) and math.isnan(given))
        case (list(), list() | tuple()):
            return len(stored) == len(given) and all(map(same, stored, given))
        case (list(), set() | frozenset()):
            unmatched = list(stored)
            for value in given:
                found = next((each for each in unmatched if same(each, value)), unmatched)
                if found is unmatched:
                    return False
                unmatched.remove(found)
            return not unmatched
        case (dict(), dict()):
            return (
                all(
                    same(value, given[key]) if key in given else value is None
                    for key, value in stored.items()
                )
                and given.keys() <= stored.keys()
            )
    return type(stored) is type(given) and stored == given


def is_json_of(stored: str, given: Any) -> bool:
    try:
        parsed = json.loads(stored)
    except ValueError:
        return False
    return contained(parsed, json.loads(json_text(given)))


def contained(stored: Any, given: Any) -> bool:
    """Equal as JSON, but for keys that are null because other rows have them."""
    if isinstance(stored, dict) and isinstance(given, dict):
        return given.keys() <= stored.keys() and all(
            contained(value, given[key]) if key in given else value is None
            for key, value in stored.items()
        )
    if isinstance(stored, list) and isinstance(given, list):
        return len(stored) == len(given) and all(map(contained, stored, given))
    if isinstance(stored, float) and isinstance(given, float) and math.isnan(given):
        return math.isnan(stored)
    return stored == given or same_number(stored, given)


def same_number(stored: Any, given: Any) -> bool:
    """Whether two texts are one decimal: those that Arrow gave back have zeros at the end."""
    if not (isinstance(stored, str) and isinstance(given, str)):
        return False
    try:
        return Decimal(stored) == Decimal(given)
    except ArithmeticError:
        return False


@settings(max_examples=60, deadline=None)
@given(rows=drifting_rows, chunk_rows=st.integers(1, 4), shard_bytes=st.sampled_from([1, 2**20]))
def test_every_value_of_drifting_rows_is_found_again(
    rows: list[dict[str, Any]], chunk_rows: int, shard_bytes: int
) -> None:
    encoded = encode_rows(rows, step="leaf")
    decoded = decode_rows(bytes(encoded.body), len(rows))
    with tempfile.TemporaryDirectory() as folder:
        writer = LeafWriter(
            Path(folder), "exports/run", "leaf", chunk_rows=chunk_rows, shard_bytes=shard_bytes
        )
        writer.add(decoded, len(encoded.body))
        exported = writer.finish()
        source = StoredTable(Path(folder), exported.files, rows=exported.rows)
        table = source.table()
        table.validate(full=True)
        stored = table.to_pylist()
        assert len(stored) == len(rows) == exported.rows
        for found, row in zip(stored, rows, strict=True):
            assert row.keys() <= found.keys()
            for name, value in found.items():
                assert same(value, row.get(name)), (value, row.get(name), table.schema)


ranges = st.tuples(st.integers(-(2**65), 2**65), st.integers(-(2**65), 2**65))
shapes = st.recursive(
    st.one_of(
        st.sampled_from(["null", "bool", "float", "text", "bytes", "date"]).map(Shape),
        ranges.map(sorted).map(lambda pair: integers(*pair)),
        st.integers(-10, 10).map(lambda value: integers(value, value)),
        st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda pair: decimals(*pair)),
        st.just(json_shape("text", "integers")),
    ),
    lambda inner: st.one_of(
        inner.map(lambda item: Shape("list", item=item)),
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(objects),
    ),
    max_leaves=5,
)


def unordered(shape: Shape) -> Any:
    """Layout without the order of keys."""
    if shape.kind == "struct":
        return {key: unordered(member) for key, member in shape.members.items()}
    if shape.kind == "list" and shape.item is not None:
        return ["list", unordered(shape.item)]
    return layout(shape)


@given(shapes, shapes, shapes)
def test_the_order_in_which_chunks_are_merged_does_not_change_the_type(
    first: Shape, second: Shape, third: Shape
) -> None:
    assert unordered(merge(first, second)) == unordered(merge(second, first))
    left = merge(merge(first, second), third)
    right = merge(first, merge(second, third))
    assert layout(left) == layout(right)
    assert layout(merge(first, first)) == layout(first)


@given(shapes, shapes)
def test_a_merged_shape_covers_both(first: Shape, second: Shape) -> None:
    both = merge(first, second)
    assert layout(merge(both, first)) == layout(merge(both, second)) == layout(both)


@given(anything)
def test_json_text_can_always_be_read_back(value: Any) -> None:
    json.loads(json_text(value))
    json_text(value).encode()


def test_json_text_says_what_json_has_no_word_for() -> None:
    values = [date(2024, 1, 2), datetime(2024, 1, 2, 3), time(4), timedelta(1), b"\x00\xff"]
    assert json.loads(json_text(values)) == [
        "2024-01-02", "2024-01-02T03:00:00", "04:00:00", "1 day, 0:00:00", "00ff",
    ]  # fmt: skip
