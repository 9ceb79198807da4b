"""The frame around every record, in the commit log, in segments and in checkpoints.

Layout and meaning: ``FORMAT.md``. A header of 72 bytes, then meta, body and zero padding to 8
bytes. Both hashes are seeded by (store, kind of file, file number, position), so a valid record
in the wrong place fails; a length is trusted only after the hash over the header fits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from asyncdistil.errors import FormatError

MAGIC = 0x43444441  # "ADDC" in the order of the bytes
MAGIC_BYTES = MAGIC.to_bytes(4, "little")
FORMAT_VERSION = 1
STORE_ID_BYTES = 16

_HEADER = struct.Struct("<IBBHQQQQQQQQ")
HEADER_BYTES = _HEADER.size
_HASHED = struct.Struct("<IBBHQQQQQQQ")
_HASH = struct.Struct("<Q")
HASHED_BYTES = HEADER_BYTES - _HASH.size

CRITICAL_FLAGS = 0xF0
"""A reader that finds one of these set, and does not know it, must refuse the file."""

MAX_META_BYTES = 1 << 31
MAX_BODY_BYTES = (1 << 30) + 64
"""1 GiB of row data and the map header around it."""

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_PADDING = tuple(bytes(n) for n in range(8))


class FileKind(IntEnum):
    """What a file of records is."""

    COMMIT_LOG = 1
    SEGMENT = 2
    CHECKPOINT = 3
    MEMO = 4


class RecordType(IntEnum):
    """Record types that are not events of the commit log; those have their tag, 1 to 127."""

    FILE = 128
    ROWS = 129
    WATERMARK = 130
    SEAL = 131
    REPAIR = 132
    SUMMARY = 133
    TABLE = 134


class Header(NamedTuple):
    """A record header whose own hash fits.

    Attributes:
        type: Event tag or `RecordType`.
        flags: Upper four bits critical; none is defined yet.
        position: LSN in the commit log, byte offset in every other file.
        durable: In the commit log the highest LSN known to be durable when this was written.
        meta_bytes: Length of the part that can be read without the body's codec.
        body_bytes: Length of the body as stored.
        previous: `digest` of the header before, in the commit log; else 0.
        checksum: XXH3-64 of meta, body and padding.
        digest: XXH3-64 of the header before this field.
    """

    type: int
    flags: int
    position: int
    durable: int
    meta_bytes: int
    body_bytes: int
    previous: int
    checksum: int
    digest: int

    @property
    def size(self) -> int:
        """Bytes of the whole record, padding included."""
        return HEADER_BYTES + ((self.meta_bytes + self.body_bytes + 7) & ~7)


def file_seed(store_id: bytes, kind: FileKind, number: int) -> int:
    """Seed that all records of one file share."""
    return xxh3_64_intdigest(store_id + bytes((kind,)) + number.to_bytes(8, "little"))


def encode_record(
    seed: int,
    kind: int,
    position: int,
    body: bytes | bytearray,
    *,
    meta: bytes = b"",
    durable: int = 0,
    previous: int = 0,
) -> tuple[bytes, bytes, int, int]:
    """Frame one record.

    Args:
        seed: `file_seed` of the file it goes to.
        kind: Record type.
        position: LSN or byte offset.
        body: Payload.
        meta: Part in front of the payload.
        durable: Durable LSN at this moment.
        previous: Hash of the header before.

    Returns:
        Header, payload with padding, header hash, payload checksum.
    """
    length = len(meta) + len(body)
    payload = b"".join((meta, body, _PADDING[-length & 7]))
    record_seed = (seed + position * _GOLDEN) & _MASK
    checksum = xxh3_64_intdigest(payload, record_seed)
    head = _HASHED.pack(
        MAGIC,
        kind,
        0,
        HEADER_BYTES,
        position,
        durable,
        len(meta),
        len(body),
        length,
        previous,
        checksum,
    )
    digest = xxh3_64_intdigest(head, record_seed)
    return head + _HASH.pack(digest), payload, digest, checksum


def parse_header(data: bytes | memoryview, at: int, seed: int) -> Header | None:
    """Read a header, or ``None`` if these bytes are not one of this file.

    Args:
        data: Bytes of the file.
        at: Where the header starts in ``data``.
        seed: `file_seed`.

    Raises:
        FormatError: It is a valid header that carries an unknown critical flag.
    """
    if len(data) - at < HEADER_BYTES:
        return None
    (
        magic,
        kind,
        flags,
        header_bytes,
        position,
        durable,
        meta,
        body,
        decoded,
        previous,
        check,
        digest,
    ) = _HEADER.unpack_from(data, at)
    if magic != MAGIC:
        return None
    record_seed = (seed + position * _GOLDEN) & _MASK
    if xxh3_64_intdigest(data[at : at + HASHED_BYTES], record_seed) != digest:
        return None
    if flags & CRITICAL_FLAGS or header_bytes != HEADER_BYTES:
        raise FormatError(
            f"a record carries the critical flags {flags:#04x} and a header of {header_bytes} "
            "bytes: the file was written by a newer asyncdistil; upgrade to read it"
        )
    if meta > MAX_META_BYTES or body > MAX_BODY_BYTES or decoded != meta + body:
        return None
    return Header(kind, flags, position, durable, meta, body, previous, check, digest)


def payload_fits(header: Header, payload: bytes | memoryview, seed: int) -> bool:
    """Whether ``payload`` (meta, body, padding) is what the header was written for."""
    record_seed = (seed + header.position * _GOLDEN) & _MASK
    return (
        len(payload) == header.size - HEADER_BYTES
        and xxh3_64_intdigest(payload, record_seed) == header.checksum
    )


def whole_record(data: bytes, position: int, seed: int) -> tuple[int, int, int] | None:
    """Check a record of known place and length in one go, in half the time that its parts take.

    Args:
        data: The record, padding included, and nothing else.
        position: Where it must have been written.
        seed: `file_seed`.

    Returns:
        Type, bytes of meta, bytes of body; ``None`` if any bit is not as it was written, or the
        record was written elsewhere or by a newer asyncdistil.
    """
    if len(data) < HEADER_BYTES:
        return None
    (magic, kind, flags, header_bytes, found, _, meta, body, decoded, _, check, digest) = (
        _HEADER.unpack_from(data)
    )
    record_seed = (seed + position * _GOLDEN) & _MASK
    if (
        found != position
        or xxh3_64_intdigest(data[:HASHED_BYTES], record_seed) != digest
        or xxh3_64_intdigest(data[HEADER_BYTES:], record_seed) != check
        or len(data) != HEADER_BYTES + ((meta + body + 7) & ~7)
        or magic != MAGIC
        or flags & CRITICAL_FLAGS
        or header_bytes != HEADER_BYTES
        or decoded != meta + body
    ):
        return None
    return kind, meta, body


def stray_headers(
    data: bytes, start: int, seed: int, *, kind: RecordType | None = None
) -> Iterator[tuple[int, Header]]:
    """Yield headers of this file at or after ``start``, whatever lies between them.

    Used only to judge a bad record: what survives behind it tells how far the log was durable.

    Args:
        data: Bytes of the file.
        start: Where to begin in them.
        seed: `file_seed`.
        kind: Only headers of this type.
    """
    mark = MAGIC_BYTES if kind is None else MAGIC_BYTES + bytes((kind,))
    at = data.find(mark, start)
    while at >= 0:
        try:
            header = parse_header(data, at, seed)
        except FormatError:
            header = None
        if header is not None:
            yield at, header
        at = data.find(mark, at + 1)


_FILE_BODY = struct.Struct("<IIQQQQQQd16s")


class FileHeader(NamedTuple):
    """First record of every file: what it is and where the file before it ends.

    Attributes:
        store_id: 16 random bytes of the store.
        kind: `FileKind`.
        number: File number among its kind.
        base: In the commit log, LSN of the first record after this one.
        previous_number: Commit-log file that this one goes on from; 0 if it is the first.
        previous_end: Where that file ends; bytes behind do not count.
        previous_digest: Header hash of the last record that counts there.
        durable: Highest LSN known to be durable when the file was made.
        created_seconds: Unix time, for people.
        owner: Lineage, for a segment; else zeros.
    """

    store_id: bytes
    kind: FileKind
    number: int
    base: int = 1
    previous_number: int = 0
    previous_end: int = 0
    previous_digest: int = 0
    durable: int = 0
    created_seconds: float = 0.0
    owner: bytes = bytes(16)


FILE_HEADER_BYTES = HEADER_BYTES + STORE_ID_BYTES + _FILE_BODY.size


def encode_file_header(header: FileHeader) -> tuple[bytes, int]:
    """Bytes of a file's first record, and its header hash (start of the chain)."""
    body = _FILE_BODY.pack(
        FORMAT_VERSION,
        header.kind,
        header.number,
        header.base,
        header.previous_number,
        header.previous_end,
        header.previous_digest,
        header.durable,
        header.created_seconds,
        header.owner,
    )
    head, payload, digest, _ = encode_record(
        file_seed(header.store_id, header.kind, header.number),
        RecordType.FILE,
        0,
        body,
        meta=header.store_id,
        durable=header.durable,
        previous=header.previous_digest,
    )
    return head + payload, digest


def parse_file_header(
    data: bytes, kind: FileKind, number: int, store_id: bytes | None = None
) -> tuple[FileHeader, int] | None:
    """Read the first record of a file, or ``None`` if it is torn, damaged or another file's.

    Args:
        data: At least the first `FILE_HEADER_BYTES` of the file, if it has so many.
        kind: What the file should be.
        number: Its number, from its name.
        store_id: Of the store, if known; else the one in the file is taken, and the hashes that
            it seeds show whether it is intact.

    Raises:
        FormatError: The file is intact but of a newer format.
    """
    if len(data) < FILE_HEADER_BYTES:
        return None
    found = data[HEADER_BYTES : HEADER_BYTES + STORE_ID_BYTES]
    if store_id is not None and found != store_id:
        return None
    seed = file_seed(found, kind, number)
    header = parse_header(data, 0, seed)
    if header is None or header.type != RecordType.FILE:
        return None
    if not payload_fits(header, data[HEADER_BYTES : header.size], seed):
        return None
    (version, _kind, _number, *rest) = _FILE_BODY.unpack_from(data, HEADER_BYTES + STORE_ID_BYTES)
    if version != FORMAT_VERSION:
        raise FormatError(
            f"the file has format {version}, this asyncdistil reads format {FORMAT_VERSION}; "
            "upgrade to read it"
        )
    base, previous_number, previous_end, previous_digest, durable, created, owner = rest
    return (
        FileHeader(
            found,
            kind,
            number,
            base,
            previous_number,
            previous_end,
            previous_digest,
            durable,
            created,
            owner,
        ),
        header.digest,
    )
