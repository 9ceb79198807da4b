"""A table of places that is written once and then only read.

32 bytes an entry, sorted by a mix of digest and sample number and cut into buckets of about eight,
so that a look-up is one search through a few hundred bytes. Samples are mixed in because one key
may have a hundred thousand of them.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import NamedTuple

import msgspec
from xxhash import xxh3_64_intdigest

from asyncdistil.errors import FormatError
from asyncdistil.log.failpoint import failpoint
from asyncdistil.log.files import Files, write_all
from asyncdistil.log.record import (
    HEADER_BYTES,
    FileKind,
    encode_record,
    file_seed,
    parse_header,
    payload_fits,
)
from asyncdistil.memo.entry import NAME_BYTES, STORE_ID

PLACE = struct.Struct("<III")
"""Segment, offset and length of a record, the last two in units of 8 bytes."""

_STRIDE = NAME_BYTES + PLACE.size
_MIX = struct.Struct(">I12xI")
_GOLDEN = 0x9E3779B1
_MASK = 0xFFFFFFFF
_RECORD = 146
_SEED = file_seed(STORE_ID, FileKind.MEMO, 0)


class Covered(NamedTuple):
    """How far a table covers a segment.

    Attributes:
        end: Bytes whose entries are in the table.
        final: Whether the segment can't grow any more.
    """

    end: int
    final: bool


class _Head(msgspec.Struct, frozen=True, array_like=True):
    shift: int
    entries: int
    starts_bytes: int
    checksum: int
    covered: dict[int, Covered]


class Packed:
    """The table in memory.

    Attributes:
        covered: Segments whose entries are in it.
    """

    def __init__(
        self, shift: int, starts: bytes, blob: bytes, covered: Mapping[int, Covered]
    ) -> None:
        """Take over what `build` or `load` made."""
        self.covered = dict(covered)
        self._shift = shift
        self._starts_bytes = starts
        self._starts = memoryview(starts).cast("I")
        self._blob = blob

    @classmethod
    def empty(cls) -> Packed:
        """A table without entries."""
        return cls(32, bytes(8), b"", {})

    def __len__(self) -> int:
        return len(self._blob) // _STRIDE

    def find(self, name: bytes) -> bytes | None:
        """Place of an entry, packed, or ``None``."""
        prefix, sample = _MIX.unpack(name)
        bucket = ((prefix + sample * _GOLDEN) & _MASK) >> self._shift
        blob, starts = self._blob, self._starts
        at, stop = starts[bucket] * _STRIDE, starts[bucket + 1] * _STRIDE
        while (at := blob.find(name, at, stop)) >= 0:
            if not at % _STRIDE:
                return blob[at + NAME_BYTES : at + _STRIDE]
            at += 1
        return None

    def count(self, digest: bytes, beside: Mapping[bytes, bytes]) -> int:
        """Samples of a key, those named in ``beside`` left out. Reads the whole table."""
        blob, found, at = self._blob, 0, -1
        while (at := blob.find(digest, at + 1)) >= 0:
            if not at % _STRIDE and blob[at : at + NAME_BYTES] not in beside:
                found += 1
        return found

    def items(self) -> Iterator[bytes]:
        """Every entry: name, then place."""
        blob = self._blob
        return (blob[at : at + _STRIDE] for at in range(0, len(blob), _STRIDE))

    def merged(self, recent: Mapping[bytes, bytes], covered: Mapping[int, Covered]) -> Packed:
        """A table with newer entries, which win, and without those of segments that are gone.

        Args:
            recent: Name to place.
            covered: What the new table covers; entries of other segments are left out.
        """
        gone = self.covered.keys() - covered.keys()
        old: Iterator[bytes] = self.items()
        if gone:
            old = (e for e in old if PLACE.unpack_from(e, NAME_BYTES)[0] not in gone)
        if recent:
            old = (entry for entry in old if entry[:NAME_BYTES] not in recent)
        fresh = sorted((name + place for name, place in recent.items()), key=_mix)
        return build(heapq.merge(old, fresh, key=_mix), covered)

    def write(self, files: Files, fd: int) -> None:
        """Write the table into an empty file.

        Raises:
            OSError: The disk refused.
        """
        head = _Head(
            self._shift,
            len(self),
            len(self._starts_bytes),
            _checksum(self._starts_bytes, self._blob),
            self.covered,
        )
        record, payload, _, _ = encode_record(_SEED, _RECORD, 0, b"", meta=_encode(head))
        for part in (record, payload, self._starts_bytes, self._blob):
            failpoint("memo.index.write")
            if part:
                write_all(files, fd, part)


def build(entries: Iterator[bytes], covered: Mapping[int, Covered]) -> Packed:
    """Make a table of entries that are sorted by their mix."""
    blob = bytearray()
    for entry in entries:
        blob += entry
    count = len(blob) // _STRIDE
    bits = max(0, count.bit_length() - 3)
    shift = 32 - bits
    sizes = [0] * ((1 << bits) + 1)
    for name in range(0, len(blob), _STRIDE):
        prefix, sample = _MIX.unpack_from(blob, name)
        sizes[(((prefix + sample * _GOLDEN) & _MASK) >> shift) + 1] += 1
    starts = struct.pack(f"<{len(sizes)}I", *accumulate(sizes))
    return Packed(shift, starts, bytes(blob), covered)


def load(files: Files, fd: int) -> Packed | None:
    """Read a table; ``None`` if a single bit of it is not as it was written."""
    head_bytes = files.pread(fd, HEADER_BYTES, 0)
    try:
        header = parse_header(head_bytes, 0, _SEED)
    except FormatError:
        return None
    if header is None or header.type != _RECORD or header.position:
        return None
    payload = files.pread(fd, header.size - HEADER_BYTES, HEADER_BYTES)
    if not payload_fits(header, payload, _SEED):
        return None
    try:
        head = _decode(payload[: header.meta_bytes])
    except msgspec.DecodeError:
        return None
    starts = files.pread(fd, head.starts_bytes, header.size)
    blob = files.pread(fd, head.entries * _STRIDE, header.size + head.starts_bytes)
    if len(blob) != head.entries * _STRIDE or _checksum(starts, blob) != head.checksum:
        return None
    return Packed(head.shift, starts, blob, head.covered)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Head).decode


def _mix(entry: bytes) -> int:
    prefix, sample = _MIX.unpack_from(entry)
    mixed: int = (prefix + sample * _GOLDEN) & _MASK
    return mixed


def _checksum(starts: bytes, blob: bytes) -> int:
    return xxh3_64_intdigest(blob, xxh3_64_intdigest(starts, len(blob)))
