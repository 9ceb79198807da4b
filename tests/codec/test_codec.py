"""Every covered value comes back as what it was, type for type; everything else is refused."""

from __future__ import annotations

import contextlib
import enum
import math
import signal
import struct
import subprocess
import sys
from collections import OrderedDict, namedtuple
from dataclasses import make_dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import create_model
from xxhash import xxh3_128_digest

from asyncdistil.codec import (
    MAX_DEPTH,
    canonical_bytes,
    content_digest,
    decode_rows,
    decode_value,
    encode_rows,
    encode_value,
)
from asyncdistil.errors import FormatError, UnencodableValue

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"]


class Colour(enum.Enum):
    RED = "red"
    NONE = None


class Grade(enum.StrEnum):
    GOOD = "good"


class Level(enum.IntEnum):
    LOW = 1


class Right(enum.Flag):
    READ = 1
    WRITE = 2


def same(one: Any, two: Any) -> bool:
    """Equal and of equal types all the way down, NaN equal to itself."""
    if type(one) is not type(two):
        return False
    if isinstance(one, float):
        return struct.pack("<d", one) == struct.pack("<d", two)
    if isinstance(one, Decimal):
        return one.as_tuple() == two.as_tuple()
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, dict):
        return len(one) == len(two) and all(
            same(k, other) and same(v, w)
            for (k, v), (other, w) in zip(one.items(), two.items(), strict=True)
        )
    if isinstance(one, datetime | time):
        return repr(one) == repr(two)
    if isinstance(one, complex):
        return same(one.real, two.real) and same(one.imag, two.imag)
    return bool(one == two)


texts = st.text(st.characters(codec=None, categories=None, exclude_categories=()), max_size=8)
offsets = st.timedeltas(timedelta(hours=-23), timedelta(hours=23))
zones = st.one_of(
    st.none(),
    st.just(UTC),
    st.sampled_from(ZONES).map(ZoneInfo),
    offsets.map(timezone),
    st.builds(timezone, offsets, st.text(max_size=4)),
)
hashables = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False),
        texts,
        st.binary(max_size=8),
        st.decimals(allow_nan=False),
        st.uuids(),
        st.dates(),
        st.timedeltas(),
        st.sampled_from([Colour.RED, Colour.NONE, Grade.GOOD, Level.LOW, Right.READ | Right.WRITE]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple), st.frozensets(inner, max_size=3)
    ),
    max_leaves=6,
)
values = st.recursive(
    st.one_of(
        hashables,
        st.floats(),
        st.complex_numbers(),
        st.decimals(),
        st.binary(max_size=8).map(bytearray),
        st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=zones),
        st.builds(
            time,
            st.integers(0, 23),
            st.integers(0, 59),
            microsecond=st.integers(0, 999_999),
            fold=st.integers(0, 1),
            tzinfo=zones,
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(texts, inner, max_size=4),
        st.dictionaries(hashables, inner, max_size=4),
        st.sets(hashables, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
    ),
    max_leaves=12,
)
columns = st.text(max_size=6)


@given(values)
def test_a_value_comes_back_as_what_it_was(value: Any) -> None:
    assert same(decode_value(encode_value(value)), value)


@given(st.lists(st.dictionaries(columns, values, max_size=4), max_size=5))
def test_rows_come_back_as_what_they_were_with_columns_in_order(rows: list[dict[str, Any]]) -> None:
    encoded = encode_rows(rows, step="s")
    back = decode_rows(encoded.body, len(rows))
    assert same(back, rows)
    assert [list(row) for row in back] == [list(row) for row in rows]
    parts = [
        bytes(encoded.body[a:b]) for a, b in zip(encoded.offsets, encoded.offsets[1:], strict=False)
    ]
    assert encoded.digests == b"".join(map(xxh3_128_digest, parts))
    assert content_digest(encoded.digests) == xxh3_128_digest(encoded.digests)
    for start in range(len(rows)):
        body = memoryview(encoded.body)[encoded.offsets[start] :]
        assert same(decode_rows(body, len(rows) - start), rows[start:])


@given(st.dictionaries(columns, values, max_size=4), values)
def test_a_row_has_the_same_bytes_whatever_stands_beside_it(
    row: dict[str, Any], other: Any
) -> None:
    alone = encode_rows([row], step="s")
    beside = encode_rows([row, {"odd": (other,)}], step="s")
    assert beside.body[: beside.offsets[1]] == alone.body
    assert beside.digests[:16] == alone.digests


NUMPY = [
    np.float32(1.5),
    np.float64("nan"),
    np.int8(-3),
    np.uint64(2**64 - 1),
    np.bool_(True),
    np.str_("text"),
    np.str_(""),
    np.bytes_(b"raw"),
    np.complex64(1 + 2j),
    np.datetime64("2020-01-01T00:00:00.5"),
    np.timedelta64(5, "s"),
    np.float16(0.1),
]


@pytest.mark.parametrize("value", NUMPY, ids=repr)
def test_a_numpy_scalar_keeps_its_type(value: Any) -> None:
    back = decode_value(encode_value([value]))[0]
    assert type(back) is type(value)
    assert back.dtype == value.dtype
    assert back.tobytes() == value.tobytes()


ARRAYS = [
    np.arange(6, dtype="<i4").reshape(2, 3),
    np.arange(6, dtype=">f8").reshape(2, 3),
    np.zeros((0, 3)),
    np.array(5.0),
    np.array(["a", "bcd"]),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array([True, False]),
    np.array(["2020-01-01"], dtype="M8[D]"),
]


@pytest.mark.parametrize("value", ARRAYS, ids=repr)
def test_a_numpy_array_keeps_type_shape_and_values(value: Any) -> None:
    back = decode_value(encode_value(value))
    assert (type(back), back.dtype, back.shape) == (type(value), value.dtype, value.shape)
    assert (back == value).all()
    assert back.flags.writeable


def test_an_object_array_keeps_its_items() -> None:
    array = np.array([["a", None], [(1, 2), 2**80]], dtype=object)
    back = decode_value(encode_value(array))
    assert back.shape == (2, 2)
    assert same(back.ravel().tolist(), array.ravel().tolist())


def cyclic() -> list[Any]:
    cycle: list[Any] = []
    cycle.append([cycle, cycle])
    return cycle


def deep(levels: int, wrap: Any) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = wrap(value)
    return value


@pytest.mark.parametrize(
    "value",
    [
        object(),
        int,
        len,
        namedtuple("Point", "x")(1),
        OrderedDict(a=1),
        type("Text", (str,), {})("x"),
        type("Number", (int,), {})(1),
        memoryview(b"x"),
        range(3),
        np.zeros(2, dtype=[("a", "i4")]),
        np.ma.masked_array([1]),
        cyclic(),
        deep(5000, lambda v: [v]),
        deep(5000, lambda v: {"a": v}),
        deep(5000, lambda v: (v,)),
        deep(MAX_DEPTH + 1, lambda v: [v]),
    ],
    ids=lambda v: type(v).__name__,
)
def test_anything_else_is_refused_with_step_row_and_column(value: Any) -> None:
    with pytest.raises(UnencodableValue) as caught:
        encode_rows([{"fine": 1}, {"fine": 2, "odd": value}], step="my step")
    for word in ("'my step'", "row 1", "'odd'"):
        assert word in str(caught.value)
    with pytest.raises(UnencodableValue):
        encode_value({"nested": [value]})
    with pytest.raises(UnencodableValue):
        canonical_bytes("t", value)


@pytest.mark.parametrize(
    ("value", "way"),
    [
        (Path("/x"), "str"),
        (Image.new("RGB", (1, 1)), "image.save"),
        (make_dataclass("Point", ["x"])(1), "asdict"),
        (create_model("Answer", text=(str, "x"))(), "model_dump"),
    ],
)
def test_what_can_be_made_plain_is_refused_with_the_way_to_do_it(value: Any, way: str) -> None:
    with pytest.raises(UnencodableValue, match=way):
        encode_value(value)


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: (v,), lambda v: {1: v}])
def test_the_deepest_value_allowed_comes_back(wrap: Any) -> None:
    value = deep(MAX_DEPTH, wrap)
    assert decode_value(encode_value(value)) == value


@pytest.mark.parametrize("row", [[], "text", OrderedDict(a=1), None])
def test_a_row_must_be_a_dict(row: Any) -> None:
    with pytest.raises(UnencodableValue, match="row 0"):
        encode_rows([row], step="s")


@pytest.mark.parametrize("column", [1, None, b"a", "\ud800"])
def test_a_column_name_must_be_text(column: Any) -> None:
    with pytest.raises(UnencodableValue, match="column"):
        encode_rows([{column: 1}], step="s")


def test_odd_but_legal_columns_are_kept() -> None:
    row = {"..": 1, "": 2, "a\0b": 3, **{f"c{i}": i for i in range(10_000)}}
    assert decode_rows(encode_rows([row], step="s").body, 1) == [row]


@pytest.mark.parametrize("rows", [15, 16, 65535, 65536])
def test_any_number_of_rows_is_decoded_in_one_call(rows: int) -> None:
    assert decode_rows(b"\x80" * rows, rows) == [{}] * rows


@pytest.mark.parametrize(("body", "rows"), [(b"", 1), (b"\x80", 2), (b"\x80\x80", 1), (b"\x01", 1)])
def test_other_bytes_than_rows_are_refused(body: bytes, rows: int) -> None:
    with pytest.raises(FormatError):
        decode_rows(body, rows)


@given(st.binary(max_size=64))
def test_foreign_bytes_never_do_more_than_raise(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        decode_value(data)


def test_an_unknown_extension_type_is_named() -> None:
    with pytest.raises(FormatError, match="99"):
        decode_value(b"\xd4\x63\x00")


def test_a_stored_enum_never_imports_and_falls_back_to_its_value() -> None:
    stored = encode_value([Colour.RED, signal.SIGTERM])
    code = (
        "import sys; from asyncdistil.codec import decode_value\n"
        f"print(repr(decode_value(bytes.fromhex('{stored.hex()}'))), 'signal' in sys.modules)"
    )
    printed = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed.startswith("['red', ")


def test_a_zone_of_another_kind_comes_back_as_its_offset() -> None:
    from dateutil import tz

    moment = datetime(2024, 7, 1, 12, tzinfo=tz.gettz("Europe/Berlin"))
    back = decode_value(encode_value(moment))
    assert (back, back.utcoffset()) == (moment, timedelta(hours=2))


DISTINCT = [
    1,
    True,
    1.0,
    "1",
    b"1",
    None,
    "None",
    [],
    (),
    "",
    b"",
    {},
    set(),
    frozenset(),
    0,
    False,
    0.0,
    -0.0,
    ["a-b"],
    ["a", "b"],
    ("a", "b"),
    {"a", "b"},
    [["a"], "b"],
    {"a": 1},
    {1: "a"},
    [("a", 1)],
    Decimal(1),
    Decimal("1.0"),
    Colour.RED,
    Grade.GOOD,
    "good",
    Level.LOW,
    np.float64(1.0),
    np.int64(1),
    date(2024, 1, 1),
    datetime(2024, 1, 1),
    datetime(2024, 1, 1, tzinfo=UTC),
    UUID(int=1),
    2**64,
    math.inf,
    math.nan,
]


def test_different_values_have_different_canonical_bytes() -> None:
    encoded = [canonical_bytes("t", value) for value in DISTINCT]
    assert len(set(encoded)) == len(DISTINCT)
    assert canonical_bytes("t", 1) != canonical_bytes("u", 1)


@given(st.dictionaries(hashables, values, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_a_dict_does_not_count_in_a_key(value: dict[Any, Any], rng: Any) -> None:
    items = list(value.items())
    rng.shuffle(items)
    assert canonical_bytes("t", dict(items)) == canonical_bytes("t", value)
    assert canonical_bytes("t", [{"x": dict(items)}]) == canonical_bytes("t", [{"x": value}])


def test_moving_an_enum_to_another_module_changes_no_key() -> None:
    here = enum.Enum("Tone", {"LOW": 1}, module="one", qualname="Tone")
    there = enum.Enum("Tone", {"LOW": 1}, module="two", qualname="Tone")
    assert canonical_bytes("t", here.LOW) == canonical_bytes("t", there.LOW)
    assert encode_value(here.LOW) != encode_value(there.LOW)


def test_sets_have_the_same_bytes_in_every_process() -> None:
    code = (
        "from asyncdistil.codec import encode_value, canonical_bytes\n"
        "s = {'a', 'b', 'c', 1, None, ('x',), 'long text', 2.5}\n"
        "print(encode_value(s).hex(), canonical_bytes('t', s).hex())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            check=True,
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(outputs) == 1
