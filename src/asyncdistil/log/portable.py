"""What a store gives into a pack: the log of one run, the rows that it needs, its dataset files.

| member | content |
|---|---|
| ``log`` | frames: length (``u32``), tag (``u8``), LSN (``u64``), the event as in the commit log |
| ``rows/<segment>`` | header of the segment, then those of its records that are needed |
| ``datasets/<file>`` | a dataset file |
| ``artifacts``, ``artifacts/<number>`` | what steps saved, see `asyncdistil.log.saved` |

Records of rows keep the hashes of the store that they come from; whoever takes them in checks
these, and writes them anew for a store of its own.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from xxhash import xxh3_128

from asyncdistil.batch import Digest, Lsn, RunId
from asyncdistil.errors import CorruptRecord, UserError
from asyncdistil.log.events import Emit, Event
from asyncdistil.log.files import Files
from asyncdistil.log.history import History, Located, Place, read_history
from asyncdistil.log.index import EVENT_TAGS, decode_event, encode_event
from asyncdistil.log.kept import Demand
from asyncdistil.log.pack import PackReader, PackWriter
from asyncdistil.log.record import FILE_HEADER_BYTES, FileKind, file_seed
from asyncdistil.log.rewriting import moved, read_record
from asyncdistil.log.segment import segment_files

_FRAME = struct.Struct("<IBQ")
_PIECE_BYTES = 1 << 20
_FILE = re.compile(r"exports/([0-9a-f]{32})/([0-9a-f]{32}-\d{1,10}\.arrow)")


class NotPackable(UserError):
    """There is no such run, or it has no dataset."""


class Portable(NamedTuple):
    """One run of a store, ready to be packed.

    Attributes:
        history: Of the store.
        demand: Of that run alone.
        run: Its id.
        emits: Its datasets.
        left_out: Commits that can't be packed, because rows that they were made of are damaged.
    """

    history: History
    demand: Demand
    run: RunId
    emits: tuple[Emit, ...]
    left_out: int

    @property
    def writers(self) -> set[RunId]:
        """Runs whose work the dataset was made of."""
        return {self.run, *(one.run for one in self.demand.commits)}


def portable(root: Path, run: str, files: Files) -> Portable:
    """Find a run and what its dataset was made of.

    Args:
        root: Directory of the store.
        run: How its id begins; the newest that completed without it.
        files: The disk.

    Raises:
        NotPackable: There is none, or it did not complete, or its dataset files are gone.
        CorruptRecord: The store is damaged.
    """
    history = read_history(root, files)
    found = [part for part in history.runs.values() if part.run.startswith(run) and part.begin]
    complete = [part for part in found if part.completed]
    if not complete or (run and len(found) > 1):
        known = ", ".join(part.run[:8] for part in history.runs.values() if part.completed)
        raise NotPackable(
            f"no one completed run {run or 'at all'} is stored; those are {known or 'none yet'}: "
            "let the pipeline run to its end first"
        )
    part = complete[-1]
    emits = {
        event.leaf: event
        for _, event, _ in history.events
        if isinstance(event, Emit) and event.run == part.run
    }
    for emit in emits.values():
        for path, _ in emit.files:
            if not files.exists(root / path):
                raise NotPackable(
                    f"the dataset file {root / path} is gone: run the pipeline again, which makes "
                    "it anew from the stored rows, then export"
                )
    demand = Demand(history, only={part.run})
    left_out = demand.leave_out(_damaged(history, demand, files))
    return Portable(history, demand, part.run, tuple(emits.values()), left_out)


def _damaged(history: History, demand: Demand, files: Files) -> set[Place]:
    """Records that are damaged and that no commit made: they served as inputs.

    Raises:
        CorruptRecord: One that a commit made is damaged.
    """
    made = {place for one in demand.commits for place in one.records[: one.outputs]}
    paths = dict(segment_files(history.root, files))
    found = set()
    for number, places in _by_segment(demand):
        seed = file_seed(history.store_id, FileKind.SEGMENT, number)
        # One that is gone is found to be so where it can't be opened.
        path = paths.get(number, history.root / "segments" / f"{number:010d}.ads")
        for place in places:
            try:
                _verify(files, path, place, history.lengths[place], seed)
            except CorruptRecord:
                if place in made:
                    raise
                found.add(place)
    return found


def _verify(files: Files, path: Path, place: Place, length: int, seed: int) -> None:
    try:
        fd = files.open_read(path)
        try:
            read_record(files, fd, path, place, length, seed)
        finally:
            files.close(fd)
    except OSError as error:
        raise CorruptRecord(
            f"segment {place[0]} can't be read ({error.strerror}): run `asyncdistil cache repair`, "
            "then the pipeline, which recomputes what is lost",
            path=str(path),
        ) from error


def _by_segment(demand: Demand) -> Iterator[tuple[int, list[Place]]]:
    """Records that are needed, segment by segment, in the order in which they lie."""
    return (
        (number, list(places))
        for number, places in groupby(sorted(demand.records), key=lambda place: place[0])
    )


def write_store(pack: PackWriter, made: Portable, files: Files) -> None:
    """Put log, rows and datasets into a pack.

    Raises:
        CorruptRecord: Something is damaged.
        StorageError: The disk refused.
    """
    pack.add("log", _frames(made))
    paths = dict(segment_files(made.history.root, files))
    for number, places in _by_segment(made.demand):
        pack.add(f"rows/{number:010d}", _rows(made.history, paths[number], places, files))
    for emit in made.emits:
        for path, digest in emit.files:
            name = f"datasets/{path.rpartition('/')[2]}"
            pack.add(name, _dataset(made.history.root / path, digest, files))


def _frames(made: Portable) -> Iterator[bytes]:
    records = made.demand.log()
    stored = made.history.read(one for one in records if isinstance(one, Located))
    for record in records:
        if isinstance(record, Located):
            event = moved(made.history, next(stored)[1], {})
            lsn = record.lsn
        else:
            event, lsn = record, Lsn(0)
        body = encode_event(event)
        yield _FRAME.pack(len(body), EVENT_TAGS[type(event)], lsn) + body


def _rows(history: History, path: Path, places: list[Place], files: Files) -> Iterator[bytes]:
    fd = files.open_read(path)
    try:
        yield files.pread(fd, FILE_HEADER_BYTES, 0)
        for place in places:
            length = history.lengths[place]
            data = files.pread(fd, length, place[1])
            if len(data) < length:
                raise CorruptRecord(f"{path} ends too early: run `asyncdistil cache repair`")
            yield data
    finally:
        files.close(fd)


def _dataset(path: Path, expected: Digest, files: Files) -> Iterator[bytes]:
    whole, at = xxh3_128(), 0
    fd = files.open_read(path)
    try:
        while piece := files.pread(fd, _PIECE_BYTES, at):
            whole.update(piece)
            at += len(piece)
            yield piece
    finally:
        files.close(fd)
    if whole.digest() != expected:
        raise CorruptRecord(
            f"the dataset file {path} was changed after it was written: delete it and run the "
            "pipeline again, which makes it anew, then export",
            path=str(path),
        )


# --- reading a pack back --------------------------------------------------------------------------


def read_frames(pack: PackReader) -> Iterator[tuple[Lsn, Event]]:
    """Events of a pack with the LSNs that they had; 0 where none matters.

    Raises:
        FormatError: An event can't be understood.
        CorruptRecord: A frame passes the end.
    """
    at, size = 0, pack.size("log")
    while at < size:
        head = pack.part("log", at, _FRAME.size)
        length, tag, lsn = _FRAME.unpack(head) if len(head) == _FRAME.size else (size, 0, 0)
        at += _FRAME.size
        if at + length > size:
            raise CorruptRecord(f"{pack.path}: a frame of its log passes its end")
        body = pack.part("log", at, length)
        at += length
        yield Lsn(lsn), decode_event(body, tag)


def dataset_name(path: str, run: str) -> str | None:
    """Member that holds a dataset file of a run; ``None`` if that can't be a path of one."""
    found = _FILE.fullmatch(path)
    return f"datasets/{found[2]}" if found and found[1] == run else None
