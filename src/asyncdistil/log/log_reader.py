"""Reads events of the commit log by place, checking every record again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from asyncdistil.batch import Lsn
from asyncdistil.errors import CorruptRecord
from asyncdistil.log.events import Event
from asyncdistil.log.files import LOST, Files, unreadable
from asyncdistil.log.index import decode_event, unpack_place
from asyncdistil.log.names import commit_path
from asyncdistil.log.record import HEADER_BYTES, FileKind, file_seed, parse_header, payload_fits

_NEAR_BYTES = 64 << 10
_WINDOW_BYTES = 512 << 10
_SINGLE_BYTES = 4 << 10


class LogReader:
    """Random access to a commit log. Not for use from several threads at once."""

    def __init__(self, root: Path, store_id: bytes, files: Files) -> None:
        self._root = root
        self._store_id = store_id
        self._files = files
        self._open: dict[int, tuple[int, int]] = {}
        self._number = 0
        self._start = 0
        self._window = b""

    def events(
        self, lsns: Sequence[int], places: Sequence[int], *, skip_damaged: bool = False
    ) -> Iterator[tuple[Lsn, Event]]:
        """Yield the events at some places, which should ascend.

        Args:
            lsns: LSNs that the records must have.
            places: Where they are.
            skip_damaged: Leave damaged ones out instead of refusing.

        Raises:
            CorruptRecord: A record is not what it was.
            FormatError: A record was not written by this version.
        """
        self._window = b""
        for i, (lsn, place) in enumerate(zip(lsns, places, strict=True)):
            near = i + 1 < len(places) and places[i + 1] - place < _NEAR_BYTES
            try:
                event = self._event(lsn, place, _WINDOW_BYTES if near else _SINGLE_BYTES)
            except CorruptRecord:
                if not skip_damaged:
                    raise
                continue
            yield Lsn(lsn), event
        self._window = b""

    def close(self) -> None:
        """Close every file."""
        for fd, _ in self._open.values():
            self._files.close(fd)
        self._open.clear()

    def _event(self, lsn: int, place: int, window_bytes: int) -> Event:
        number, offset = unpack_place(place)
        at = self._load(number, offset, HEADER_BYTES, window_bytes, lsn)
        _, seed = self._open[number]
        header = parse_header(self._window, at, seed)
        if header is None or header.position != lsn:
            raise self._corrupt(number, offset, lsn)
        at = self._load(number, offset, header.size, window_bytes, lsn)
        payload = memoryview(self._window)[at + HEADER_BYTES : at + header.size]
        if not payload_fits(header, payload, seed):
            raise self._corrupt(number, offset, lsn)
        body = payload[header.meta_bytes : header.meta_bytes + header.body_bytes]
        return decode_event(body, header.type)

    def _load(self, number: int, offset: int, size: int, window_bytes: int, lsn: int) -> int:
        """Make sure that bytes are in the window, and return where."""
        at = offset - self._start
        if number != self._number or at < 0 or at + size > len(self._window):
            try:
                fd = self._descriptor(number)
                self._window = self._files.pread(fd, max(window_bytes, size), offset)
            except OSError as error:
                if error.errno in LOST:
                    raise self._corrupt(number, offset, lsn) from None
                raise unreadable(commit_path(self._root, number), error) from error
            self._number, self._start, at = number, offset, 0
        return at

    def _descriptor(self, number: int) -> int:
        found = self._open.get(number)
        if found is None:
            fd = self._files.open_read(commit_path(self._root, number))
            found = fd, file_seed(self._store_id, FileKind.COMMIT_LOG, number)
            self._open[number] = found
        return found[0]

    def _corrupt(self, number: int, offset: int, lsn: int) -> CorruptRecord:
        path = str(commit_path(self._root, number))
        return CorruptRecord(
            f"{path}: the record at LSN {lsn} (offset {offset}) is damaged. What it recorded can "
            "be recomputed: run `asyncdistil cache repair`, or pass "
            'on_corruption="recompute" to run()',
            path=path,
            offset_bytes=offset,
            lsn=lsn,
        )
