"""A log written anew, with less in it, and put in the place of the old one in a single act.

The new file begins a chain of its own: it names no earlier file, so whoever walks the log from its
newest file never looks behind it. Until it has its name the old log counts, whole; from then on the
new one does, whole. What it leaves out is unlinked only when its name is durable, so a kill or a
power cut at any moment loses nothing that is kept.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from asyncdistil.batch import BatchRef, Digest, Lsn, RowSlice, SegmentId
from asyncdistil.errors import CorruptRecord
from asyncdistil.log.checkpoint import checkpoint_path, write_checkpoint
from asyncdistil.log.events import Commit, Event, Retry, Reuse, Route, RunBegin
from asyncdistil.log.failpoint import failpoint
from asyncdistil.log.files import Files, write_all
from asyncdistil.log.history import History, Located, Place
from asyncdistil.log.index import EVENT_TAGS, encode_event
from asyncdistil.log.kept import Record
from asyncdistil.log.names import commit_path
from asyncdistil.log.record import (
    FILE_HEADER_BYTES,
    HEADER_BYTES,
    FileHeader,
    FileKind,
    RecordType,
    encode_file_header,
    encode_record,
    file_seed,
    parse_header,
    payload_fits,
)
from asyncdistil.log.recovery import recover
from asyncdistil.log.segment import segment_files, segment_path

_WRITE_BYTES = 4 << 20
_WORTH_COPYING = 8
"""A segment is copied if more than one part in so many of it is needed by nobody."""

Moves = Mapping[Place, BatchRef]


class Segment(NamedTuple):
    """A segment file and what is needed of it.

    Attributes:
        number: Of the file.
        path: Of the file.
        size_bytes: Of the file.
        live: Records that somebody needs.
        live_bytes: Their bytes.
    """

    number: int
    path: Path
    size_bytes: int
    live: Sequence[Place]
    live_bytes: int

    @property
    def dead(self) -> bool:
        """Whether nobody needs anything of it."""
        return not self.live

    @property
    def sparse(self) -> bool:
        """Whether what is needed of it is better copied."""
        idle = self.size_bytes - self.live_bytes - FILE_HEADER_BYTES
        return bool(self.live) and idle * _WORTH_COPYING > self.size_bytes

    @property
    def freed_bytes(self) -> int:
        """By how much less the disk holds when this segment has been seen to."""
        if self.dead:
            return self.size_bytes
        return self.size_bytes - self.live_bytes - FILE_HEADER_BYTES if self.sparse else 0


def segments_of(history: History, live: Collection[Place], files: Files) -> list[Segment]:
    """Every segment file of a store, with what is needed of it."""
    by_number: defaultdict[int, list[Place]] = defaultdict(list)
    for place in live:
        by_number[place[0]].append(place)
    found = []
    for number, path in sorted(segment_files(history.root, files)):
        fd = files.open_read(path)
        try:
            size = files.size(fd)
        finally:
            files.close(fd)
        places = sorted(by_number.get(number, ()))
        live_bytes = sum(history.lengths[place] for place in places)
        found.append(Segment(number, path, size, places, live_bytes))
    return found


def copy_live(history: History, segments: Sequence[Segment], files: Files) -> Moves:
    """Copy what is needed of some segments into new ones, one for each, and sync them.

    A segment with a damaged record stays as it is: that is for `verify` and `repair` to judge.

    Returns:
        Where each record is now.

    Raises:
        OSError: The disk refused; nothing has changed that counts.
    """
    moves: dict[Place, BatchRef] = {}
    number = max((number for number, _ in segment_files(history.root, files)), default=0)
    for segment in segments:
        number += 1
        lineage = Digest(bytes.fromhex(segment.path.parent.name))
        # The copy that is begun names nothing and goes with the next collection.
        with suppress(CorruptRecord):
            moves.update(_copy(history, segment, SegmentId(number), lineage, files))
    for folder in {segment.path.parent for segment in segments}:
        files.fsync_dir(folder)
    return moves


def _copy(
    history: History, segment: Segment, number: SegmentId, lineage: Digest, files: Files
) -> dict[Place, BatchRef]:
    store_id = history.store_id
    old_seed = file_seed(store_id, FileKind.SEGMENT, segment.number)
    new_seed = file_seed(store_id, FileKind.SEGMENT, number)
    moves: dict[Place, BatchRef] = {}
    source = files.open_read(segment.path)
    try:
        target = files.create(segment_path(history.root, lineage, number))
        try:
            header = FileHeader(store_id, FileKind.SEGMENT, number, owner=lineage)
            end = write_all(files, target, encode_file_header(header)[0])
            for place in segment.live:
                length = history.lengths[place]
                meta, body = read_record(files, source, segment.path, place, length, old_seed)
                head, payload, _, checksum = encode_record(
                    new_seed, RecordType.ROWS, end, body, meta=meta
                )
                size = write_all(files, target, head + payload)
                # Rows and digest are those of the old reference: commits are given back with it.
                moves[place] = BatchRef(number, end, size, 0, checksum, Digest(b""))
                end += size
                failpoint("gc.after_copy")
            files.fdatasync(target)
        finally:
            files.close(target)
    finally:
        files.close(source)
    return moves


def read_record(
    files: Files, fd: int, path: Path, place: Place, length: int, seed: int
) -> tuple[bytes, bytes]:
    """Meta and body of an intact record of rows.

    Raises:
        CorruptRecord: It is damaged.
    """
    data = files.pread(fd, length, place[1])
    header = parse_header(data, 0, seed)
    payload = data[HEADER_BYTES:]
    if header is None or header.position != place[1] or not payload_fits(header, payload, seed):
        raise CorruptRecord(
            f"{path}: the record at offset {place[1]} is damaged; run `asyncdistil cache repair`, "
            "then the pipeline, which recomputes what is lost",
            path=str(path),
            offset_bytes=place[1],
        )
    return payload[: header.meta_bytes], payload[header.meta_bytes :][: header.body_bytes]


def log_bytes(records: Sequence[Record]) -> int:
    """Bytes of a log of these records, nearly: references may shrink when they are written anew."""
    return (
        FILE_HEADER_BYTES
        + HEADER_BYTES
        + sum(
            record.size_bytes
            if isinstance(record, Located)
            else HEADER_BYTES + (len(encode_event(record)) + 7 & ~7)
            for record in records
        )
    )


def write_log(history: History, records: Sequence[Record], moves: Moves, files: Files) -> None:
    """Write a log of these records, put it in the place of the old one and make a checkpoint.

    The store's lock must be held and nothing be appended meanwhile.

    Raises:
        CorruptRecord: A record of the old log is damaged.
        OSError: The disk refused; one of the two logs is in place, whole.
    """
    root = history.root
    path = commit_path(root, history.next_number)
    scratch = path.with_suffix(".tmp")
    files.unlink(scratch)
    fd = files.create(scratch)
    try:
        _write_records(history, records, moves, files, fd)
        failpoint("gc.before_sync")
        files.fdatasync(fd)
    finally:
        files.close(fd)
    # It speaks of the old log: with the new one in place it would be taken for damage.
    files.unlink(checkpoint_path(root))
    files.fsync_dir(root)
    failpoint("gc.before_rename")
    files.replace(scratch, path)
    failpoint("gc.after_rename")
    files.fsync_dir(path.parent)
    failpoint("gc.before_checkpoint")
    recovered = recover(root, files, exclusive=True)
    lineages = list(recovered.index.tables)
    write_checkpoint(
        root, history.store_id, recovered.tail, recovered.index, files=files, lineages=lineages
    )


def _write_records(
    history: History, records: Sequence[Record], moves: Moves, files: Files, fd: int
) -> None:
    number, base = history.next_number, history.tail.lsn + 1
    # All of it is durable before it has its name, the seal behind the last record included.
    durable = base + len(records)
    header = FileHeader(
        history.store_id,
        FileKind.COMMIT_LOG,
        number,
        base=base,
        durable=durable,
        created_seconds=time.time(),
    )
    data, digest = encode_file_header(header)
    seed = file_seed(history.store_id, FileKind.COMMIT_LOG, number)
    parts, waiting = [data], len(data)
    lsn = base
    for event in _events(history, records, moves, base):
        lineage = event.lineage if isinstance(event, Commit | Route) else b""
        head, payload, digest, _ = encode_record(
            seed,
            EVENT_TAGS[type(event)],
            lsn,
            encode_event(event),
            meta=lineage,
            durable=durable,
            previous=digest,
        )
        lsn += 1
        parts += head, payload
        waiting += len(head) + len(payload)
        if waiting > _WRITE_BYTES:
            write_all(files, fd, b"".join(parts))
            parts, waiting = [], 0
    head, payload, _, _ = encode_record(
        seed, RecordType.SEAL, lsn, b"", durable=durable, previous=digest
    )
    write_all(files, fd, b"".join((*parts, head, payload)))


def _events(
    history: History, records: Sequence[Record], moves: Moves, base: int
) -> Iterator[Event]:
    """The events themselves, with references and LSNs as they are in the new log."""
    lsns = {one.lsn: Lsn(base + at) for at, one in enumerate(records) if isinstance(one, Located)}
    stored = history.read(one for one in records if isinstance(one, Located))
    for record in records:
        event: Event = next(stored)[1] if isinstance(record, Located) else record
        match event:
            case Commit():
                yield moved(history, event, moves)
            case Reuse():
                yield msgspec.structs.replace(
                    event, commits=tuple(lsns[lsn] for lsn in event.commits)
                )
            case RunBegin(retry=Retry() as retry):
                yield msgspec.structs.replace(event, retry=retry.renumbered(lsns))
            case _:
                yield event


def moved(history: History, event: Event, moves: Moves) -> Event:
    """An event with its references as they are after the moves of the log, and after these."""
    if not isinstance(event, Commit):
        return event

    def now(ref: BatchRef) -> BatchRef:
        ref = history.current(ref)
        new = moves.get((ref.segment, ref.offset))
        return (
            ref if new is None else msgspec.structs.replace(new, rows=ref.rows, digest=ref.digest)
        )

    return msgspec.structs.replace(
        event,
        outputs=tuple(map(now, event.outputs)),
        inputs=tuple(
            tuple(RowSlice(now(part.ref), part.start, part.stop) for part in port)
            for port in event.inputs
        ),
    )
