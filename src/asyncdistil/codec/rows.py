"""Rows of a batch to bytes and back. This is the hot path: about 0.6 µs for a small row."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple, NoReturn

from xxhash import xxh3_128_digest

from asyncdistil.batch import Digest, Row
from asyncdistil.codec.values import decode_value, encode_plain, flatten, is_plain
from asyncdistil.errors import FormatError, UnencodableValue

MAX_ROW_BYTES = 1 << 30
"""Most bytes of one encoded row."""

_DICT = frozenset({dict})
_STR = frozenset({str})


class EncodedRows(NamedTuple):
    """The rows of one batch, encoded once.

    Attributes:
        body: The rows' MessagePack maps, one after another.
        offsets: Where each row starts in ``body``, and the end of the last: rows + 1 numbers.
        digests: 16 bytes per row: XXH3-128 of the row's bytes.
    """

    body: bytes | bytearray
    offsets: list[int]
    digests: bytes


def encode_rows(rows: Sequence[Row], *, step: str) -> EncodedRows:
    """Encode rows so that they come back type for type, columns in their order.

    Args:
        rows: Dicts with string keys; zero rows are fine.
        step: Name of the step that made them, for the error.

    Raises:
        UnencodableValue: A value is of a type that the codec does not cover, or cyclic or too
            deep; names step, row position and column. Or a row takes more than `MAX_ROW_BYTES`.
    """
    try:
        parts = list(map(encode_plain, rows))
        # After encoding, because that shows at C speed that no row is cyclic.
        plain = (
            _DICT.issuperset(map(type, rows))
            and _STR.issuperset(map(type, chain.from_iterable(rows)))
            and is_plain(list(chain.from_iterable(map(dict.values, rows))))
        )
    except (TypeError, ValueError, OverflowError, RecursionError, NotImplementedError):
        plain = False
    if not plain:
        parts = [_encode_row(row, position, step) for position, row in enumerate(rows)]
    offsets = list(accumulate(map(len, parts), initial=0))
    if offsets[-1] > MAX_ROW_BYTES:
        _refuse_large(parts, step)
    return EncodedRows(b"".join(parts), offsets, b"".join(map(xxh3_128_digest, parts)))


def _refuse_large(parts: Sequence[bytes | bytearray], step: str) -> None:
    for position, part in enumerate(parts):
        if len(part) > MAX_ROW_BYTES:
            raise UnencodableValue(
                f"step {step!r}, row {position}: the row takes {len(part):,} bytes, more than the "
                f"{MAX_ROW_BYTES:,} that a row may take; store large data in a file, and its path "
                "in the row"
            )


def _encode_row(row: Row, position: int, step: str) -> bytes:
    if type(row) is not dict:
        raise UnencodableValue(
            f"step {step!r}, row {position}: a row must be a dict, not "
            f"{type(row).__module__}.{type(row).__qualname__}; convert it with dict(row)"
        )
    flat: dict[str, Any] = {}
    for column, value in row.items():
        if type(column) is not str:
            _refuse(step, position, column, "a column name must be a str")
        try:
            column.encode()
        except UnicodeEncodeError:
            _refuse(step, position, column, "a column name can't hold lone surrogates")
        try:
            flat[column] = flatten(value)
        except UnencodableValue as error:
            _refuse(step, position, column, str(error))
        except RecursionError:
            _refuse(step, position, column, "the value is nested too deep for this call stack")
    return encode_plain(flat)


def _refuse(step: str, position: int, column: object, reason: str) -> NoReturn:
    raise UnencodableValue(f"step {step!r}, row {position}, column {column!r}: {reason}") from None


def decode_rows(body: bytes | bytearray | memoryview, rows: int) -> list[Row]:
    """Decode consecutive rows in one call.

    Args:
        body: The bytes of exactly these rows, one after another.
        rows: How many there are.

    Raises:
        FormatError: The bytes are not that many rows of this codec.
    """
    decoded: list[Row] = decode_value(b"".join((_array_header(rows), body)))
    # A body that ends early or late is refused by the decoder; other types than maps are not.
    if decoded and not _DICT.issuperset(map(type, decoded)):
        raise FormatError("stored rows hold something else than rows; recompute the batch")
    return decoded


def _array_header(count: int) -> bytes:
    if count < 16:
        return bytes((0x90 | count,))
    if count < 65536:
        return b"\xdc" + count.to_bytes(2, "big")
    return b"\xdd" + count.to_bytes(4, "big")


def content_digest(row_digests: bytes) -> Digest:
    """Name the content of some rows: unseeded XXH3-128 over their digests, 16 bytes each."""
    return Digest(xxh3_128_digest(row_digests))
