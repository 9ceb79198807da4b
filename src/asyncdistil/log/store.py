"""The store of one pipeline name: the commit log, the segments and what they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeAlias

from asyncdistil.batch import Digest, Lsn, SegmentId
from asyncdistil.errors import LogError, StorageError
from asyncdistil.log.checkpoint import write_checkpoint
from asyncdistil.log.commit_log import CommitLog, Entry
from asyncdistil.log.events import Commit, Event, Route, Tombstone
from asyncdistil.log.failpoint import failpoint
from asyncdistil.log.files import (
    Files,
    LocalFiles,
    make_cache_dir,
    make_durable_dir,
    remedy,
    write_all,
)
from asyncdistil.log.group_sync import WATERMARK, GroupSync, Mode
from asyncdistil.log.index import EVENT_TAGS, encode_event
from asyncdistil.log.lock import StoreLock
from asyncdistil.log.names import memo_dir, store_root
from asyncdistil.log.opening import Opened, open_recovered
from asyncdistil.log.record import FileHeader, FileKind, RecordType, encode_file_header
from asyncdistil.log.segment import segment_files, segment_path
from asyncdistil.log.view import StoreView

OnCorruption: TypeAlias = Literal["refuse", "recompute"]

RESERVE_BYTES = 1 << 20
_SEAL = Entry(RecordType.SEAL, b"", b"")


class Store(StoreView):
    """Supervisor's side of a store; holds its lock until `close`.

    `append` and `create_segment` are called from one thread; syncing is another one's.
    """

    def __init__(
        self,
        root: Path,
        files: Files,
        lock: StoreLock,
        opened: Opened,
        mode: Mode,
    ) -> None:
        """Made by `open`."""
        recovered = opened.recovered
        super().__init__(
            root,
            opened.store_id,
            files,
            recovered.index,
            skip_damaged=opened.recompute,
        )
        self.warnings = recovered.warnings
        self._lock = lock
        self._clean = recovered.clean
        self._checkpoint = recovered.checkpoint
        self._next_segment = 0
        self._closed = False
        self._segments: dict[int, int] = {}
        self._made: set[Digest] = set()  # lineages whose directory is known to be durable
        self._log = CommitLog(
            root,
            self.id,
            recovered.tail,
            next_number=recovered.next_number,
            files=files,
            keep=mode != "process",
        )
        self._log.durable = recovered.durable
        self._sync = GroupSync(
            self._log,
            files,
            mode,
            segment_fd=self._segments.__getitem__,
            relocate=self._index.relocate,
        )

    @classmethod
    def open(
        cls,
        cache_dir: Path,
        name: str,
        *,
        files: Files | None = None,
        mode: Mode = "durable",
        wait_seconds: float = 0,
        on_corruption: OnCorruption = "refuse",
    ) -> Store:
        """Lock a store, made if it is missing, and recover what it holds.

        Args:
            cache_dir: Directory of all stores.
            name: Pipeline name.
            files: The disk.
            mode: ``durable``, ``relaxed`` (a power cut may cost the last quarter second) or
                ``process`` (only a clean end is safe from power cuts).
            wait_seconds: How long to wait for another run of this name to end.
            on_corruption: ``refuse`` damaged records, or leave them out to be ``recompute``d.

        Raises:
            StoreLocked: Another run holds it.
            CorruptRecord: Acknowledged records are damaged or missing.
            FormatError: It was written by a newer format.
            StorageError: The disk refused, or the directory is not ours.
        """
        files = files or LocalFiles()
        root = store_root(cache_dir, name)
        lock = StoreLock(root / "LOCK", files)
        try:
            _make_directories(files, cache_dir, root)
            lock.acquire(name=name, wait_seconds=wait_seconds)
        except OSError as error:
            raise StorageError(
                f"{root} can't be made or locked ({error.strerror}); {remedy(error)}, or choose "
                "a cache directory that you may write to"
            ) from error
        try:
            recompute = on_corruption == "recompute"
            opened = open_recovered(root, files, memo=memo_dir(cache_dir), recompute=recompute)
            store = cls(root, files, lock, opened, mode)
            try:
                store._settle_recovery(opened)
            except BaseException:
                store._close_files()
                raise
            return store
        except BaseException:
            lock.release()
            raise

    def _settle_recovery(self, opened: Opened) -> None:
        """Write down what recovery decided, so that the next one decides nothing anew."""
        recovered = opened.recovered
        with suppress(OSError):
            _make_reserve(self.root / "reserve", self._files)
        if recovered.tail.number == 0 or recovered.remainders or recovered.holes:
            with self._log.lock:
                holes = [Entry(RecordType.REPAIR, b"", hole.encode()) for hole in recovered.holes]
                self._log.append([*holes, WATERMARK])
            self._sync.flush(really=True)

    @property
    def durable(self) -> Lsn:
        """Highest LSN that may be acknowledged."""
        return self._sync.durable

    def create_segment(self, lineage: Digest) -> tuple[SegmentId, int]:
        """Make a segment for one worker.

        Returns:
            Its number, and a descriptor open for appending that stays the store's own: pass it
            to the worker, which inherits a copy.

        Raises:
            StorageError: The disk refused.
        """
        try:
            number = self._next_segment or self._first_free_segment()
            self._next_segment = number + 1
            path = segment_path(self.root, lineage, number)
            header = FileHeader(self.id, FileKind.SEGMENT, number, owner=lineage)
            if lineage not in self._made:
                make_durable_dir(self._files, path.parent)
                self._made.add(lineage)
            fd = self._files.create(path)
            self._segments[number] = fd
            write_all(self._files, fd, encode_file_header(header)[0])
            failpoint("segment.after_create")
            self._files.fsync_dir(path.parent)
        except OSError as error:
            raise self._refused("make a segment", error) from error
        return SegmentId(number), fd

    def append(self, events: Sequence[Event]) -> range:
        """Append events in one write; they survive the death of this process from here on.

        The segments that commits name are synced before the commits count as durable.

        Returns:
            Their LSNs.

        Raises:
            StorageError: The disk refused, now or in an earlier sync. None of them counts.
        """
        if self._sync.error is not None:
            raise self._sync.error
        entries = []
        segments: list[int] = []
        for event in events:
            lineage = b""
            if isinstance(event, Commit):
                lineage = event.lineage
                segments += [r.segment for r in event.outputs if r.segment in self._segments]
            elif isinstance(event, Route):
                lineage = event.lineage
            entries.append(Entry(EVENT_TAGS[type(event)], lineage, encode_event(event)))
        log, index = self._log, self._index
        with log.lock:
            first = log.tail.lsn + 1
            places = log.append(entries)
            for i, place in enumerate(places):
                tag, lineage, _ = entries[i]
                if lineage:
                    index.locate(tag, lineage, first + i, place)
                else:
                    index.apply(Lsn(first + i), events[i])
            self._sync.mark(segments)
            self._sync.appended()
        return range(first, first + len(places))

    def add_dirty_fd(self, key: object, fd: int) -> None:
        """Sync a file of another room with every group from now on."""
        self._sync.add(key, fd)

    def drop_fd(self, key: object) -> None:
        """Stop syncing it; its descriptor may be closed after the next `flush`."""
        self._sync.drop(key)

    def start_syncing(
        self, on_durable: Callable[[Lsn], None], on_error: Callable[[LogError], None]
    ) -> None:
        """Sync in a thread from now on.

        Args:
            on_durable: Called from that thread with the new watermark.
            on_error: Called from that thread, once, when nothing more can be made durable.
        """
        self._sync.start(on_durable, on_error)

    def hurry(self) -> None:
        """Make what was appended so far durable soon: nobody has anything else to do."""
        self._sync.hurry()

    def flush(self) -> Lsn:
        """Block until everything appended is durable, and return the watermark.

        Raises:
            StorageError: The disk refused.
        """
        return self._sync.flush()

    def free_reserve(self) -> None:
        """Give up the reserve file, so that a last report fits on a full disk."""
        with suppress(OSError):
            self._files.unlink(self.root / "reserve")

    def close(self, *, clean: bool) -> None:
        """Stop syncing and unlock. May be called twice.

        Args:
            clean: The run came to an end in order: seal the log and write a checkpoint. Else
                what was appended is synced if the disk lets us, and the next open recovers.

        Raises:
            StorageError: The end could not be written; nothing acknowledged is lost.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self._sync.stop()
            if self._sync.error is None:
                self._finish(clean)
        except OSError as error:
            raise self._refused("close the log", error) from error
        finally:
            self._close_files()
            self._lock.release()

    def _finish(self, clean: bool) -> None:
        tail = self._log.tail
        log = self._log
        if not clean:
            if log.descriptors():
                self._sync.flush(really=True)
                with log.lock:
                    log.append([WATERMARK])
            return
        if self._clean and not log.descriptors() and self._checkpoint_at(tail.lsn):
            return
        self._sync.flush(really=True)
        with log.lock:
            log.append([_SEAL])
        self._sync.flush(really=True)
        known = dict.fromkeys(self._checkpoint.lineages() if self._checkpoint else ())
        known.update(dict.fromkeys(self._index.tables))
        write_checkpoint(
            self.root,
            self.id,
            log.tail,
            self._index,
            files=self._files,
            lineages=list(known),
        )

    def _give_up(self, lsns: Sequence[int]) -> None:
        # On record, so that a later run is not refused for what this one left out.
        self.append([Tombstone(tuple(map(Lsn, lsns)))])

    def _first_free_segment(self) -> int:
        # The names, not the log: a segment of a run that died before its first commit counts too.
        return max((number for number, _ in segment_files(self.root, self._files)), default=0) + 1

    def _checkpoint_at(self, lsn: int) -> bool:
        return self._checkpoint is not None and self._checkpoint.tail.lsn == lsn

    def _close_files(self) -> None:
        self._close_view()
        for fd in self._segments.values():
            self._files.close(fd)
        self._segments.clear()
        self._log.close()
        if self._checkpoint is not None:
            self._checkpoint.close()

    def _refused(self, act: str, error: OSError) -> StorageError:
        return StorageError(
            f"{self.root}: can't {act} ({error.strerror}); what was acknowledged is safe: "
            f"{remedy(error)}, then run again"
        )


def _make_directories(files: Files, cache_dir: Path, root: Path) -> None:
    make_cache_dir(files, cache_dir)
    for path in (root.parent, root, *(root / name for name in ("commits", "segments"))):
        make_durable_dir(files, path)


def _make_reserve(path: Path, files: Files) -> None:
    if not files.exists(path):
        fd = files.create(path)
        try:
            write_all(files, fd, bytes(RESERVE_BYTES))
        finally:
            files.close(fd)
