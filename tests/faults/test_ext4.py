"""Power cuts of a real file system, with its journal and its ordering."""

from __future__ import annotations

import gc
import logging
import random
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.log import LocalFiles, Store
from asyncdistil.testing import ext4
from asyncdistil.testing.disk import PowerCut
from asyncdistil.testing.faults import NAME, Life, read_back, small_reserve

CUTS_PER_LIFE = 10


class Watched(LocalFiles):
    """The real disk, with a call before every act that a power cut may fall on."""

    def __init__(self, before: Any) -> None:
        self._before = before
        self._open: set[int] = set()

    def create(self, path: Path) -> int:
        return self._opened(super().create(path))

    def open_read(self, path: Path) -> int:
        return self._opened(super().open_read(path))

    def open_lock(self, path: Path) -> int:
        return self._opened(super().open_lock(path))

    def _opened(self, fd: int) -> int:
        self._open.add(fd)
        return fd

    def close(self, fd: int) -> None:
        self._open.discard(fd)
        super().close(fd)

    def close_all(self) -> None:
        """What the death of the process does."""
        for fd in list(self._open):
            self.close(fd)

    def writev(self, fd: int, buffers: Any) -> int:
        self._before()
        return super().writev(fd, buffers)

    def fdatasync(self, fd: int) -> None:
        self._before()
        super().fdatasync(fd)

    def fsync_dir(self, path: Path) -> None:
        self._before()
        super().fsync_dir(path)

    def replace(self, source: Path, target: Path) -> None:
        self._before()
        super().replace(source, target)


class Snapshots:
    """Copies the image at some acts, with what was promised then."""

    def __init__(self, image: Path, folder: Path, rng: random.Random) -> None:
        self.taken: list[tuple[Path, int, set[int]]] = []
        self.life: Life | None = None
        self._image = image
        self._folder = folder
        self._rng = rng

    def before(self) -> None:
        life = self.life
        if life is None or self._rng.random() > 0.25:
            return
        life.note()
        target = self._folder / f"cut{len(self.taken)}.img"
        copy = ext4.copy_image(self._image, target)
        self.taken.append((copy, life.promised, set(life.owed)))
        if len(self.taken) >= CUTS_PER_LIFE:
            raise PowerCut


@pytest.fixture
def folder() -> Iterator[Path]:
    reason = ext4.why_not()
    if reason:
        pytest.skip(f"real ext4 power cuts: {reason}")
    # In memory if there is such a place: the copies are many, the syncs are still the image's.
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as made:
        yield Path(made)


def one_life(rng: random.Random, folder: Path) -> int:
    image = ext4.make_image(folder / "disk.img")
    snapshots = Snapshots(image, folder, rng)
    with ext4.mounted(image, folder / "live") as top:
        files = Watched(snapshots.before)
        life = Life(rng, files, cache=top / "cache")
        snapshots.life = life
        with suppress(PowerCut):
            while True:
                life.session(acts=30)
        appended = list(life.appended)
        life.forget_store()
        gc.collect()  # no lock of a store that died here may be seen by a forked child
        files.close_all()
    for copy, promised, owed in snapshots.taken:
        with ext4.mounted(copy, folder / "after") as top:
            after = Life(rng, LocalFiles(), cache=top / "cache")
            after.appended, after.promised, after.owed = appended, promised, owed
            for _ in range(2):  # recovering twice is recovering once
                store = Store.open(after.cache, NAME)
                after.check(read_back(store))
                store.close(clean=False)
            after.check_memo(LocalFiles())
        copy.unlink()
    image.unlink()
    return len(snapshots.taken)


@pytest.mark.needs_root
def test_a_real_file_system_that_loses_power_keeps_what_was_acknowledged(
    faults: Any, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "asyncdistil.memo")
    wanted = faults.amount(smoke=10, short=40, full=110, soak=50_000)
    done = 0

    def trial(rng: random.Random) -> None:
        nonlocal done
        with small_reserve():
            done += one_life(rng, folder)

    faults.until(lambda: done >= wanted, trial)
    faults.count("ext4 power cuts", done)
