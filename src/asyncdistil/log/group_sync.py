"""Group commit: one sync for everything appended while the last one ran.

A group notes the log's length, syncs the segments and other files that its commits depend on,
then the log, and only then raises the watermark to that length. A descriptor that failed to sync
is never synced again: the kernel would report success for pages that it has dropped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, TypeAlias

from asyncdistil.batch import Lsn
from asyncdistil.errors import LogError, StorageError
from asyncdistil.log.commit_log import CommitLog, Entry
from asyncdistil.log.failpoint import failpoint
from asyncdistil.log.files import Files
from asyncdistil.log.record import RecordType

Mode: TypeAlias = Literal["durable", "relaxed", "process"]

RELAXED_SECONDS = 0.25
_IDLE_SECONDS = 0.5
WATERMARK = Entry(RecordType.WATERMARK, b"", b"")


class GroupSync:
    """Makes what was appended durable, in a thread of its own once `start` was called."""

    def __init__(
        self,
        log: CommitLog,
        files: Files,
        mode: Mode,
        *,
        segment_fd: Callable[[int], int],
        relocate: Callable[[Mapping[int, int]], None],
    ) -> None:
        """Prepare.

        Args:
            log: The commit log; its lock guards the fields here too.
            files: The disk.
            mode: ``durable`` syncs as fast as the disk allows, ``relaxed`` every
                `RELAXED_SECONDS`, ``process`` never.
            segment_fd: Descriptor of a segment.
            relocate: Told the new places of records that had to be written again.
        """
        self.durable = Lsn(log.tail.lsn)
        self.error: LogError | None = None
        self._log = log
        self._files = files
        self._mode = mode
        self._segment_fd = segment_fd
        self._relocate = relocate
        self._wake = threading.Condition(log.lock)
        self._asleep = False
        self._hurried = self.durable
        self._stopping = False
        self._dirty: set[int] = set()
        self._foreign: dict[object, int] = {}
        self._thread: threading.Thread | None = None
        self._on_durable: Callable[[Lsn], None] = lambda _lsn: None
        self._on_error: Callable[[LogError], None] = lambda _error: None

    def mark(self, segments: Iterable[int]) -> None:
        """Sync these segments with the next group; called with the lock held."""
        self._dirty.update(segments)

    def add(self, key: object, fd: int) -> None:
        """Sync a file of another room with every group from now on."""
        with self._log.lock:
            self._foreign[key] = fd

    def drop(self, key: object) -> None:
        """Stop syncing it."""
        with self._log.lock:
            self._foreign.pop(key, None)

    def appended(self) -> None:
        """Tell the thread that the log grew; called with the lock held."""
        if self._asleep:
            self._asleep = False
            self._wake.notify_all()

    def start(
        self, on_durable: Callable[[Lsn], None], on_error: Callable[[LogError], None]
    ) -> None:
        """Sync in a thread from now on; both callbacks are called from it."""
        self._on_durable, self._on_error = on_durable, on_error
        self._thread = threading.Thread(target=self._run, name="asyncdistil-sync", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the group that it is syncing."""
        with self._log.lock:
            self._stopping = True
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def hurry(self) -> None:
        """Sync what was appended so far without waiting for the end of a period."""
        with self._log.lock:
            self._hurried = Lsn(self._log.tail.lsn)
            self._wake.notify_all()

    def flush(self, *, really: bool = False) -> Lsn:
        """Wait until everything appended so far is durable.

        Args:
            really: Sync also in mode ``process``; only once the thread has stopped.

        Raises:
            StorageError: The disk refused.
        """
        target = self._log.tail.lsn
        if self._thread is None:
            if self.error is None and (self.durable < target or really):
                self._group(really=really)
        else:
            self.hurry()
            with self._log.lock:
                while self.durable < target and self.error is None and not self._stopping:
                    self._asleep = False
                    self._wake.notify_all()
                    self._wake.wait(_IDLE_SECONDS)
        if self.error is not None:
            raise self.error
        return self.durable

    def _run(self) -> None:
        try:
            while self.error is None and self._wait():
                self._group()
        except Exception as error:
            # A callback raised; without this, whoever waits for the watermark waits for ever.
            self._fail(StorageError(f"the sync thread stopped: {error!r}; run again"))
            raise

    def _wait(self) -> bool:
        """Wait for work; ``False`` when there will be no more."""
        try:
            with self._log.lock:
                while self._log.tail.lsn <= self.durable and not self._stopping:
                    self._asleep = True
                    if not self._wake.wait(_IDLE_SECONDS):
                        self._stamp()
                if self._mode == "relaxed":
                    self._wake.wait_for(
                        lambda: self._stopping or self._hurried > self.durable, RELAXED_SECONDS
                    )
                return not self._stopping
        except StorageError as error:
            self._fail(error)
            return False

    def _stamp(self) -> None:
        """While nothing happens, write down how far the log is durable."""
        log = self._log
        if self._mode == "process" or log.stamped >= log.durable:
            return
        log.append([WATERMARK])
        # Nobody waits for this record, so it needs no sync of its own.
        self.durable = Lsn(log.tail.lsn)

    def _group(self, *, really: bool = False) -> None:
        log = self._log
        if self._mode == "process" and not really:
            self._raise_to(Lsn(log.tail.lsn), synced=False)
            return
        with log.lock:
            # In this order: what is marked before a commit is appended is in its group.
            target = Lsn(log.tail.lsn)
            dirty, self._dirty = self._dirty, set()
            foreign = list(self._foreign.values())
            log_fds = log.descriptors()
        try:
            failpoint("sync.before_segments")
            for fd in (*map(self._segment_fd, sorted(dirty)), *foreign):
                self._files.fdatasync(fd)
            failpoint("sync.before_log")
        except OSError as error:
            self._fail(
                StorageError(
                    f"a segment or memo file failed to sync ({error.strerror}); rows since the "
                    "last group may be lost and will be recomputed: see to the disk, run again"
                )
            )
            return
        try:
            for fd in log_fds:
                failpoint("sync.log")
                self._files.fdatasync(fd)
        except OSError as error:
            if not self._append_again(error):
                return
        failpoint("sync.after_log")
        self._raise_to(target)

    def _append_again(self, cause: OSError) -> bool:
        """Write what is not durable into a new file and sync that, once."""
        log = self._log
        with log.lock:
            try:
                self._relocate(log.append_again())
                self._files.fdatasync(log.descriptors()[-1])
                return True
            except (OSError, StorageError) as error:
                failure = StorageError(
                    f"the commit log failed to sync ({cause.strerror}), and so did a new file "
                    f"({error}); what was acknowledged is safe: see to the disk, then run again"
                )
        self._fail(failure)
        return False

    def _raise_to(self, target: Lsn, *, synced: bool = True) -> None:
        with self._log.lock:
            if synced:
                self._log.settle(target)
            self.durable = max(self.durable, target)
            self._wake.notify_all()
        self._on_durable(target)

    def _fail(self, error: LogError) -> None:
        with self._log.lock:
            if self.error is not None:
                return
            self.error = error
            self._wake.notify_all()
        self._on_error(error)
