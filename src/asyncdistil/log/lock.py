"""One run per pipeline name at a time."""

from __future__ import annotations

import os
import time
import weakref
from datetime import UTC, datetime
from pathlib import Path

from asyncdistil.errors import StoreLocked
from asyncdistil.log.files import Files

_POLL_SECONDS = 0.05
_held: weakref.WeakSet[StoreLock] = weakref.WeakSet()
_fork_guard: list[bool] = []


class StoreLock:
    """An exclusive ``flock`` held for life; closed in forked children.

    The file is never unlinked: a lock on an unlinked file locks nobody out. Its text (pid and
    since when) is only for the error message of others.
    """

    def __init__(self, path: Path, files: Files) -> None:
        self._path = path
        self._files = files
        self._fd = -1

    def acquire(self, *, name: str, wait_seconds: float = 0) -> None:
        """Take the lock.

        Args:
            name: Pipeline name, for the error.
            wait_seconds: How long to wait for a holder to leave; 0 does not wait.

        Raises:
            StoreLocked: Somebody else holds it; names their process.
        """
        fd = self._files.open_lock(self._path)
        give_up = time.monotonic() + wait_seconds
        try:
            while not self._files.try_lock(fd):
                if time.monotonic() >= give_up:
                    raise _held_by_another(self._files, fd, name)
                time.sleep(_POLL_SECONDS)
            since = datetime.now(UTC).isoformat(timespec="seconds")
            self._files.overwrite(fd, f"pid {os.getpid()} since {since}\n".encode())
        except BaseException:
            self._files.close(fd)
            raise
        self._fd = fd
        if not _fork_guard:
            # A forked child would keep the lock alive after its parent died.
            os.register_at_fork(after_in_child=_close_in_child)
            _fork_guard.append(True)
        _held.add(self)

    def release(self) -> None:
        """Let others in. May be called twice."""
        if self._fd >= 0:
            self._files.close(self._fd)
            self._fd = -1
        _held.discard(self)


def _close_in_child() -> None:
    for lock in list(_held):
        lock.release()


def refuse_if_locked(root: Path, name: str, files: Files) -> None:
    """Make sure that no run of a store goes on at this moment.

    Raises:
        StoreLocked: One does; names its process.
    """
    try:
        fd = files.open_read(root / "LOCK")
    except FileNotFoundError:
        return
    try:
        if not files.try_lock(fd):
            raise _held_by_another(files, fd, name)
    finally:
        files.close(fd)


def _held_by_another(files: Files, fd: int, name: str) -> StoreLocked:
    holder = files.pread(fd, 200, 0).decode("utf-8", "replace").strip()
    return StoreLocked(
        f"pipeline {name!r} is being run by {holder or 'another process'}; wait for it, stop it, "
        "or give this pipeline another name"
    )
