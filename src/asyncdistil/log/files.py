"""The fault seam: every act on the disk goes through `Files`.

Production is `LocalFiles`, a thin layer over system calls. Tests give an in-memory disk
(`asyncdistil.testing.disk`) that loses power, fills up and fails to sync.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from asyncdistil.errors import StorageError

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700


class Files(Protocol):
    """What the log asks of a file system. Every method may raise `OSError`."""

    def create(self, path: Path) -> int:
        """Create a file for appending and reading, and open it; fails if it exists."""
        ...

    def open_read(self, path: Path) -> int:
        """Open an existing file for reading, never through a symbolic link."""
        ...

    def open_lock(self, path: Path) -> int:
        """Open a file for reading and writing, made if it is missing."""
        ...

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        ...

    def writev(self, fd: int, buffers: Sequence[bytes | bytearray | memoryview]) -> int:
        """Append buffers in one call and return the bytes written, which may be fewer."""
        ...

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """Read up to ``size`` bytes at ``offset``; fewer only at the end of the file."""
        ...

    def overwrite(self, fd: int, data: bytes) -> None:
        """Replace the whole content; for the lock's text only."""
        ...

    def size(self, fd: int) -> int:
        """Bytes in the file."""
        ...

    def fdatasync(self, fd: int) -> None:
        """Make the content durable. After an error the descriptor must not be synced again."""
        ...

    def drop_cached(self, fd: int) -> None:
        """Forget cached pages, so that the next read comes from the disk. Best effort."""
        ...

    def fsync_dir(self, path: Path) -> None:
        """Make the names in a directory durable."""
        ...

    def replace(self, source: Path, target: Path) -> None:
        """Rename, replacing what is there."""
        ...

    def unlink(self, path: Path) -> None:
        """Remove a name; a missing one is fine."""
        ...

    def make_private_dir(self, path: Path) -> bool:
        """Make a directory of mode 0700 if it is missing, and say whether it was.

        Raises:
            StorageError: It is a symbolic link, not a directory, or somebody else's.
        """
        ...

    def exists(self, path: Path) -> bool:
        """Whether the name exists."""
        ...

    def listdir(self, path: Path) -> list[str]:
        """Names in a directory; empty if it is missing."""
        ...

    def try_lock(self, fd: int) -> bool:
        """Take the exclusive lock of an open file, without waiting."""
        ...


LOST = frozenset({errno.EIO, errno.ENOENT})
"""Errors of a read that say that the bytes are gone; after any other they may be read later."""


_REMEDIES = {
    errno.ENOSPC: "make room on this disk",
    errno.EDQUOT: "make room on this disk",
    errno.EFBIG: "raise `ulimit -f`",
    errno.EMFILE: "raise `ulimit -n`",
    errno.ENFILE: "raise the system's limit of open files",
}


def remedy(error: OSError) -> str:
    """What to do about a disk that refused, as the part of a message before "then run again"."""
    return _REMEDIES.get(error.errno or 0, "see to the disk")


def unreadable(path: Path, error: OSError) -> StorageError:
    """The error for bytes that can't be read now, which is no damage: nothing need be given up."""
    return StorageError(
        f"{path} can't be read ({error.strerror}); nothing is lost: {remedy(error)}, then run again"
    )


def make_durable_dir(files: Files, path: Path, *, private: bool = True) -> None:
    """Make a directory, if it is missing, and its name durable.

    One that is there may have been left by a process that died before it synced the name, or by a
    sync that failed. One that holds something was synced: nothing is put into it before.

    Args:
        files: The disk.
        path: The directory; its parent must exist.
        private: Whether to refuse one that is a link or belongs to somebody else.

    Raises:
        OSError: The disk refused.
        StorageError: It is refused.
    """
    if private or not files.exists(path):
        files.make_private_dir(path)
    if not files.listdir(path):
        files.fsync_dir(path.parent)


def make_cache_dir(files: Files, path: Path) -> None:
    """Make a cache directory and what is missing above it; names of all of them are durable then.

    Raises:
        OSError: The disk refused.
    """
    missing = [each for each in (path, *path.parents) if not files.exists(each)]
    # Whoever may not read the directory above did not make this one.
    with suppress(PermissionError):
        make_durable_dir(files, missing[-1].parent if missing else path, private=False)
    for each in reversed(missing):
        make_durable_dir(files, each, private=False)


class LocalFiles:
    """The operating system's own files."""

    def create(self, path: Path) -> int:
        """Create with ``O_EXCL | O_APPEND`` and mode 0600."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(path, flags, FILE_MODE)

    def open_read(self, path: Path) -> int:
        """Open read-only."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def open_lock(self, path: Path) -> int:
        """Open read-write, created with mode 0600."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)

    def writev(self, fd: int, buffers: Sequence[bytes | bytearray | memoryview]) -> int:
        """Append in one system call."""
        return os.writev(fd, buffers) if len(buffers) > 1 else os.write(fd, buffers[0])

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """Read at an offset; the kernel returns at most 2 GiB a call, so larger reads loop."""
        data = os.pread(fd, size, offset)
        if len(data) == size or not data:
            return data
        parts = [data]
        done = len(data)
        while done < size and (data := os.pread(fd, size - done, offset + done)):
            parts.append(data)
            done += len(data)
        return b"".join(parts)

    def overwrite(self, fd: int, data: bytes) -> None:
        """Truncate and write."""
        os.ftruncate(fd, 0)
        os.pwrite(fd, data, 0)

    def size(self, fd: int) -> int:
        """Bytes in the file."""
        return os.fstat(fd).st_size

    def fdatasync(self, fd: int) -> None:
        """``fdatasync``; on macOS ``F_FULLFSYNC``, since its fsync stops at the drive's cache."""
        if sys.platform == "darwin":  # pragma: no cover - needs macOS
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        else:
            os.fdatasync(fd)

    def drop_cached(self, fd: int) -> None:
        """``POSIX_FADV_DONTNEED``, where the system has it. Dirty pages stay: sync first."""
        if hasattr(os, "posix_fadvise"):  # pragma: no branch - macOS has none
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def fsync_dir(self, path: Path) -> None:
        """Sync a directory."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def replace(self, source: Path, target: Path) -> None:
        """``rename``."""
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        """``unlink``."""
        path.unlink(missing_ok=True)

    def make_private_dir(self, path: Path) -> bool:
        """``mkdir`` with mode 0700, then look whose it is."""
        try:
            os.mkdir(path, DIRECTORY_MODE)
            return True
        except FileExistsError:
            found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode):
            raise StorageError(
                f"{path} is not a directory but a link or a file; the log writes only into "
                "directories of its own: move it away or choose another cache directory"
            )
        if found.st_uid != os.geteuid():
            raise StorageError(
                f"{path} belongs to user {found.st_uid}, not to you; choose a cache directory of "
                "your own"
            )
        return False

    def exists(self, path: Path) -> bool:
        """Whether the name exists, be it a dangling link."""
        return os.path.lexists(path)

    def listdir(self, path: Path) -> list[str]:
        """Names in a directory."""
        try:
            return os.listdir(path)
        except FileNotFoundError:
            return []

    def try_lock(self, fd: int) -> bool:
        """``flock`` without waiting."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def write_all(files: Files, fd: int, data: bytes | bytearray | memoryview) -> int:
    """Append all of ``data``, going on after short writes.

    Returns:
        Bytes written, always all of them.

    Raises:
        OSError: The disk refused; some bytes may have been appended.
    """
    written = files.writev(fd, (data,))
    if written < len(data):
        view = memoryview(data)
        while written < len(data):
            written += files.writev(fd, (view[written:],))
    return written


def write_anew(files: Files, path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file durably; what somebody left there who died in the middle of it goes.

    Its name is durable once its directory is synced.

    Raises:
        OSError: The disk refused.
    """
    files.unlink(path)
    fd = files.create(path)
    try:
        for piece in pieces:
            write_all(files, fd, piece)
        files.fdatasync(fd)
    finally:
        files.close(fd)
