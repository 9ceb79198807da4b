"""The index at a clean end, so that opening a store never reads history.

A checkpoint only saves time: one that is missing or damaged means that the log is read from its
beginning. It may never say anything that the log does not say.
"""

from __future__ import annotations

import struct
import sys
import time
from array import array
from pathlib import Path

import msgspec

from asyncdistil.batch import BatchRef, Digest, Lsn, RunId
from asyncdistil.errors import CorruptRecord
from asyncdistil.log.commit_log import Tail
from asyncdistil.log.events import Emit, RunBegin, RunEnd, StepDef
from asyncdistil.log.failpoint import failpoint
from asyncdistil.log.files import LOST, Files, unreadable, write_all
from asyncdistil.log.index import Index, Table
from asyncdistil.log.record import (
    FILE_HEADER_BYTES,
    HEADER_BYTES,
    FileHeader,
    FileKind,
    Header,
    RecordType,
    encode_file_header,
    encode_record,
    file_seed,
    parse_file_header,
    parse_header,
    payload_fits,
)

_COUNTS = struct.Struct("<QQ")


class Summary(msgspec.Struct, array_like=True):
    """Everything small in an `Index`, and where the tables are.

    Attributes:
        done_rows: Rows of each entry of ``done``, in its order.
        lossy: As in `Index`.
        tables: Lineage, byte offset of its table behind this record, bytes of the table.
    """

    runs: list[tuple[Lsn, RunBegin]]
    ends: list[RunEnd]
    step_defs: list[StepDef]
    done: list[tuple[Digest, Digest, Lsn, RunId]]
    intents: list[tuple[Digest, Digest]]
    outcomes: list[tuple[Digest, Digest, str]]
    emits: list[Emit]
    tombstones: list[int]
    moved: list[tuple[BatchRef, BatchRef]]
    tables: list[tuple[Digest, int, int]]
    done_rows: list[int] = []
    lossy: bool = False


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Summary).decode


def checkpoint_path(root: Path) -> Path:
    """Where a store keeps its checkpoint."""
    return root / "checkpoint.adk"


class Checkpoint:
    """An open checkpoint; its tables are read when asked for."""

    def __init__(self, path: Path, files: Files) -> None:
        """Read the summary.

        Raises:
            FileNotFoundError: There is no checkpoint.
            CorruptRecord: It is damaged, and may be ignored.
            FormatError: It is of a newer format.
        """
        self.path = path
        self._files = files
        self._fd = files.open_read(path)
        try:
            self._read_summary()
        except BaseException:
            self.close()
            raise

    def _read_summary(self) -> None:
        data = self._files.pread(self._fd, 1 << 20, 0)
        parsed = parse_file_header(data, FileKind.CHECKPOINT, 0)
        if parsed is None:
            raise self._corrupt(0)
        self.header, _ = parsed
        self.store_id = self.header.store_id
        self._seed = file_seed(self.store_id, FileKind.CHECKPOINT, 0)
        header, payload = self._read_record(FILE_HEADER_BYTES, RecordType.SUMMARY)
        self._tables_at = FILE_HEADER_BYTES + header.size
        try:
            self.summary = _decode(
                payload[header.meta_bytes : header.meta_bytes + header.body_bytes]
            )
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise self._corrupt(FILE_HEADER_BYTES) from None
        self._places = {
            lineage: (offset, length) for lineage, offset, length in self.summary.tables
        }

    @property
    def tail(self) -> Tail:
        """Where the commit log ended when this was written."""
        header = self.header
        return Tail(
            header.previous_number, header.previous_end, header.base - 1, header.previous_digest
        )

    def index(self) -> Index:
        """The index that was stored."""
        index = Index(self.table)
        summary = self.summary
        index.runs = list(summary.runs)
        index.ends = {end.run: end for end in summary.ends}
        index.step_defs = {entry.lineage: entry for entry in summary.step_defs}
        index.done = {(lineage, data): (lsn, run) for lineage, data, lsn, run in summary.done}
        index.done_rows = dict(zip(index.done, summary.done_rows, strict=False))
        index.lossy = summary.lossy
        index.intents = set(summary.intents)
        index.outcomes = {(lineage, key): note for lineage, key, note in summary.outcomes}
        for emit in summary.emits:
            index.emits.setdefault(emit.key, []).append(emit)
        index.tombstones = set(summary.tombstones)
        index.moved = {(old.segment, old.offset): (old, new) for old, new in summary.moved}
        return index

    def table(self, lineage: Digest) -> Table | None:
        """Read the table of one lineage, ``None`` if it has none.

        Raises:
            CorruptRecord: It is damaged; delete the checkpoint and open again.
            StorageError: The disk refused.
        """
        place = self._places.get(lineage)
        if place is None:
            return None
        try:
            header, payload = self._read_record(self._tables_at + place[0], RecordType.TABLE)
        except OSError as error:
            if error.errno in LOST:
                raise self._corrupt(self._tables_at + place[0]) from error
            raise unreadable(self.path, error) from error
        body = payload[header.meta_bytes : header.meta_bytes + header.body_bytes]
        try:
            if payload[: header.meta_bytes] == lineage:
                return _decode_table(body)
        except (struct.error, ValueError):
            pass  # not the size that its counts ask for
        raise self._corrupt(self._tables_at + place[0])

    def lineages(self) -> list[Digest]:
        """Lineages that have a table."""
        return list(self._places)

    def close(self) -> None:
        """Close the file. Tables can't be read any more."""
        if self._fd >= 0:
            self._files.close(self._fd)
            self._fd = -1

    def _read_record(self, offset: int, kind: int) -> tuple[Header, bytes]:
        data = self._files.pread(self._fd, HEADER_BYTES, offset)
        header = parse_header(data, 0, self._seed)
        if header is None or header.position != offset or header.type != kind:
            raise self._corrupt(offset)
        # The header's hash fits, so its length may be trusted.
        payload = self._files.pread(self._fd, header.size - HEADER_BYTES, offset + HEADER_BYTES)
        if not payload_fits(header, payload, self._seed):
            raise self._corrupt(offset)
        return header, payload

    def _corrupt(self, offset: int) -> CorruptRecord:
        return CorruptRecord(
            f"{self.path}: the checkpoint is damaged at offset {offset}; delete it, the log holds "
            "everything and is then read from its beginning",
            path=str(self.path),
            offset_bytes=offset,
        )


def write_checkpoint(
    root: Path,
    store_id: bytes,
    tail: Tail,
    index: Index,
    *,
    files: Files,
    lineages: list[Digest],
) -> None:
    """Write the checkpoint of a log that is durable up to ``tail``.

    Args:
        root: Store directory.
        store_id: Of the store.
        tail: Where the log ends.
        index: What it says.
        files: The disk.
        lineages: All that have a table.

    Raises:
        OSError: The disk refused; the checkpoint before is still in place.
    """
    tables = []
    directory = []
    offset = 0
    for lineage in lineages:
        body = _encode_table(index.table(lineage))
        directory.append((lineage, offset, len(body)))
        size = HEADER_BYTES + ((len(lineage) + len(body) + 7) & ~7)
        tables.append((lineage, offset, body))
        offset += size
    summary = _encode(_summary(index, directory))
    seed = file_seed(store_id, FileKind.CHECKPOINT, 0)
    head, _ = encode_file_header(
        FileHeader(
            store_id,
            FileKind.CHECKPOINT,
            0,
            base=tail.lsn + 1,
            previous_number=tail.number,
            previous_end=tail.end,
            previous_digest=tail.digest,
            durable=tail.lsn,
            created_seconds=time.time(),
        )
    )
    parts = [head, *encode_record(seed, RecordType.SUMMARY, len(head), summary)[:2]]
    start = sum(map(len, parts))
    for lineage, place, body in tables:
        parts += encode_record(seed, RecordType.TABLE, start + place, body, meta=lineage)[:2]
    _replace(root, b"".join(parts), files)


def _replace(root: Path, data: bytes, files: Files) -> None:
    """Put a complete checkpoint in the place of the one before."""
    path = checkpoint_path(root)
    scratch = path.with_suffix(".tmp")
    files.unlink(scratch)
    fd = files.create(scratch)
    try:
        write_all(files, fd, data)
        failpoint("checkpoint.after_write")
        files.fdatasync(fd)
    finally:
        files.close(fd)
    failpoint("checkpoint.before_rename")
    files.replace(scratch, path)
    failpoint("checkpoint.after_rename")
    files.fsync_dir(root)


def _summary(index: Index, tables: list[tuple[Digest, int, int]]) -> Summary:
    return Summary(
        index.runs,
        list(index.ends.values()),
        list(index.step_defs.values()),
        [(lineage, data, lsn, run) for (lineage, data), (lsn, run) in index.done.items()],
        sorted(index.intents),
        [(lineage, key, note) for (lineage, key), note in index.outcomes.items()],
        [emit for emits in index.emits.values() for emit in emits],
        sorted(index.tombstones),
        list(index.moved.values()),
        tables,
        [index.done_rows.get(key, -1) for key in index.done],
        index.lossy,
    )


def _encode_table(table: Table) -> bytes:
    arrays = (
        table.commits.lsns,
        table.commits.places,
        table.routes.lsns,
        table.routes.places,
    )
    counts = _COUNTS.pack(len(table.commits.lsns), len(table.routes.lsns))
    return b"".join((counts, *map(_little_endian, arrays)))


def _decode_table(body: bytes) -> Table:
    commits, routes = _COUNTS.unpack_from(body)
    if len(body) != _COUNTS.size + 16 * (commits + routes):
        raise ValueError("a table must be as long as its counts say")
    table = Table()
    at = _COUNTS.size
    for located, count in ((table.commits, commits), (table.routes, routes)):
        located.lsns = _native(body[at : at + 8 * count])
        located.places = _native(body[at + 8 * count : at + 16 * count])
        at += 16 * count
    return table


def _little_endian(numbers: array[int]) -> bytes:
    if sys.byteorder == "big":  # pragma: no cover - needs a machine of that kind
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


def _native(data: bytes) -> array[int]:
    numbers = array("Q", data)
    if sys.byteorder == "big":  # pragma: no cover - needs a machine of that kind
        numbers.byteswap()
    return numbers
