"""A disk in memory that loses power, fills up and fails to sync.

It implements the `Files` protocol of the log. What was written lies in a cache until it is
synced; a power cut keeps any subset of the unsynced 512-byte sectors, any length between the
synced and the written one, and any subset of the unsynced names. A sync that fails behaves as
Linux does: the pages count as clean afterwards, so a second sync succeeds and saves nothing,
while reads still show the lost bytes until the cache is dropped.
"""

from __future__ import annotations

import errno
import functools
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from asyncdistil.errors import StorageError

SECTOR_BYTES = 512


class PowerCut(BaseException):
    """Stops the world; no handler of an `Exception` may see it."""


@dataclass(slots=True)
class _Inode:
    cached: bytearray = field(default_factory=bytearray)
    stored: bytearray = field(default_factory=bytearray)
    dirty: set[int] = field(default_factory=set)
    locked_by: int = 0


@dataclass(slots=True)
class _Handle:
    inode: _Inode
    path: Path


def _no_fault(_act: str, _path: Path) -> None:
    pass


class MemoryDisk:
    """A file system with the durability of a real one.

    Attributes:
        before: Called before every act that changes something, with its name (``create``,
            ``writev``, ``fdatasync``, ``fsync_dir``, ``replace``, ``unlink``, ``mkdir``) and the
            path; it may raise `OSError` to make the act fail, or anything to stop the world.
        capacity_bytes: Bytes that fit; a write beyond them is short, then refused.
        longest_write: Most bytes that one write takes, 0 for no limit.
    """

    def __init__(self) -> None:
        self.before: Callable[[str, Path], None] = _no_fault
        self.capacity_bytes = 1 << 62
        self.longest_write = 0
        # By their text: paths are slow to hash and to compare, and that is most of what is done.
        self._names: dict[str, _Inode | None] = {}
        self._stored_names: dict[str, _Inode | None] = {}
        self._handles: dict[int, _Handle] = {}
        self._next_fd = 1_000_000  # never a real descriptor, so a leak into os.* fails loudly

    def create(self, path: Path) -> int:
        """Create a file and open it."""
        self.before("create", path)
        name = str(path)
        if name in self._names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        if _folder(name) not in self._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        inode = self._names[name] = _Inode()
        return self._open(inode, path)

    def open_read(self, path: Path) -> int:
        """Open an existing file."""
        name = str(path)
        inode = self._names.get(name)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return self._open(inode, path)

    def open_lock(self, path: Path) -> int:
        """Open a file, made if it is missing."""
        if str(path) not in self._names:
            return self.create(path)
        return self.open_read(path)

    def close(self, fd: int) -> None:
        """Close a descriptor and release its lock."""
        handle = self._handles.pop(fd)
        if handle.inode.locked_by == fd:
            handle.inode.locked_by = 0

    def writev(self, fd: int, buffers: Sequence[bytes | bytearray | memoryview]) -> int:
        """Append to the cache."""
        handle = self._handles[fd]
        self.before("writev", handle.path)
        data = b"".join(buffers)
        room = self.capacity_bytes - self.used_bytes
        if data and room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(handle.path))
        data = data[: min(room, self.longest_write or len(data))]
        inode = handle.inode
        start = len(inode.cached)
        inode.cached += data
        inode.dirty.update(range(start // SECTOR_BYTES, -(-len(inode.cached) // SECTOR_BYTES)))
        return len(data)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """Read from the cache."""
        return bytes(self._handles[fd].inode.cached[offset : offset + size])

    def overwrite(self, fd: int, data: bytes) -> None:
        """Replace the content."""
        inode = self._handles[fd].inode
        inode.cached[:] = data
        inode.dirty.update(range(-(-len(data) // SECTOR_BYTES)))

    def size(self, fd: int) -> int:
        """Bytes in the cache."""
        return len(self._handles[fd].inode.cached)

    def fdatasync(self, fd: int) -> None:
        """Store the dirty sectors; on an injected error they are lost but count as clean."""
        handle = self._handles[fd]
        inode = handle.inode
        try:
            self.before("fdatasync", handle.path)
        except OSError:
            inode.dirty.clear()
            raise
        _store(inode.stored, inode, inode.dirty, len(inode.cached))
        inode.dirty.clear()

    def drop_cached(self, fd: int) -> None:
        """Show what is stored, except in sectors that are still dirty."""
        inode = self._handles[fd].inode
        if not inode.dirty:
            inode.cached[:] = inode.stored

    def fsync_dir(self, path: Path) -> None:
        """Store the names in a directory."""
        self.before("fsync_dir", path)
        folder = str(path)
        for name in [n for n in self._stored_names if n not in self._names]:
            if _folder(name) == folder:
                del self._stored_names[name]
        for name, inode in self._names.items():
            if _folder(name) == folder:
                self._stored_names[name] = inode

    def replace(self, source: Path, target: Path) -> None:
        """Rename in the cache."""
        self.before("replace", target)
        self._names[str(target)] = self._names.pop(str(source))

    def unlink(self, path: Path) -> None:
        """Remove a name from the cache."""
        self.before("unlink", path)
        self._names.pop(str(path), None)

    def make_private_dir(self, path: Path) -> bool:
        """Make a directory if it is missing."""
        if str(path) in self._names:
            return False
        self.before("mkdir", path)
        self._names[str(path)] = None
        return True

    def exists(self, path: Path) -> bool:
        """Whether the name exists; the root always does."""
        name = str(path)
        return name in self._names or name == _folder(name)

    def listdir(self, path: Path) -> list[str]:
        """Names in a directory."""
        folder = str(path)
        return [base for name in self._names if _folder(name) == folder and (base := _base(name))]

    def try_lock(self, fd: int) -> bool:
        """Lock an inode for a descriptor."""
        inode = self._handles[fd].inode
        if inode.locked_by not in {0, fd}:
            return False
        inode.locked_by = fd
        return True

    @property
    def used_bytes(self) -> int:
        """Bytes in all files."""
        return sum(len(inode.cached) for inode in self._names.values() if inode is not None)

    @property
    def open_descriptors(self) -> int:
        """Descriptors not closed."""
        return len(self._handles)

    def files(self) -> dict[Path, bytes]:
        """Every file with its content, as reads see it."""
        return {
            Path(name): bytes(inode.cached)
            for name, inode in self._names.items()
            if inode is not None
        }

    def put(self, path: Path, content: bytes) -> None:
        """Give a file other, durable content, as bit rot or a careless hand would."""
        name = str(path)
        inode = self._names.get(name)
        if inode is None:
            inode = self._names[name] = self._stored_names[name] = _Inode()
        inode.cached[:] = content
        inode.stored[:] = content
        inode.dirty.clear()

    def after_power_cut(self, rng: random.Random) -> MemoryDisk:
        """One of the disks that a power cut at this moment may leave.

        Args:
            rng: Chooses which sectors, lengths and names made it.
        """
        disk = MemoryDisk()
        inodes: dict[int, _Inode] = {}
        greed = rng.choice((0.0, 0.5, 0.9, 1.0))  # all lost, mixed, nearly all kept, all kept
        for name in {**self._stored_names, **self._names}:
            stored, cached = name in self._stored_names, name in self._names
            if stored and cached:
                kept = rng.random() < greed
                inode = self._names[name] if kept else self._stored_names[name]
            elif (stored or cached) and rng.random() < (greed if cached else 1 - greed):
                inode = self._names[name] if cached else self._stored_names[name]
            else:
                continue
            if inode is not None:
                inode = inodes.setdefault(id(inode), _survivor(inode, rng, greed))
            disk._names[name] = inode
        # A name whose directory did not make it is out of reach.
        for name in sorted(disk._names, key=lambda name: name.count("/")):
            folder = _folder(name)
            if _base(folder) and folder not in disk._names:
                del disk._names[name]
        disk._stored_names = dict(disk._names)
        return disk

    def after_process_death(self) -> MemoryDisk:
        """The disk as another process finds it: everything written, no lock held."""
        disk = MemoryDisk()
        copies = {
            id(inode): _Inode(bytearray(inode.cached), bytearray(inode.stored), set(inode.dirty))
            for inode in (*self._names.values(), *self._stored_names.values())
            if inode is not None
        }
        for mine, theirs in (
            (self._names, disk._names),
            (self._stored_names, disk._stored_names),
        ):
            for name, inode in mine.items():
                theirs[name] = None if inode is None else copies[id(inode)]
        return disk

    def _open(self, inode: _Inode, path: Path) -> int:
        self._next_fd += 1
        self._handles[self._next_fd] = _Handle(inode, path)
        return self._next_fd


@functools.lru_cache(maxsize=1 << 14)
def _folder(name: str) -> str:
    """Directory of a name; asked for every name again and again."""
    return os.path.dirname(name) or "."


@functools.lru_cache(maxsize=1 << 14)
def _base(name: str) -> str:
    """Name within its directory; empty for the root."""
    return os.path.basename(name)


def _store(target: bytearray, inode: _Inode, sectors: set[int], length: int) -> None:
    """Copy sectors from the cache, making ``target`` as long as ``length``."""
    if len(target) < length:
        target.extend(bytes(length - len(target)))
    del target[length:]
    for sector in sectors:
        start = sector * SECTOR_BYTES
        stop = min(start + SECTOR_BYTES, length)
        if start < stop:
            target[start:stop] = inode.cached[start:stop]


def _survivor(inode: _Inode, rng: random.Random, greed: float) -> _Inode:
    if not inode.dirty and len(inode.stored) == len(inode.cached):
        return _Inode(bytearray(inode.stored), bytearray(inode.stored))
    kept = {sector for sector in inode.dirty if rng.random() < greed}
    reach = max([min((s + 1) * SECTOR_BYTES, len(inode.cached)) for s in kept], default=0)
    synced, written = len(inode.stored), len(inode.cached)
    length = rng.choice((max(synced, reach), rng.randint(min(synced, written), written), written))
    if synced > written:
        length = synced
    stored = bytearray(inode.stored)
    _store(stored, inode, kept, max(length, synced))
    return _Inode(bytearray(stored), stored)


def interrupted(
    disk: MemoryDisk, act: int, work: Callable[[], object], error: BaseException
) -> bool:
    """Do some work on a disk, whose ``act``-th act on it raises.

    Args:
        disk: What the work changes.
        act: Counted from 1.
        work: Done until it ends, or until it is stopped by ``error`` as a power cut or as an error
            of storage that came of it.
        error: What the act raises: `PowerCut`, or an `OSError` by which the disk refuses.

    Returns:
        Whether the work came to that act.
    """
    countdown = act

    def before(_act: str, _path: Path) -> None:
        nonlocal countdown
        countdown -= 1
        if countdown == 0:
            raise error

    disk.before = before
    try:
        work()
    except (PowerCut, StorageError):
        return True
    finally:
        disk.before = _no_fault
    return countdown <= 0
