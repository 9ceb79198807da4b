"""Damage of a commit log that was given up on purpose, on record since or in this recovery."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from asyncdistil.log.log_files import LogFile, LogFiles
from asyncdistil.log.record import (
    HEADER_BYTES,
    FileHeader,
    RecordType,
    payload_fits,
    stray_headers,
)

_HOLE = struct.Struct("<QQQQQ")


class Hole(NamedTuple):
    """Damaged bytes of the commit log that were given up on purpose.

    Attributes:
        number: Commit-log file.
        start: First byte given up; 0 for the whole file.
        end: Byte at which the walk goes on; ``start`` where records are missing.
        lsn: LSN of the last record given up.
        digest: What the record at ``end`` has as the hash of the header before it.
    """

    number: int
    start: int
    end: int
    lsn: int
    digest: int

    def encode(self) -> bytes:
        """Body of a REPAIR record."""
        return _HOLE.pack(*self)


class Span(NamedTuple):
    """Bytes of a commit-log file that may be damaged."""

    number: int
    start: int
    end: int


class Holes:
    """All holes of a log, by where they start.

    Attributes:
        new: Those of this recovery, to be written down.
    """

    def __init__(self, log: LogFiles) -> None:
        self.new: list[Hole] = []
        self._log = log
        self._read: set[int] = set()
        self._known: dict[tuple[int, int], Hole] = {}

    @property
    def any(self) -> bool:
        """Whether damage was given up, as far as anybody asked."""
        return bool(self._known)

    def add(self, hole: Hole) -> None:
        """Give up one more."""
        self.new.append(hole)
        self._known[hole.number, hole.start] = hole

    def at(self, number: int, start: int, files: Iterable[LogFile]) -> Hole | None:
        """The hole that starts there, if one was given up; REPAIR records may be in any file."""
        unread = [file for file in files if file.number not in self._read]
        self._read.update(file.number for file in unread)
        for body in self._log.intact_bodies(unread, RecordType.REPAIR):
            if len(body) == _HOLE.size:
                hole = Hole(*_HOLE.unpack(body))
                self._known.setdefault((hole.number, hole.start), hole)
        return self._known.get((number, start))

    def measure(self, span: Span, lsn: int, durable: int, follower: FileHeader | None) -> Hole:
        """How far damage reaches that begins with a span, and what stands behind it.

        Args:
            span: From the first damaged byte up to where its file counts.
            lsn: Of the last record before it.
            durable: Highest LSN known to be durable.
            follower: Header of the next file that counts, if there is one.
        """
        number, start, end = span
        data = self._log.read(number, start, end)
        seed = self._log.seed(number)
        for at, header in stray_headers(data, 0, seed):
            payload = data[at + HEADER_BYTES : at + header.size]
            if header.position > lsn and payload_fits(header, payload, seed):
                if at == 0:
                    continue  # intact but out of place: the damage is what is missing before it
                return Hole(number, start, start + at, header.position - 1, header.previous)
        if follower is not None:
            return Hole(number, start, end, follower.base - 1, follower.previous_digest)
        return Hole(number, start, end, max(durable, lsn), 0)
