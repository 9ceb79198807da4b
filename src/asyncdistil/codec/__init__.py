"""The one codec: rows, keys and single values to MessagePack and back, type for type."""

from asyncdistil.codec.canonical import canonical_bytes
from asyncdistil.codec.rows import (
    MAX_ROW_BYTES,
    EncodedRows,
    content_digest,
    decode_rows,
    encode_rows,
)
from asyncdistil.codec.values import MAX_DEPTH, decode_value, encode_value

__all__ = [
    "MAX_DEPTH",
    "MAX_ROW_BYTES",
    "EncodedRows",
    "canonical_bytes",
    "content_digest",
    "decode_rows",
    "decode_value",
    "encode_rows",
    "encode_value",
]
