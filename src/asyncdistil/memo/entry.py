"""The bytes of one memo entry.

Memo segments are files of records in the log's framing, of kind `FileKind.MEMO`, the position in
every header being the byte offset. After the file header come two types of record:

| type | meta | body |
|---|---|---|
| ``MODEL`` | empty | readable identity of a model, UTF-8; stands before its first entry |
| ``ENTRY`` | fixed part below, then the preimage of the key | what was stored |

The fixed part, little-endian: name (digest of the key, 16 bytes, and the sample number, u32
big-endian), offset of the ``MODEL`` record (u32, in units of 8 bytes), offset of an earlier entry
of this file that holds the preimage (u32, in units of 8; 0 if it stands here), zero (u32), time of
writing (u64, nanoseconds since 1970, rising with every write of the same sample), digest of the run
that wrote it (16 bytes).
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from xxhash import xxh3_128_digest

from asyncdistil.errors import FormatError
from asyncdistil.log.record import (
    FILE_HEADER_BYTES,
    HEADER_BYTES,
    encode_record,
    parse_header,
    whole_record,
)

NAMESPACE = "asyncdistil/memo/1"
STORE_ID = xxh3_128_digest(NAMESPACE.encode())
"""Seeds every hash. The same for all memos, since an entry is right wherever it lies."""

DIGEST_BYTES = 16
NO_RUN = bytes(16)
FIRST_RECORD = FILE_HEADER_BYTES

NAME_BYTES = DIGEST_BYTES + 4
NAME_AT = HEADER_BYTES
FIXED = struct.Struct(f"<{NAME_BYTES}sIIIQ16s")
"""The fixed part of an entry's meta."""
PREIMAGE_AT = HEADER_BYTES + FIXED.size
RUN_AT = PREIMAGE_AT - 16


def name_of(digest: bytes, sample: int) -> bytes:
    """Name of a sample of a key.

    Raises:
        OverflowError: The sample number is negative or beyond 32 bits.
    """
    return digest + sample.to_bytes(4, "big")


class MemoRecord(IntEnum):
    """Record types of memo files, beside ``RecordType.FILE``."""

    MODEL = 144
    ENTRY = 145


class Entry(NamedTuple):
    """A verified entry.

    Attributes:
        name: Digest of its key and sample number, see `name_of`.
        model_at: Where its `MemoRecord.MODEL` stands in the file.
        request_at: Where the entry with its preimage stands, 0 if it holds it itself.
        stamp: Time of writing in nanoseconds.
        run: Digest of the run that wrote it.
        preimage: Of the key; empty if ``request_at`` is not 0.
        body: What was stored.
    """

    name: bytes
    model_at: int
    request_at: int
    stamp: int
    run: bytes
    preimage: bytes
    body: bytes


def encode_entry(seed: int, at: int, entry: Entry) -> bytes:
    """Frame an entry for offset ``at``."""
    name, model_at, request_at, stamp, run, preimage, body = entry
    meta = FIXED.pack(name, model_at >> 3, request_at >> 3, 0, stamp, run) + preimage
    head, payload, _, _ = encode_record(seed, MemoRecord.ENTRY, at, body, meta=meta)
    return head + payload


def encode_model(seed: int, at: int, model: str) -> bytes:
    """Frame a model's readable identity for offset ``at``."""
    text = model.encode("utf-8", "surrogatepass")
    head, payload, _, _ = encode_record(seed, MemoRecord.MODEL, at, text)
    return head + payload


def parse_entry(data: bytes, seed: int, at: int) -> Entry | None:
    """Read the entry that these bytes must be.

    Args:
        data: The whole record.
        seed: `file_seed` of the file.
        at: Its offset.

    Returns:
        ``None`` if any bit is not as it was written, or if it was written elsewhere.
    """
    found = whole_record(data, at, seed)
    if found is None or found[0] != MemoRecord.ENTRY or found[1] < FIXED.size:
        return None
    name, model, request, _, stamp, run = FIXED.unpack_from(data, HEADER_BYTES)
    body_at = HEADER_BYTES + found[1]
    preimage, body = data[PREIMAGE_AT:body_at], data[body_at : body_at + found[2]]
    return Entry(name, model << 3, request << 3, stamp, run, preimage, body)


def parse_model(data: bytes, seed: int, at: int) -> str | None:
    """Read a model's readable identity; ``None`` as for `parse_entry`."""
    found = whole_record(data, at, seed)
    if found is None or found[0] != MemoRecord.MODEL:
        return None
    try:
        return data[HEADER_BYTES : HEADER_BYTES + found[2]].decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None  # forged: the hashes fit, and nobody of ours wrote it


def record_length(data: bytes, seed: int, at: int) -> int:
    """Length of a record by its header; 0 if that is not what was written at this offset."""
    try:
        header = parse_header(data, 0, seed)
    except FormatError:
        return 0
    return header.size if header is not None and header.position == at else 0
