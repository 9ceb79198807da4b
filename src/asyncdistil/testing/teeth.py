"""Bugs to be put into the runtime on purpose, to see whether the tests would notice.

Each tooth is a context manager that replaces one function or method by a faulty one for a while.
Nothing of it is in the runtime itself, and nothing switches it on but a test. What it stands for
are the mistakes that logs and supervisors are known for.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from asyncdistil.batch import Lsn, RowId
from asyncdistil.log import lock, opening, recovery, segment
from asyncdistil.log.commit_log import CommitLog, Tail
from asyncdistil.log.files import Files
from asyncdistil.log.group_sync import GroupSync
from asyncdistil.log.holes import Span
from asyncdistil.log.record import HEADER_BYTES, Header, parse_header
from asyncdistil.log.recovery import Recovered
from asyncdistil.memo import memo as memo_module
from asyncdistil.supervisor.crew import Job
from asyncdistil.supervisor.leaf import LeafOperator
from asyncdistil.supervisor.operator import StepOperator
from asyncdistil.supervisor.source import SourceOperator
from asyncdistil.testing.disk import MemoryDisk


class Tooth(NamedTuple):
    """A bug.

    Attributes:
        name: Short.
        says: What goes wrong with it.
        bite: Puts it in for the duration of the context.
    """

    name: str
    says: str
    bite: Callable[[], Any]


@contextmanager
def _replaced(owner: Any, name: str, faulty: Any) -> Iterator[None]:
    original = owner.__dict__[name]
    setattr(owner, name, faulty)
    try:
        yield
    finally:
        setattr(owner, name, original)


# --- syncing --------------------------------------------------------------------------------------


def _no_fsync() -> Any:
    def group(self: Any, *, really: bool = False) -> None:
        self._raise_to(Lsn(self._log.tail.lsn))

    return _replaced(GroupSync, "_group", group)


def _acknowledged_before_sync() -> Any:
    sound = GroupSync._group

    def group(self: Any, *, really: bool = False) -> None:
        self._raise_to(Lsn(self._log.tail.lsn), synced=False)
        sound(self, really=really)

    return _replaced(GroupSync, "_group", group)


def _log_synced_before_segments() -> Any:
    sound = GroupSync._group

    def group(self: Any, *, really: bool = False) -> None:
        for fd in self._log.descriptors():
            self._files.fdatasync(fd)
        self._raise_to(Lsn(self._log.tail.lsn))
        sound(self, really=really)

    return _replaced(GroupSync, "_group", group)


def _fsync_retried() -> Any:
    def append_again(self: Any, cause: OSError) -> bool:
        for fd in self._log.descriptors():
            self._files.fdatasync(fd)
        return True

    return _replaced(GroupSync, "_append_again", append_again)


@contextmanager
def _no_directory_fsync() -> Iterator[None]:
    def fsync_dir(self: MemoryDisk, path: Path) -> None:
        """Forgotten."""

    with _replaced(MemoryDisk, "fsync_dir", fsync_dir):
        yield


def _memo_not_synced() -> Any:
    def tell(self: Any, number: int) -> None:
        """Nobody is told which segments were used."""

    return _replaced(memo_module.Memo, "_tell", tell)


# --- framing --------------------------------------------------------------------------------------


def _trusting(data: bytes | memoryview, at: int, seed: int) -> Header | None:
    """Believe a header whose own hash does not fit."""
    header = parse_header(data, at, seed)
    if header is not None or len(data) - at < HEADER_BYTES:
        return header
    (kind, flags) = data[at + 4], data[at + 5]
    numbers = [
        int.from_bytes(data[at + place : at + place + 8], "little")
        for place in range(8, HEADER_BYTES, 8)
    ]
    position, durable, meta, body, _decoded, previous, checksum, digest = numbers
    if bytes(data[at : at + 4]) != b"ADDC" or meta + body > 1 << 20:
        return None
    return Header(kind, flags, position, durable, meta, body, previous, checksum, digest)


@contextmanager
def _length_before_hash() -> Iterator[None]:
    with (
        _replaced(recovery, "parse_header", _trusting),
        _replaced(segment, "parse_header", _trusting),
    ):
        yield


class _Anything(int):
    """Equal to everything."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


def _no_chain() -> Any:
    def parse(data: bytes | memoryview, at: int, seed: int) -> Header | None:
        header = parse_header(data, at, seed)
        return header and header._replace(previous=_Anything(header.previous))

    return _replaced(recovery, "parse_header", parse)


# --- recovery -------------------------------------------------------------------------------------


def _truncate_on_recovery() -> Any:
    def quarantine(root: Path, files: Files, recovered: Recovered) -> None:
        for remainder in recovered.remainders:
            assert isinstance(files, MemoryDisk)
            files.put(remainder.path, files.files()[remainder.path][: remainder.start])
        recovered.remainders.clear()

    return _replaced(opening, "_quarantine", quarantine)


def _resurrected_after_a_hole() -> Any:
    sound = recovery._Recovery._judge

    def judge(self: Any, file: Any, offset: int, limit: int, *rest: Any) -> bool:
        place = Span(file.number, offset, limit)
        hole = self._holes.measure(place, self._result.tail.lsn, self._result.durable, rest[2])
        if hole.end < limit:
            # "Skip what is damaged and keep the rest."
            self._result.tail = Tail(file.number, hole.end, hole.lsn, hole.digest)
            return True
        return sound(self, file, offset, limit, *rest)

    return _replaced(recovery._Recovery, "_judge", judge)


def _torn_tail_called_damage() -> Any:
    def judge(self: Any, file: Any, offset: int, limit: int, *rest: Any) -> bool:
        self._damaged(file.number, offset, rest[1], self._result.tail.lsn + 1, rest[0])
        return False

    return _replaced(recovery._Recovery, "_judge", judge)


def _payload_not_verified() -> Any:
    def first_torn(root: Path, files: Files, recovered: Recovered, *, exclusive: bool) -> None:
        return None

    return _replaced(opening, "_first_torn", first_torn)


# --- locks and leases -----------------------------------------------------------------------------


class _Forgetful(weakref.WeakSet[Any]):
    def add(self, item: Any) -> None:
        """A child will not know what to close."""


def _lock_inherited() -> Any:
    return _replaced(lock, "_held", _Forgetful())


def _no_epoch() -> Any:
    def cover(self: Job, start: int, stop: int) -> bool:
        """A late result of a lease that was covered by another worker counts again."""
        _COVER(self, start, stop)
        return True

    return _replaced(Job, "cover", cover)


_COVER = Job.cover


def _emit_before_durable() -> Any:
    sound = LeafOperator.sweep

    def sweep(self: LeafOperator) -> None:
        self._durable_ticket = 1 << 62
        sound(self)

    return _replaced(LeafOperator, "sweep", sweep)


def _end_from_a_flag() -> Any:
    def frontier(self: StepOperator) -> RowId:
        """The last input was handed out, so this is the end; what is in hand does not count."""
        return self.front.frontier

    return _replaced(StepOperator, "_frontier", frontier)


def _nothing_kept() -> Any:
    def append(self: CommitLog, entries: Sequence[Any]) -> list[int]:
        places = _APPEND(self, entries)
        self._kept.clear()  # nothing is left to be written again when a sync fails
        return places

    return _replaced(CommitLog, "append", append)


_APPEND = CommitLog.append


def _generator_starts_over() -> Any:
    sound = SourceOperator.on_lost

    def on_lost(self: SourceOperator, worker: Any, cause: str) -> None:
        self._rows = 0
        self._stored.clear()
        sound(self, worker, cause)

    return _replaced(SourceOperator, "on_lost", on_lost)


TEETH = (
    Tooth("no fsync", "the watermark rises without a sync", _no_fsync),
    Tooth("ack before sync", "the watermark rises before its sync", _acknowledged_before_sync),
    Tooth(
        "log before segments", "commits are durable before their rows", _log_synced_before_segments
    ),
    Tooth("fsync retried", "a failed sync is repeated on its descriptor", _fsync_retried),
    Tooth("no directory fsync", "files are durable, their names are not", _no_directory_fsync),
    Tooth("memo not synced", "commits are durable before answers they took", _memo_not_synced),
    Tooth("length before hash", "a header is believed unchecked", _length_before_hash),
    Tooth("no chain", "records need not follow each other", _no_chain),
    Tooth("truncate on recovery", "the evidence is cut off", _truncate_on_recovery),
    Tooth("resurrected after a hole", "records behind a lost one count", _resurrected_after_a_hole),
    Tooth("torn called damage", "a crash looks like bit rot", _torn_tail_called_damage),
    Tooth("payload not verified", "commits count without their rows", _payload_not_verified),
    Tooth("lock inherited", "a forked child keeps the lock", _lock_inherited),
    Tooth("no epoch check", "a lease settles twice", _no_epoch),
    Tooth("emit before durable", "rows are shown before they are safe", _emit_before_durable),
    Tooth("end from a flag", "a stream ends while work is in hand", _end_from_a_flag),
    Tooth("forgets what to rewrite", "a failed sync has nothing to append again", _nothing_kept),
    Tooth(
        "generator starts over", "a restarted generator repeats its rows", _generator_starts_over
    ),
)
