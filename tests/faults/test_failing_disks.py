"""Disks that refuse any act, reading included, with any error, once or from then on."""

from __future__ import annotations

import errno
import logging
import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.errors import CorruptRecord, LogError, StorageError
from asyncdistil.log import Store
from asyncdistil.testing.disk import MemoryDisk
from asyncdistil.testing.faults import NAME, Life, read_back, small_reserve

ACTS = ("create", "writev", "fdatasync", "fsync_dir", "replace", "unlink", "mkdir")
ACTS += ("open_read", "open_lock", "pread", "listdir")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EMFILE, errno.EACCES)


@pytest.fixture(autouse=True)
def _cheap_and_silent(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with small_reserve(), caplog.at_level(logging.CRITICAL, "asyncdistil"):
        yield


class Refusing(MemoryDisk):
    """Asks before it reads, too."""

    def open_read(self, path: Path) -> int:
        self.before("open_read", path)
        return super().open_read(path)

    def open_lock(self, path: Path) -> int:
        self.before("open_lock", path)
        return super().open_lock(path)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        self.before("pread", Path())
        return super().pread(fd, size, offset)

    def listdir(self, path: Path) -> list[str]:
        self.before("listdir", path)
        return super().listdir(path)


def refusal(rng: random.Random, code: int) -> Callable[[str, Path], None]:
    act = rng.choice(ACTS)
    left, always = rng.randint(1, 25), rng.random() < 0.5

    def before(what: str, path: Path) -> None:
        nonlocal left
        if what == act:
            left -= 1
            if left == 0 or (left < 0 and always):
                raise OSError(code, os.strerror(code), str(path))

    return before


def live(rng: random.Random) -> None:
    """A past without trouble, a disk that refuses, a death or a power cut, and a life after it."""
    disk = Refusing()
    life = Life(rng, disk, memo=rng.random() < 0.5)
    for _ in range(rng.randint(0, 2)):
        life.session(acts=6)
    code = rng.choice(ERRORS)
    disk.before = refusal(rng, code)
    # What the disk can't read any more, and it alone, is damage.
    with suppress(StorageError, *([CorruptRecord] if code == errno.EIO else [])):
        for _ in range(4):
            life.session(acts=8)
    life.note()
    life.forget_store()
    cut = rng.random() < 0.5
    after = disk.after_power_cut(rng) if cut else disk.after_process_death()
    found = read_back(Store.open(life.cache, NAME, files=after.after_process_death()))
    promised = life.appended[: life.promised]
    assert [item for item in promised if item not in found] == []
    # A commit that was refused may be there or not; the others are, in their order.
    life.adopt([item for item in life.appended if item in found])
    life.files = after
    if cut:
        life.check_memo(after)
    life.session(acts=4)


def test_a_disk_that_refuses_any_act_costs_nothing_that_was_acknowledged(faults: Any) -> None:
    """Only an error that says so comes of it, and the store can be used again."""
    count = faults.amount(smoke=100, short=500, full=3_000, soak=1_000_000)
    faults.count("refusing disks", faults.cases(range(count), live))


def test_a_store_that_cannot_be_read_says_so_and_is_not_called_damaged() -> None:
    disk = Refusing()
    life = Life(random.Random(1), disk, memo=False)
    for _ in range(3):
        life.session()

    def fail(act: str, path: Path) -> None:
        if act == "pread":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    disk.before = fail
    with pytest.raises(LogError) as refused:
        read_back(Store.open(life.cache, NAME, files=disk))
    assert isinstance(refused.value, StorageError)
    disk.before = lambda _act, _path: None
    read_back(Store.open(life.cache, NAME, files=disk.after_process_death()))
