"""Directories that a dead process made and did not sync: the next one makes their names durable."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.log import Store, StoreReader, store_root
from asyncdistil.log.names import commit_path
from asyncdistil.log.repair import repair
from asyncdistil.memo import Key, Memo
from asyncdistil.memo.repair import repair_memo
from asyncdistil.testing.disk import MemoryDisk
from asyncdistil.testing.faults import small_reserve

CACHE = Path("/cache")
ROOT = store_root(CACHE, "p")


class TakesAll(random.Random):
    """The power cut that takes everything it may."""

    def random(self) -> float:
        return 0.999

    def choice(self, options: Any) -> Any:
        return options[0]


@pytest.fixture(autouse=True)
def little_room() -> Iterator[None]:
    with small_reserve():
        yield


def lived(kit: Any) -> MemoryDisk:
    disk = MemoryDisk()
    store = Store.open(CACHE, "p", files=disk)
    writer = kit.writer(store, disk)
    for number in range(4):
        writer.commit(number)
    store.close(clean=True)
    return disk


def set_aside(disk: MemoryDisk, folder: Path) -> dict[Path, bytes]:
    return {path: data for path, data in disk.files().items() if path.parent == folder}


def test_bytes_that_a_recovery_set_aside_survive_a_power_cut(kit: Any) -> None:
    disk = lived(kit)
    path = commit_path(ROOT, 1)
    disk.put(path, disk.files()[path] + b"torn")
    disk.make_private_dir(ROOT / "quarantine")
    Store.open(CACHE, "p", files=disk).close(clean=False)
    copies = set_aside(disk, ROOT / "quarantine")
    assert b"torn" in copies.values()
    after = disk.after_power_cut(TakesAll())
    assert set_aside(after, ROOT / "quarantine") == copies


def test_rows_that_a_repair_set_aside_survive_a_power_cut(kit: Any) -> None:
    disk = lived(kit)
    reader = StoreReader.open(CACHE, "p", files=disk)
    assert reader is not None
    ((_, commit), *_) = reader.commits(kit.lineage)
    reader.close()
    (path,) = (path for path in disk.files() if path.suffix == ".ads")
    image = bytearray(disk.files()[path])
    image[commit.outputs[0].offset + commit.outputs[0].length // 2] ^= 1
    disk.put(path, bytes(image))
    disk.make_private_dir(ROOT / "quarantine")
    assert len(repair(CACHE, "p", disk).batches) == 1
    copies = set_aside(disk, ROOT / "quarantine")
    assert len(copies) == 2
    after = disk.after_power_cut(TakesAll())
    assert set_aside(after, ROOT / "quarantine") == copies


def test_answers_that_a_repair_set_aside_survive_a_power_cut() -> None:
    disk = MemoryDisk()
    disk.make_private_dir(CACHE)
    disk.fsync_dir(CACHE.parent)
    memo = Memo.open(CACHE / "memo", files=disk)
    for number in range(5):
        memo.put(Key.of(b"question %d" % number, model="m"), 0, b"answer" * 40)
    memo.close()
    (path,) = (path for path in disk.files() if path.suffix == ".adm")
    image = bytearray(disk.files()[path])
    image[len(image) // 2] ^= 1
    disk.put(path, bytes(image))
    folder = path.parent / "quarantine"
    disk.make_private_dir(folder)
    assert [one.path for one in repair_memo(CACHE, disk)] == [path]
    after = disk.after_power_cut(TakesAll())
    assert set_aside(after, folder) == {folder / path.name: image}
