"""Read entries by their place, verified. Damage is a miss with one warning a segment."""

from __future__ import annotations

import logging
from pathlib import Path

from asyncdistil.log.files import Files
from asyncdistil.log.record import HEADER_BYTES, whole_record
from asyncdistil.memo.entry import Entry, parse_entry, parse_model, record_length
from asyncdistil.memo.packed import PLACE
from asyncdistil.memo.segment import seed_of, segment_path

_log = logging.getLogger("asyncdistil.memo")
_OPEN_FILES = 128
_NOT_WRITTEN = "a record is not what was written"


class Shelf:
    """The segments of a memo, open for reading.

    Attributes:
        stale: Whether a segment that should be there was missing: somebody has tidied up.
    """

    def __init__(self, directory: Path, files: Files) -> None:
        self.directory = directory
        self.files = files
        self._open: dict[int, tuple[int, int]] = {}
        self._warned: set[int] = set()
        self.stale = False

    def descriptor(self, number: int) -> tuple[int, int]:
        """A segment's file and the seed of its hashes.

        Raises:
            OSError: It is missing or can't be opened.
        """
        found = self._open.get(number)
        if found is None:
            fd = self.files.open_read(segment_path(self.directory, number))
            found = self._open[number] = fd, seed_of(number)
            if len(self._open) > _OPEN_FILES:
                oldest, _ = self._open.pop(next(iter(self._open)))
                self.files.close(oldest)
        return found

    def record(self, number: int, at: int, length: int) -> tuple[bytes, int, int, int] | None:
        """The intact record at an offset: its bytes, type, bytes of meta, bytes of body."""
        try:
            fd, seed = self._open.get(number) or self.descriptor(number)
            data = self.files.pread(fd, length, at)
        except FileNotFoundError:
            self.stale = True
            return None
        except OSError as error:
            self.warn(number, at, f"the disk can't read ({error.strerror})")
            return None
        found = whole_record(data, at, seed)
        if found is None:
            self.warn(number, at, _NOT_WRITTEN)
            return None
        return (data, *found)

    def entry(self, place: bytes) -> Entry | None:
        """The intact entry at a place, whatever it is of."""
        number, at, length = PLACE.unpack(place)
        return self._entry_at(number, at << 3, length << 3)

    def first(self, number: int, at: int) -> Entry | None:
        """The entry there, which others refer to and so say nothing of its length."""
        return self._entry_at(number, at, self._length(number, at))

    def whole(self, place: bytes) -> Entry | None:
        """The intact entry at a place with its preimage, wherever that stands."""
        entry = self.entry(place)
        if entry is None or not entry.request_at:
            return entry
        first = self.first(PLACE.unpack(place)[0], entry.request_at)
        return None if first is None else entry._replace(request_at=0, preimage=first.preimage)

    def model(self, number: int, at: int) -> str | None:
        """Readable identity of the model whose record stands there; ``None`` if damaged."""
        found = self.record(number, at, self._length(number, at))
        return None if found is None else parse_model(found[0], seed_of(number), at)

    def warn(self, number: int, at: int, what: str) -> None:
        """Speak of damage, once for a segment."""
        if number in self._warned:
            return
        self._warned.add(number)
        _log.warning(
            "%s: %s at offset %d. Damaged answers are asked for again; nothing wrong is served",
            segment_path(self.directory, number),
            what,
            at,
        )

    def forget(self, number: int) -> None:
        """Close a segment that is gone."""
        found = self._open.pop(number, None)
        if found is not None:
            self.files.close(found[0])

    def close(self) -> None:
        """Close every file."""
        for number in [*self._open]:
            self.forget(number)

    def _entry_at(self, number: int, at: int, length: int) -> Entry | None:
        found = self.record(number, at, length)
        return None if found is None else parse_entry(found[0], seed_of(number), at)

    def _length(self, number: int, at: int) -> int:
        """Length of a record; 0, which no record has, if its header is damaged."""
        try:
            fd, seed = self.descriptor(number)
            return record_length(self.files.pread(fd, HEADER_BYTES, at), seed, at)
        except OSError:
            return 0
