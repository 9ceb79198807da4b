"""One value to MessagePack and back, type for type.

JSON-like values of exact type (``None``, ``bool``, ``int`` in 64 bits, ``float``, ``str``,
``bytes``, ``list``, ``dict`` with string keys) are plain MessagePack. Every other covered type is
a numbered extension type whose payload is MessagePack again, or raw bytes; the numbers are part
of the file format and never change. A subclass (a ``namedtuple``, an ``OrderedDict``) is not the
type it derives from and is refused, because it would not come back as what it was.

| number | type | payload |
|---|---|---|
| 1, 2, 3 | tuple, set, frozenset | array of items; sets in the order of their encoded items |
| 4 | int beyond 64 bits | two's complement, little-endian |
| 5 | str with lone surrogates | UTF-8 with ``surrogatepass`` |
| 6 | dict with keys that are not plain strings | array key, value, key, value, … |
| 7 | bytearray | its bytes |
| 8 | datetime | array ISO text without offset, fold, then the zone (see 11) |
| 9 | date | ISO text |
| 10 | timedelta | array days, seconds, microseconds |
| 11 | time | array ISO text without offset, fold, then the zone: ``None``, ``[name]`` for a
  ``ZoneInfo`` (a datetime adds its offset), or ``[None, microseconds, name or None]`` |
| 12 | Decimal | text |
| 13 | UUID | 16 bytes |
| 14 | Enum member | array module, qualified name, member name, value |
| 15 | numpy scalar | array dtype text, bytes |
| 16 | numpy array | array dtype text, shape, bytes; for dtype ``O`` an array of values |
| 17 | complex | array real, imaginary |

Two things may come back changed, both by necessity. An Enum member comes back as its plain value
where its class can't be found in a module that is *already imported*: data on disk must never
cause an import. A zone that is neither ``datetime.timezone`` nor ``ZoneInfo`` comes back as the
fixed offset that it stood for.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, EnumMeta, Flag
from itertools import chain
from pathlib import PurePath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec.msgpack import Ext

from asyncdistil.errors import FormatError, UnencodableValue

MAX_DEPTH = 128
"""Deepest nesting of containers; a cycle is found by passing it."""

_encoder = msgspec.msgpack.Encoder()
encode_plain = _encoder.encode
"""MessagePack of a value that is known to be plain."""

_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1
_ATOMS = frozenset({type(None), bool, float, bytes})
_NO_ZONE: list[Any] = []


def is_plain(values: list[Any]) -> bool:
    """Whether msgspec alone encodes every value so that it comes back as the same type.

    Works level by level at C speed. The values must be known to be finite and shallow enough to
    encode (encode them first): a cyclic value would keep this busy.

    Args:
        values: The values to look at; dict keys inside them are looked at too.
    """
    for _ in range(MAX_DEPTH):
        kinds = set(map(type, values))
        if _SCALARS.issuperset(kinds):
            return True
        if not _PLAIN.issuperset(kinds):
            return False
        lists = [v for v in values if type(v) is list]
        dicts = [v for v in values if type(v) is dict]
        if not _STR.issuperset(map(type, chain.from_iterable(dicts))):
            return False
        values = list(
            chain(chain.from_iterable(lists), chain.from_iterable(map(dict.values, dicts)))
        )
    return False


_STR = frozenset({str})
_SCALARS = frozenset({type(None), bool, int, float, str, bytes})
_PLAIN = _SCALARS | {list, dict}


_STUMBLES = (
    msgspec.DecodeError,
    RecursionError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,  # of Decimal, of dates beyond the calendar
    AttributeError,
    OSError,  # of a time zone's name that is a directory
    SyntaxError,  # of numpy's names of types
)
"""What forged bytes make of those who restore values."""


def encode_value(value: Any) -> bytes:
    """Encode one value.

    Raises:
        UnencodableValue: No codec type covers it, or it is cyclic or too deep.
    """
    try:
        return encode_plain(flatten(value))
    except RecursionError:
        raise UnencodableValue(_TOO_DEEP) from None


def decode_value(data: bytes | bytearray | memoryview) -> Any:
    """Decode what `encode_value` wrote.

    Raises:
        FormatError: The bytes are not a value of this codec.
    """
    try:
        return _decode(data)
    except FormatError:
        raise
    except _STUMBLES as error:
        raise FormatError(
            f"stored value can't be decoded ({error}); it was written by another version: upgrade "
            "asyncdistil, or recompute it with use_cache=False"
        ) from error


def flatten(value: Any, depth: int = 0, canonical: bool = False) -> Any:
    """Replace everything that is not plain MessagePack by extension types.

    Args:
        value: What to convert; it is not changed.
        depth: Containers around it.
        canonical: Sort dicts by key and leave the module out of an Enum's name, for keys.

    Raises:
        UnencodableValue: No codec type covers it, or it is cyclic or too deep.
    """
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is str:
        return value if _is_utf8(value) else Ext(5, value.encode("utf-8", "surrogatepass"))
    if kind is int:
        if _INT_MIN <= value <= _INT_MAX:
            return value
        return Ext(4, value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))
    if depth >= MAX_DEPTH:
        raise UnencodableValue(_TOO_DEEP)
    if kind is list:
        return [flatten(item, depth + 1, canonical) for item in value]
    if kind is dict:
        return _flatten_dict(value, depth, canonical)
    convert = _CONVERTERS.get(kind)
    if convert is not None:
        return convert(value, depth, canonical)
    if isinstance(value, Enum):
        return _flatten_enum(value, depth, canonical)
    return _flatten_numpy(value, depth, canonical)


_TOO_DEEP = (
    f"the value is cyclic or nested more than {MAX_DEPTH} levels deep; store a flatter form of it"
)


def _is_utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _flatten_dict(value: dict[Any, Any], depth: int, canonical: bool) -> Any:
    if all(type(key) is str and _is_utf8(key) for key in value):
        items = sorted(value.items()) if canonical and len(value) > 1 else value.items()
        return {key: flatten(item, depth + 1, canonical) for key, item in items}
    pairs = [
        (flatten(key, depth + 1, canonical), flatten(item, depth + 1, canonical))
        for key, item in value.items()
    ]
    if canonical:
        pairs.sort(key=lambda pair: encode_plain(pair[0]))
    return Ext(6, encode_plain(list(chain.from_iterable(pairs))))


def _flatten_tuple(value: tuple[Any, ...], depth: int, canonical: bool) -> Ext:
    return Ext(1, encode_plain([flatten(item, depth + 1, canonical) for item in value]))


def _flatten_set(value: set[Any] | frozenset[Any], depth: int, canonical: bool) -> Ext:
    items = [flatten(item, depth + 1, canonical) for item in value]
    items.sort(key=encode_plain)
    return Ext(2 if type(value) is set else 3, encode_plain(items))


def _flatten_datetime(value: datetime, _depth: int, _canonical: bool) -> Ext:
    text = value.replace(tzinfo=None).isoformat()
    zone = _NO_ZONE if value.tzinfo is None else _zone(value.tzinfo, value.utcoffset())
    return Ext(8, encode_plain([text, value.fold, *zone]))


def _flatten_time(value: time, _depth: int, _canonical: bool) -> Ext:
    text = value.replace(tzinfo=None).isoformat()
    zone = _NO_ZONE if value.tzinfo is None else _zone(value.tzinfo, value.utcoffset())
    return Ext(11, encode_plain([text, value.fold, *zone]))


def _zone(zone: tzinfo, offset: timedelta | None) -> list[Any]:
    microseconds = None if offset is None else offset // timedelta(microseconds=1)
    if type(zone) is ZoneInfo and zone.key is not None:
        return [zone.key, microseconds, None]
    if offset is None:
        raise UnencodableValue(
            f"the time zone {zone!r} has no offset; use zoneinfo.ZoneInfo or datetime.timezone"
        )
    name = None
    if type(zone) is timezone:
        given = zone.__getinitargs__()  # type: ignore[attr-defined]
        name = given[1] if len(given) > 1 else None
    return [None, microseconds, name]


def _flatten_enum(value: Enum, depth: int, canonical: bool) -> Ext:
    kind = type(value)
    module = "" if canonical else kind.__module__
    plain = flatten(value.value, depth + 1, canonical)
    return Ext(14, encode_plain([module, kind.__qualname__, value.name, plain]))


def _flatten_numpy(value: Any, depth: int, canonical: bool) -> Ext:
    numpy = sys.modules.get("numpy")
    if numpy is not None and getattr(value, "dtype", None) is not None:
        dtype = value.dtype
        # A structured dtype, or a subclass of an array, would not come back as what it was.
        if isinstance(value, numpy.generic) and dtype.names is None and not dtype.hasobject:
            return Ext(15, encode_plain([dtype.str, value.tobytes()]))
        if type(value) is numpy.ndarray and dtype.names is None:
            if not dtype.hasobject:
                return Ext(16, encode_plain([dtype.str, list(value.shape), value.tobytes()]))
            items = [flatten(item, depth + 1, canonical) for item in value.ravel().tolist()]
            return Ext(16, encode_plain(["O", list(value.shape), items]))
    kind = type(value)
    raise UnencodableValue(
        f"a value of type {kind.__module__}.{kind.__qualname__} can't be stored; "
        f"{_way_to_plain_data(value)}"
    )


def _way_to_plain_data(value: Any) -> str:
    if hasattr(value, "model_dump"):
        return "store what its `model_dump()` gives"
    if hasattr(value, "__dataclass_fields__"):
        return "store what `dataclasses.asdict` makes of it"
    if isinstance(value, PurePath):
        return "store it as text: `str(path)`"
    if type(value).__module__.startswith("PIL."):
        return "store the bytes of an image file: `image.save(buffer, 'PNG')`, `buffer.getvalue()`"
    return "convert it to plain data (dict, list, str, numbers, bytes) first"


_CONVERTERS: dict[type, Callable[[Any, int, bool], Any]] = {
    tuple: _flatten_tuple,
    set: _flatten_set,
    frozenset: _flatten_set,
    bytearray: lambda value, _d, _c: Ext(7, bytes(value)),
    datetime: _flatten_datetime,
    date: lambda value, _d, _c: Ext(9, value.isoformat().encode()),
    timedelta: lambda value, _d, _c: Ext(
        10, encode_plain([value.days, value.seconds, value.microseconds])
    ),
    time: _flatten_time,
    Decimal: lambda value, _d, _c: Ext(12, str(value).encode()),
    UUID: lambda value, _d, _c: Ext(13, value.bytes),
    complex: lambda value, _d, _c: Ext(17, encode_plain([value.real, value.imag])),
}


def _restore_pairs(data: memoryview) -> dict[Any, Any]:
    flat = _decode(data)
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _restore_datetime(data: memoryview) -> datetime:
    text, fold, *zone = _decode(data)
    return datetime.fromisoformat(text).replace(fold=fold, tzinfo=_restore_zone(zone))


def _restore_time(data: memoryview) -> time:
    text, fold, *zone = _decode(data)
    return time.fromisoformat(text).replace(fold=fold, tzinfo=_restore_zone(zone))


def _restore_zone(zone: list[Any]) -> tzinfo | None:
    if not zone:
        return None
    key, microseconds, name = zone
    if key is not None:
        try:
            return ZoneInfo(key)
        except ZoneInfoNotFoundError:
            # This machine's time zone database lacks it; a time of day has no offset to fall to.
            if microseconds is None:
                raise
    offset = timedelta(microseconds=microseconds)
    return timezone(offset) if name is None else timezone(offset, name)


def _restore_enum(data: memoryview) -> Any:
    module, qualname, name, value = _decode(data)
    # Only plain look-ups in what is loaded: getattr could run a module's __getattr__.
    scope: Any = sys.modules.get(module)
    for part in qualname.split("."):
        scope = getattr(scope, "__dict__", {}).get(part)
    if not isinstance(scope, EnumMeta):
        return value
    member = scope.__members__.get(name) if name is not None else None
    if member is None and issubclass(scope, Flag):
        member = scope(value)
    return member if member is not None and member.value == value else value


def _restore_numpy_scalar(data: memoryview) -> Any:
    import numpy

    text, raw = _decode(data)
    dtype = numpy.dtype(text)
    return numpy.frombuffer(raw, dtype=dtype)[0] if dtype.itemsize else dtype.type()


def _restore_numpy_array(data: memoryview) -> Any:
    import numpy

    dtype, shape, raw = _decode(data)
    if dtype != "O":
        kind = numpy.dtype(dtype)
        # Held against what is there before anything of that size is reserved.
        if math.prod(shape) * kind.itemsize != len(raw):
            raise ValueError("an array has another size than its shape says")
        if not raw:
            return numpy.empty(shape, dtype=kind)
        return numpy.frombuffer(raw, dtype=kind).reshape(shape).copy()
    if len(raw) != math.prod(shape):
        raise ValueError("an object array has another number of items than its shape says")
    array = numpy.empty(len(raw), dtype=object)
    for position, item in enumerate(raw):
        array[position] = item
    return array.reshape(shape)


_RESTORERS: dict[int, Callable[[memoryview], Any]] = {
    1: lambda data: tuple(_decode(data)),
    2: lambda data: set(_decode(data)),
    3: lambda data: frozenset(_decode(data)),
    4: lambda data: int.from_bytes(data, "little", signed=True),
    5: lambda data: bytes(data).decode("utf-8", "surrogatepass"),
    6: _restore_pairs,
    7: bytearray,
    8: _restore_datetime,
    9: lambda data: date.fromisoformat(bytes(data).decode()),
    10: lambda data: timedelta(*_decode(data)),
    11: _restore_time,
    12: lambda data: Decimal(bytes(data).decode()),
    13: lambda data: UUID(bytes=bytes(data)),
    14: _restore_enum,
    15: _restore_numpy_scalar,
    16: _restore_numpy_array,
    17: lambda data: complex(*_decode(data)),
}


def _restore(code: int, data: memoryview) -> Any:
    restore = _RESTORERS.get(code)
    if restore is None:
        raise FormatError(
            f"stored value has the unknown extension type {code}: it was written by a newer "
            "asyncdistil; upgrade to read it"
        )
    return restore(data)


_decode: Callable[[bytes | bytearray | memoryview], Any] = msgspec.msgpack.Decoder(
    ext_hook=_restore
).decode
