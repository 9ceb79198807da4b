"""Answers that were paid for once: one memo per cache directory, for all pipelines.

The truth is what stands in the segments, each written by one process and read by all. The index
over them can be lost at any time. An entry is served only if its record's hashes fit, and its
digest, sample number and preimage are those that were asked for; so damage can make the memo
forget, never answer wrongly.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from xxhash import xxh3_128_digest

from asyncdistil.log.files import Files, LocalFiles, make_cache_dir, make_durable_dir
from asyncdistil.log.record import HEADER_BYTES
from asyncdistil.memo.catalogue import Catalogue
from asyncdistil.memo.entry import (
    FIXED,
    NAME_AT,
    NO_RUN,
    PREIMAGE_AT,
    RUN_AT,
    Entry,
    MemoRecord,
    name_of,
)
from asyncdistil.memo.key import Key
from asyncdistil.memo.packed import PLACE
from asyncdistil.memo.segment import MemoWriter, namespace_dir, refused
from asyncdistil.memo.shelf import Shelf
from asyncdistil.memo.tidy import (
    Compaction,
    EntryInfo,
    Statistics,
    compact,
    entries,
    statistics,
)

_log = logging.getLogger("asyncdistil.memo")

REFRESH_SECONDS = 0.1
"""How long an entry that another process wrote may stay unseen after a miss looked for it."""

_TRIES = 4
"""Others may tidy up between a look at the index and a look at the segment that it names."""


class Memo:
    """The memo of a cache directory, in one process. Threads may share it."""

    def __init__(
        self,
        directory: Path,
        files: Files,
        *,
        run: bytes = NO_RUN,
        on_segment: Callable[[int], None] | None = None,
    ) -> None:
        """Made by `open`."""
        self.directory = directory
        self._files = files
        self._run = run
        self._on_segment = on_segment
        self._told: set[int] = set()
        self._lock = threading.RLock()
        self._shelf = Shelf(directory, files)
        self._catalogue = Catalogue(self._shelf)
        self._writer: MemoWriter | None = None
        self._last_stamp = 0
        self._looked_seconds = 0.0
        self._reads_only = False

    @classmethod
    def open(
        cls,
        memo_dir: Path,
        *,
        run: str = "",
        on_segment: Callable[[int], None] | None = None,
        files: Files | None = None,
    ) -> Memo:
        """Open the memo, made if it is missing.

        Args:
            memo_dir: ``<cache>/memo``.
            run: Run id that entries written here carry.
            on_segment: Told, once each, the number of every segment that may still lie in the
                system's cache only and that was written or served from: before the `put` or `get`
                returns. Sync these before whatever relies on them.
            files: The disk.

        Raises:
            StorageError: The disk refused, or the directory is not ours.
        """
        files = files or LocalFiles()
        directory = namespace_dir(memo_dir)
        run_digest = xxh3_128_digest(run.encode()) if run else NO_RUN
        memo = cls(directory, files, run=run_digest, on_segment=on_segment)
        try:
            _make_directories(files, directory)
            memo._catalogue.reset()
        except OSError as error:
            raise refused(directory, "be opened", error) from error
        memo._catalogue.pack_if_worthwhile()
        return memo

    @classmethod
    def peek(cls, memo_dir: Path, *, files: Files | None = None) -> Memo | None:
        """Open the memo to read in it: nothing is made or written, not even when it is closed.

        Args:
            memo_dir: ``<cache>/memo``.
            files: The disk.

        Returns:
            The memo, or ``None`` if there is none.

        Raises:
            StorageError: The disk refused.
        """
        files = files or LocalFiles()
        directory = namespace_dir(memo_dir)
        if not files.exists(directory):
            return None
        memo = cls(directory, files)
        memo._reads_only = True
        try:
            memo._catalogue.reset()
        except OSError as error:
            raise refused(directory, "be opened", error) from error
        return memo

    def __len__(self) -> int:
        return len(self._catalogue.index)

    def get(self, key: Key, sample: int = 0, *, own_run: bool = False) -> bytes | None:
        """What was stored last as this sample, or ``None``.

        Args:
            key: Of the request.
            sample: Its number in the pool.
            own_run: Take only what was written under this memo's run id.
        """
        name = name_of(key.digest, sample)
        with self._lock:
            place = self._catalogue.index.find(name)
            if place is not None:
                found = self._body(place, name, key.preimage, own_run)
                if found is not None:
                    return found
            recently = time.monotonic() - self._looked_seconds < REFRESH_SECONDS
            for _ in range(_TRIES):
                if recently and not self._shelf.stale:
                    break
                self.refresh()
                recently, tried = True, place
                place = self._catalogue.index.find(name)
                if place is not None and place != tried:
                    found = self._body(place, name, key.preimage, own_run)
                    if found is not None:
                        return found
            return None

    def put(self, key: Key, sample: int, body: bytes, *, run: bytes = b"") -> None:
        """Store a sample; it survives the death of this process once this returns.

        It takes the place of an earlier one.

        Args:
            key: Of the request.
            sample: Its number in the pool.
            body: What is stored.
            run: Digest of the run that it is written for; this memo's own without it.

        Raises:
            StorageError: The disk refused; the earlier one stays.
        """
        name = name_of(key.digest, sample)
        with self._lock:
            stamp = max(time.time_ns(), self._last_stamp + 1)
            old = self._catalogue.index.find(name)
            if old is not None and (former := self._shelf.entry(old)) is not None:
                # Wall clocks step back, and this one must win in every process.
                stamp = max(stamp, former.stamp + 1)
            entry = Entry(name, 0, 0, stamp, run or self._run, key.preimage, body)
            try:
                at, length = self._own_segment().append(entry, key.model)
            except OSError as error:
                raise refused(self.directory, "keep an answer", error) from error
            self._last_stamp = stamp
            self._catalogue.wrote(name, at, length)

    def samples(self, key: Key) -> int:
        """How many samples are stored under a key. For reports: reads the whole index."""
        with self._lock:
            self.refresh()
            return self._catalogue.index.count(key.digest)

    def refresh(self) -> None:
        """Learn what other processes have written since; `get` does it on a miss, now and then."""
        with self._lock:
            try:
                self._catalogue.look()
            except OSError as error:
                # What can't be read is not served: that is all a memo has to see to.
                _log.warning("%s can't be read (%s)", self.directory, error.strerror)
            self._shelf.stale = False
            self._looked_seconds = time.monotonic()

    def statistics(self) -> Statistics:
        """Count what is stored, by model; reads and verifies all of it."""
        with self._lock:
            self.refresh()
            return statistics(self._catalogue, self._shelf)

    def entries(self) -> Iterator[tuple[EntryInfo, Entry]]:
        """Every intact entry; reads and verifies all of them.

        Nothing else may be asked of this memo before the last one is taken.
        """
        with self._lock:
            self.refresh()
            yield from entries(self._catalogue, self._shelf)

    def compact(
        self,
        keep: Callable[[EntryInfo], bool] = lambda _entry: True,
        *,
        aside: Collection[int] = (),
    ) -> Compaction:
        """Drop what was superseded, is damaged, or is not to be kept.

        Segments that a living process writes are left alone. Other processes may read and write
        meanwhile.

        Args:
            keep: Says of every entry whether it stays.
            aside: Segments that are moved to quarantine and not removed.

        Raises:
            StoreLocked: Another process is at it.
            StorageError: The disk refused; nothing is lost.
        """
        with self._lock:
            return compact(self._catalogue, self._shelf, keep, aside)

    def close(self) -> None:
        """Close every file; leaves the index on disk if that saves the next one time."""
        with self._lock:
            if not self._reads_only:
                self._catalogue.pack_if_worthwhile()
            self._end_segment()
            self._shelf.close()

    def _body(self, place: bytes, name: bytes, preimage: bytes, own_run: bool) -> bytes | None:
        """What is stored at a place if it is what is looked for."""
        number, at, length = PLACE.unpack(place)
        found = self._shelf.record(number, at << 3, length << 3)
        if found is None:
            return None
        data, kind, meta_bytes, body_bytes = found
        if kind != MemoRecord.ENTRY or not data.startswith(name, NAME_AT):
            return None
        body_at = HEADER_BYTES + meta_bytes
        if data[PREIMAGE_AT:body_at] != preimage:
            request_at = FIXED.unpack_from(data, NAME_AT)[2] << 3
            if body_at != PREIMAGE_AT or not request_at:
                return None
            first = self._shelf.first(number, request_at)
            if first is None or first.preimage != preimage:
                return None
        if own_run and not data.startswith(self._run, RUN_AT):
            return None
        if self._catalogue.may_grow(number):
            self._tell(number)
        return data[body_at : body_at + body_bytes]

    def _own_segment(self) -> MemoWriter:
        if self._writer is not None and self._writer.full:
            self._end_segment()
        if self._writer is None:
            self._writer = MemoWriter.create(self._files, self.directory)
            self._catalogue.own(self._writer)
            self._tell(self._writer.number)
        return self._writer

    def _end_segment(self) -> None:
        if self._writer is not None:
            self._catalogue.own(None)
            self._writer.close()
            self._writer = None

    def _tell(self, number: int) -> None:
        if number not in self._told:
            self._told.add(number)
            if self._on_segment is not None:
                self._on_segment(number)


def _make_directories(files: Files, directory: Path) -> None:
    make_cache_dir(files, directory.parent.parent)
    for path in (directory.parent, directory):
        make_durable_dir(files, path)  # refuses one that is a link or a stranger's
