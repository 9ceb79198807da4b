"""Repairing a store: what is damaged is told, set aside and given up, and nothing else."""

from __future__ import annotations

import errno
import random
from pathlib import Path
from typing import Any

import pytest
from xxhash import xxh3_128_digest

from asyncdistil.batch import Digest, StepName
from asyncdistil.errors import CorruptRecord, LogError, StorageError
from asyncdistil.log import Store, StoreReader
from asyncdistil.log.checkpoint import checkpoint_path
from asyncdistil.log.events import Emit, StepDef
from asyncdistil.log.names import commit_path, store_root
from asyncdistil.log.repair import examine, repair
from asyncdistil.testing.disk import MemoryDisk
from asyncdistil.testing.faults import small_reserve

CACHE = Path("/cache")
ROOT = store_root(CACHE, "p")
COMMITS = 8


@pytest.fixture
def disk(kit: Any) -> MemoryDisk:
    """A store of eight commits, half of them behind a checkpoint, closed in order."""
    disk = MemoryDisk()
    with small_reserve():
        for first in (1, 5):
            store = Store.open(CACHE, "p", files=disk)
            if first == 1:
                store.append([StepDef(kit.lineage, "a step", b"definition")])
            writer = kit.writer(store, disk)
            for number in range(first, first + 4):
                writer.commit(number)
            store.close(clean=True)
        yield disk


def flip(disk: MemoryDisk, path: Path, at: int) -> bytes:
    image = bytearray(disk.files()[path])
    image[at] ^= 1
    disk.put(path, bytes(image))
    return bytes(image)


def data_of(files: dict[Path, bytes], *endings: str) -> dict[Path, bytes]:
    return {path: data for path, data in files.items() if path.suffix in endings}


def opened(disk: MemoryDisk, kit: Any) -> list[int]:
    """Commits of a store that is opened as a run opens it, with all of their rows."""
    store = Store.open(CACHE, "p", files=disk)
    try:
        return list(kit.numbers(store))
    finally:
        store.close(clean=True)


def places(disk: MemoryDisk, kit: Any) -> dict[int, tuple[Path, int, int]]:
    """Where the rows of each commit lie: file, offset, length."""
    store = StoreReader.open(CACHE, "p", files=disk)
    assert store is not None
    reader = store.reader()
    found = {}
    for _, commit in store.commits(kit.lineage):
        (ref,) = commit.outputs
        found[commit.ordinal] = reader.path(ref.segment), ref.offset, ref.length
    reader.close()
    store.close()
    return found


def test_a_sound_store_is_left_as_it_is(kit: Any, disk: MemoryDisk) -> None:
    before = disk.files()
    assert repair(CACHE, "p", disk).sound
    assert disk.files() == before


@pytest.mark.parametrize("lost", [(1,), (2, 7), (3, 4, 5, 6)])
def test_damaged_rows_are_told_set_aside_and_given_up_alone(
    kit: Any, disk: MemoryDisk, lost: tuple[int, ...]
) -> None:
    where = places(disk, kit)
    images = {}
    for number in lost:
        path, offset, length = where[number]
        images[number] = flip(disk, path, offset + length // 2)[offset : offset + length]
    with pytest.raises(CorruptRecord):
        opened(disk, kit)
    before = disk.files()
    foreseen = examine(ROOT, disk)
    assert disk.files() == before
    found = repair(CACHE, "p", disk)
    assert found == foreseen
    assert [(one.step, one.rows) for one in found.batches] == [("a step", 2)] * len(lost)
    assert found.log == []
    for number in lost:
        path, offset, _ = where[number]
        stem = ROOT / "quarantine" / f"{path.stem}-{offset}"
        assert disk.files()[stem.with_suffix(".bin")] == images[number]
        note = disk.files()[stem.with_suffix(".txt")].decode()
        assert "'a step'" in note
    assert opened(disk, kit) == [n for n in range(1, COMMITS + 1) if n not in lost]
    assert examine(ROOT, disk).sound
    # Rows were copied, not moved: nothing that was there is gone.
    assert data_of(before, ".ads", ".adc").items() <= disk.files().items()


def test_a_segment_that_is_gone_costs_its_rows_alone(kit: Any, disk: MemoryDisk) -> None:
    path, _, _ = places(disk, kit)[1]
    disk.unlink(path)
    found = repair(CACHE, "p", disk)
    assert [one.lsn for one in found.batches] == sorted(one.lsn for one in found.batches)
    assert len(found.batches) == 4
    assert opened(disk, kit) == [5, 6, 7, 8]


@pytest.mark.parametrize("seed", range(40))
def test_any_damage_of_log_rows_and_checkpoint_leaves_a_store_that_opens(
    kit: Any, disk: MemoryDisk, seed: int
) -> None:
    rng = random.Random(seed)
    paths = sorted(p for p in disk.files() if p.suffix in {".adc", ".ads", ".adk"})
    for _ in range(rng.randint(1, 4)):
        path = rng.choice(paths)
        image = bytearray(disk.files()[path])
        match rng.randrange(3):
            case 0:
                image[rng.randrange(len(image))] ^= 1 << rng.randrange(8)
            case 1:
                start = rng.randrange(len(image))
                image[start : start + 512] = bytes(len(image[start : start + 512]))
            case _:
                del image[rng.randrange(len(image)) :]
        disk.put(path, bytes(image))
    if not any(p.suffix == ".adc" and len(disk.files()[p]) > 168 for p in paths):
        return  # nothing is left of the log
    before = disk.files()
    try:
        found = repair(CACHE, "p", disk)
    except LogError:
        # No log file is intact enough to tell whose store it is.
        assert data_of(before, ".ads", ".adc").items() <= disk.files().items()
        return
    kept = opened(disk, kit)
    assert kept == sorted(kept)
    assert set(kept) <= set(range(1, COMMITS + 1))
    if found.sound:
        assert kept == list(range(1, COMMITS + 1))
    assert examine(ROOT, disk).sound


def test_damage_before_the_checkpoint_is_given_up_for_good(kit: Any, disk: MemoryDisk) -> None:
    flip(disk, commit_path(ROOT, 1), 700)
    with pytest.raises(CorruptRecord):
        opened(disk, kit)
    found = repair(CACHE, "p", disk)
    assert found.log
    assert found.records >= 1
    disk.unlink(checkpoint_path(ROOT))
    assert len(opened(disk, kit)) == COMMITS - 1


def test_a_checkpoint_that_is_damaged_costs_nothing_else(kit: Any, disk: MemoryDisk) -> None:
    path = checkpoint_path(ROOT)
    image = flip(disk, path, len(disk.files()[path]) - 20)
    found = repair(CACHE, "p", disk)
    assert found.checkpoint
    assert not found.log
    assert opened(disk, kit) == list(range(1, COMMITS + 1))
    assert disk.files()[ROOT / "quarantine" / "checkpoint.bin"] == image


def test_a_dataset_that_was_changed_is_set_aside_and_one_that_is_gone_is_no_damage(
    kit: Any, disk: MemoryDisk
) -> None:
    key = Digest(b"k" * 16)
    files = tuple((f"exports/{name}", Digest(xxh3_128_digest(b"rows"))) for name in "abc")
    store = Store.open(CACHE, "p", files=disk)
    store.append([Emit(kit.run, key, StepName("a step"), "default", files, 4)])
    store.close(clean=True)
    disk.make_private_dir(ROOT / "exports")
    disk.put(ROOT / "exports" / "a", b"rows")
    disk.put(ROOT / "exports" / "b", b"other rows")
    found = repair(CACHE, "p", disk)
    assert found.datasets == [ROOT / "exports" / "b"]
    assert (found.log, found.batches) == ([], [])
    left = {path.name: data for path, data in disk.files().items() if path.parent.name == "exports"}
    assert left == {"a": b"rows", "b.damaged": b"other rows"}
    assert examine(ROOT, disk).sound
    assert opened(disk, kit) == list(range(1, COMMITS + 1))


def test_rows_that_the_disk_cannot_read_are_given_up_with_an_empty_copy(
    kit: Any, disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, offset, _ = places(disk, kit)[2]
    read = disk.pread

    def pread(fd: int, size: int, at: int) -> bytes:
        if disk._handles[fd].path == path and at <= offset < at + size:
            raise OSError(errno.EIO, "Input/output error")
        return read(fd, size, at)

    monkeypatch.setattr(disk, "pread", pread)
    found = repair(CACHE, "p", disk)
    assert len(found.batches) == 1
    copies = {p.name: data for p, data in disk.files().items() if p.parent.name == "quarantine"}
    stem = f"{path.stem}-{offset}"
    assert copies.keys() == {f"{stem}.bin", f"{stem}.txt"}
    assert copies[f"{stem}.bin"] == b""
    assert 2 not in opened(disk, kit)
    assert disk.open_descriptors == 0


def test_a_disk_that_goes_on_damaging_rows_is_told_and_not_called_repaired(
    kit: Any, disk: MemoryDisk
) -> None:
    where = places(disk, kit)
    flip(disk, where[1][0], where[1][1] + 80)
    path, offset, _ = where[6]

    def before(act: str, written: Path) -> None:
        if act == "replace" and written == checkpoint_path(ROOT):  # the end of the repair
            flip(disk, path, offset + 80)

    disk.before = before
    with pytest.raises(CorruptRecord, match="is still damaged after its repair"):
        repair(CACHE, "p", disk)


def test_where_no_log_is_nothing_is_damaged() -> None:
    assert examine(ROOT, MemoryDisk()).sound


def test_a_disk_that_refuses_any_act_of_a_repair_leaves_it_to_be_done_again(
    kit: Any, disk: MemoryDisk
) -> None:
    where = places(disk, kit)
    path, offset, length = where[3]
    flip(disk, path, offset + length // 2)
    flip(disk, commit_path(ROOT, 2), 400)
    act = 0
    while True:
        act += 1
        copy = disk.after_process_death()
        countdown = act

        def before(_act: str, _path: Path) -> None:
            nonlocal countdown
            countdown -= 1
            if not countdown:
                raise OSError(28, "No space left on device")

        copy.before = before
        try:
            repair(CACHE, "p", copy)
            done = True
        except StorageError:
            done = False
        copy.before = lambda _act, _path: None
        repair(CACHE, "p", copy)
        assert 3 not in opened(copy, kit)
        assert examine(ROOT, copy).sound
        assert copy.open_descriptors == 0
        if done and countdown > 0:
            break
    assert act > 8
