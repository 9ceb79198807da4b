"""What the segments hold: learned from the index on disk and from what was written after it."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from asyncdistil.errors import FormatError
from asyncdistil.memo.entry import FIRST_RECORD, FIXED, MemoRecord
from asyncdistil.memo.index import Index
from asyncdistil.memo.packed import PLACE, Covered, Packed, load
from asyncdistil.memo.segment import (
    MemoWriter,
    has_header,
    is_written,
    segment_numbers,
    segment_path,
    walk,
)
from asyncdistil.memo.shelf import Shelf

_log = logging.getLogger("asyncdistil.memo")

_PACK_AT_LEAST = 4096
_INDEX_NAME = "index.adi"
_TEMPORARY = "index.adi."


@dataclass(slots=True)
class _Segment:
    """A segment as far as it is known.

    Attributes:
        end: How far it is in the index.
        final: Whether it can't grow.
        checked: Whether its file header has been looked at.
    """

    end: int = FIRST_RECORD
    final: bool = False
    checked: bool = False


class Catalogue:
    """The index of a memo, and how far it goes."""

    def __init__(self, shelf: Shelf) -> None:
        """Start empty; `reset` reads what there is."""
        self.index = Index()
        self._shelf = shelf
        self._files = shelf.files
        self._directory = shelf.directory
        self._segments: dict[int, _Segment] = {}
        self._own = 0

    def may_grow(self, number: int) -> bool:
        """Whether somebody may still write to a segment, as far as is known."""
        segment = self._segments.get(number)
        return segment is not None and not segment.final

    def places(self) -> Iterator[bytes]:
        """Places of all entries, packed."""
        return (place for _, place in self.index.items())

    # --- learning -----------------------------------------------------------------------------

    def reset(self) -> None:
        """Start anew from the index on disk and the segments behind it.

        Raises:
            OSError: The disk can't be read.
        """
        self._shelf.close()
        self.index = Index(self._load_packed())
        own = self._segments.get(self._own)
        self._segments = {
            number: _Segment(covered.end, covered.final, checked=True)
            for number, covered in self.index.covered.items()
        }
        present = segment_numbers(self._files, self._directory)
        for number in self._segments.keys() - {*present}:
            del self._segments[number]
        if own is not None:
            self._segments.setdefault(self._own, _Segment(checked=True))
            self._learn(self._own)
        self._learn_all(present)

    def look(self) -> None:
        """Learn what others have written since.

        Raises:
            OSError: The disk can't be read.
        """
        present = segment_numbers(self._files, self._directory)
        if self._segments.keys() - {*present, self._own}:
            # Somebody has tidied up and written what is left elsewhere.
            self.reset()
        else:
            self._learn_all(present)

    def _learn_all(self, present: Iterable[int]) -> None:
        for number in present:
            if number != self._own and not self._segments.setdefault(number, _Segment()).final:
                self._learn(number)

    def _learn(self, number: int) -> None:
        """Put what a segment has beyond its known end into the index."""
        segment = self._segments[number]
        files, shelf = self._files, self._shelf
        try:
            fd, seed = shelf.descriptor(number)
            if not segment.checked:
                if files.size(fd) < FIRST_RECORD:
                    return  # about to be made, or its maker died
                if not has_header(files, fd, number):
                    # Number and seeds are known without it.
                    shelf.warn(number, 0, "its file header is damaged")
                segment.checked = True
            # Asked before the length: an unlocked file has the length that it will keep.
            final = number != self._own and not is_written(
                files, segment_path(self._directory, number)
            )
            holes: list[range] = []
            for found in walk(files, fd, seed, segment.end, files.size(fd)):
                if found.header is None:
                    shelf.warn(number, found.at, f"{found.size} bytes are damaged")
                    holes.append(range(found.at, found.at + found.size))
                elif found.header.type == MemoRecord.ENTRY:
                    if found.header.meta_bytes < FIXED.size:
                        shelf.warn(number, found.at, "an entry lacks its head, so it was forged")
                    else:
                        self._take(number, found.at, found.size, found.payload, holes)
                segment.end = found.at + found.size
            segment.final = final
        except FileNotFoundError:
            return
        except (OSError, FormatError) as error:
            shelf.warn(number, segment.end, str(error))
            # Of a newer format: it will not become readable by waiting.
            segment.final = isinstance(error, FormatError)

    def _take(
        self, number: int, at: int, size: int, payload: memoryview, holes: list[range]
    ) -> None:
        """Index an entry that was read, unless the one that is known is newer."""
        name, _, request, _, stamp, _ = FIXED.unpack_from(payload)
        if holes and any(request << 3 in hole for hole in holes):
            return  # its preimage is lost, and an older entry may have kept its own
        place = PLACE.pack(number, at >> 3, size >> 3)
        known = self.index.find(name)
        if known is not None and PLACE.unpack(known)[0] != number:
            rival = self._shelf.entry(known)
            if rival is not None:
                rank = (rival.stamp, *PLACE.unpack(known)[:2])
                if rank > (stamp, number, at >> 3):
                    return
        self.index.put(name, place)

    # --- being told ---------------------------------------------------------------------------

    def own(self, writer: MemoWriter | None) -> None:
        """Learn which segment this process writes; it alone need not be read."""
        if self._own:
            self._segments[self._own].final = True
        self._own = writer.number if writer is not None else 0
        if writer is not None:
            self._segments[writer.number] = _Segment(writer.end, checked=True)

    def wrote(self, name: bytes, at: int, length: int) -> None:
        """Learn of an entry that this process wrote."""
        self._segments[self._own].end = at + length
        self.index.put(name, PLACE.pack(self._own, at >> 3, length >> 3))

    def moved(
        self, old: Iterable[int], number: int, end: int, places: Mapping[bytes, bytes]
    ) -> None:
        """Learn that a new segment has taken the place of old ones, and where its entries lie."""
        gone = set(old)
        index = Index()
        for name, place in self.index.items():
            if PLACE.unpack(place)[0] not in gone:
                index.put(name, place)
        for name, place in places.items():
            index.put(name, place)
        self.index = index
        for each in gone:
            self._segments.pop(each, None)
            self._shelf.forget(each)
        self._segments[number] = _Segment(end, final=True, checked=True)

    # --- the index on disk --------------------------------------------------------------------

    @contextmanager
    def housekeeping(self) -> Iterator[bool]:
        """Hold the lock of whoever tidies up; gives whether nobody else holds it."""
        lock = self._files.open_lock(self._directory / "LOCK")
        try:
            yield self._files.try_lock(lock)
        finally:
            self._files.close(lock)

    def pack_if_worthwhile(self) -> None:
        """Write an index if what it lacks would cost the next process more than this one."""
        recent = self.index.recent
        if recent < max(_PACK_AT_LEAST, (len(self.index) - recent) // 4):
            return
        with suppress(OSError), self.housekeeping() as alone:
            if alone:
                self.pack()

    def pack(self) -> None:
        """Write the index to disk and go on with it; only under `housekeeping`.

        Raises:
            OSError: The disk refused; the old index stays.
        """
        packed = self.index.pack(
            {
                number: Covered(segment.end, segment.final)
                for number, segment in self._segments.items()
                if segment.checked
            }
        )
        files, directory = self._files, self._directory
        for name in files.listdir(directory):
            if name.startswith(_TEMPORARY):  # of a process that died over it
                files.unlink(directory / name)
        temporary = directory / f"{_TEMPORARY}{secrets.token_hex(8)}"
        fd = files.create(temporary)
        try:
            packed.write(files, fd)
            files.replace(temporary, directory / _INDEX_NAME)
        except BaseException:
            with suppress(OSError):
                files.unlink(temporary)
            raise
        finally:
            files.close(fd)
        self.index = Index(packed)

    def _load_packed(self) -> Packed | None:
        try:
            fd = self._files.open_read(self._directory / _INDEX_NAME)
        except OSError:
            return None
        try:
            packed = load(self._files, fd)
        except OSError:
            packed = None
        finally:
            self._files.close(fd)
        if packed is None:
            _log.warning("the index of %s is damaged and is made anew", self._directory)
        return packed
