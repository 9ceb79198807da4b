"""Disks that refuse: full, short writes, failing syncs."""

from __future__ import annotations

import errno
import itertools
import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.batch import Lsn
from asyncdistil.codec import encode_rows
from asyncdistil.errors import LogError, StorageError
from asyncdistil.log import Store
from asyncdistil.log.events import StepDef
from asyncdistil.testing.disk import MemoryDisk

CACHE = Path("/cache")


class FailingSyncs:
    """Makes chosen syncs fail; counts syncs per descriptor's file."""

    def __init__(self, suffix: str, *, times: int, only: int = 0) -> None:
        self.suffix = suffix
        self.times = times
        self.only = only
        self.seen: list[Path] = []
        self.failed: set[Path] = set()
        self.armed = False

    def __call__(self, act: str, path: Path) -> None:
        if act != "fdatasync" or path.suffix != self.suffix or not self.armed:
            return
        assert path not in self.failed, "a descriptor that failed to sync was synced again"
        self.seen.append(path)
        if self.times > 0:
            self.times -= 1
            self.failed.add(path)
            raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_failed_log_sync_is_written_again_to_a_new_file_and_nothing_is_lost(kit: Any) -> None:
    disk = MemoryDisk()
    store = Store.open(CACHE, "p", files=disk)
    writer = kit.writer(store, disk)
    writer.commit(1)
    store.flush()
    fault = FailingSyncs(".adc", times=1)
    disk.before = fault
    fault.armed = True
    writer.commit(2)
    lsn = writer.commit(3)
    assert store.flush() == lsn
    writer.commit(4)
    store.flush()
    assert kit.numbers(store) == [1, 2, 3, 4]
    # The power fails: only what is really on the disk is left.
    for seed in range(20):
        after = disk.after_power_cut(random.Random(seed))
        again = Store.open(CACHE, "p", files=after)
        assert kit.numbers(again) == [1, 2, 3, 4]
        again.close(clean=False)
    store.close(clean=True)
    final = Store.open(CACHE, "p", files=disk)
    assert kit.numbers(final) == [1, 2, 3, 4]


def test_a_log_that_fails_to_sync_twice_stops_the_run_and_keeps_what_was_acknowledged(
    kit: Any,
) -> None:
    disk = MemoryDisk()
    store = Store.open(CACHE, "p", files=disk)
    writer = kit.writer(store, disk)
    writer.commit(1)
    store.flush()
    fault = FailingSyncs(".adc", times=99)
    disk.before = fault
    fault.armed = True
    writer.commit(2)
    with pytest.raises(StorageError, match="run again"):
        store.flush()
    with pytest.raises(StorageError):
        writer.commit(3)
    fault.armed = False
    store.close(clean=True)
    again = Store.open(CACHE, "p", files=disk)
    assert kit.numbers(again)[:1] == [1]


def test_a_failed_segment_sync_acknowledges_nothing_and_recovery_drops_the_lost_rows(
    kit: Any,
) -> None:
    disk = MemoryDisk()
    store = Store.open(CACHE, "p", files=disk)
    writer = kit.writer(store, disk)
    writer.commit(1)
    durable = store.flush()
    fault = FailingSyncs(".ads", times=1)
    disk.before = fault
    fault.armed = True
    writer.commit(2)
    with pytest.raises(StorageError):
        store.flush()
    assert store.durable == durable
    store.close(clean=False)
    # The failed pages still look fine in the cache; recovery must read the disk.
    fault.failed.clear()
    again = Store.open(CACHE, "p", files=disk)
    assert kit.numbers(again) == [1]
    assert any("quarantine" in warning for warning in again.warnings)


def test_the_sync_thread_reports_its_error_once(kit: Any) -> None:
    disk = MemoryDisk()
    store = Store.open(CACHE, "p", files=disk)
    writer = kit.writer(store, disk)
    errors: list[LogError] = []
    failed = threading.Event()

    def on_error(error: LogError) -> None:
        errors.append(error)
        failed.set()

    fault = FailingSyncs(".ads", times=99)
    disk.before = fault
    fault.armed = True
    store.start_syncing(lambda _lsn: None, on_error)
    writer.commit(1)
    assert failed.wait(30)
    with pytest.raises(StorageError):
        store.append([StepDef(kit.lineage, "s", b"")])
    store.close(clean=True)
    assert len(errors) == 1


@pytest.mark.parametrize("capacity", range(1500, 6000, 149))
def test_a_full_disk_loses_nothing_acknowledged_and_the_rest_goes_on_after_room_is_made(
    kit: Any, capacity: int
) -> None:
    disk = MemoryDisk()
    store = Store.open(CACHE, "p", files=disk)
    store.free_reserve()
    writer = kit.writer(store, disk)
    disk.capacity_bytes = capacity
    done = 0
    with pytest.raises(StorageError, match="safe"):
        while True:
            writer.commit(done + 1)
            store.flush()
            done += 1
    disk.capacity_bytes = 1 << 40
    # The same store goes on: the torn record ends a file, the next one begins behind it.
    writer.commit(done + 1)
    store.flush()
    assert kit.numbers(store) == list(range(1, done + 2))
    again = Store.open(CACHE, "p", files=disk.after_process_death())
    assert kit.numbers(again) == list(range(1, done + 2))
    again.close(clean=False)
    store.close(clean=True)
    final = Store.open(CACHE, "p", files=disk)
    assert kit.numbers(final) == list(range(1, done + 2))


@pytest.mark.parametrize("longest", [1, 7, 100, 511])
def test_short_writes_are_carried_on(kit: Any, longest: int) -> None:
    disk = MemoryDisk()
    Store.open(CACHE, "p", files=disk).close(clean=False)
    disk.longest_write = longest
    store = Store.open(CACHE, "p", files=disk)
    writer = kit.writer(store, disk)
    for number in range(1, 4):
        writer.commit(number)
    store.close(clean=True)
    assert kit.numbers(Store.open(CACHE, "p", files=disk)) == [1, 2, 3]


class FailsOnce:
    """Makes the n-th act of a kind fail."""

    def __init__(self, act: str, nth: int) -> None:
        self.act = act
        self.left = nth

    def __call__(self, act: str, _path: Path) -> None:
        if act == self.act:
            self.left -= 1
            if self.left == 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("act", ["create", "writev", "fdatasync", "fsync_dir", "replace", "mkdir"])
def test_an_error_of_any_act_is_reported_and_recovered_from(kit: Any, act: str) -> None:
    """The n-th act fails once, for every n; afterwards everything acknowledged is there."""
    for nth in itertools.count(1):
        disk = MemoryDisk()
        fault = disk.before = FailsOnce(act, nth)
        acknowledged = 0
        try:
            store = Store.open(CACHE, "p", files=disk)
            try:
                writer = kit.writer(store, disk)
                for number in range(1, 4):
                    writer.commit(number)
                    store.flush()
                    acknowledged = number
            finally:
                store.close(clean=True)
        except StorageError:
            pass
        assert disk.open_descriptors == 0
        again = Store.open(CACHE, "p", files=disk)
        found = kit.numbers(again)
        assert found == [1, 2, 3][: len(found)]
        assert len(found) >= acknowledged
        again.close(clean=True)
        if fault.left > 0:
            return


def test_memo_files_are_synced_before_the_commits_that_used_them(kit: Any) -> None:
    disk = MemoryDisk()
    store = Store.open(CACHE, "p", files=disk)
    writer = kit.writer(store, disk)
    memo = disk.create(store.root / "memo")
    store.add_dirty_fd("memo", memo)
    synced: list[str] = []
    disk.before = lambda act, path: synced.append(path.name) if act == "fdatasync" else None
    writer.commit(1)
    store.flush()
    assert synced == ["0000000001.ads", "memo", "0000000001.adc"]
    store.drop_fd("memo")
    writer.commit(2)
    store.flush()
    assert synced[3:] == ["0000000001.ads", "0000000001.adc"]


def test_a_torn_segment_record_does_not_disturb_the_next_one(kit: Any) -> None:
    disk = MemoryDisk()
    store = Store.open(CACHE, "p", files=disk)
    writer = kit.writer(store, disk)
    writer.commit(1)
    disk.capacity_bytes = disk.used_bytes + 101
    with pytest.raises(StorageError):
        writer.segment.append(encode_rows([{"a": "x" * 500}], step="s"))
    disk.capacity_bytes = 1 << 40
    writer.commit(2)
    assert kit.numbers(store) == [1, 2]


def test_without_syncs_a_process_death_loses_nothing_and_durable_means_appended(kit: Any) -> None:
    disk = MemoryDisk()
    store = Store.open(CACHE, "p", files=disk, mode="process")
    writer = kit.writer(store, disk)
    synced: list[str] = []
    disk.before = lambda act, path: synced.append(path.name) if act == "fdatasync" else None
    lsn = Lsn(writer.commit(1))
    assert store.flush() == store.durable == lsn
    assert synced == []
    assert kit.numbers(Store.open(CACHE, "p", files=disk.after_process_death())) == [1]
    store.close(clean=True)
    assert "0000000001.ads" in synced  # a clean end is safe from power cuts in every mode


def test_a_new_log_file_that_failed_to_sync_is_no_part_of_the_log(kit: Any) -> None:
    """It stands in the cache as if it were whole; only the disk tells that it is not."""
    disk = MemoryDisk()
    store = Store.open(CACHE, "p", files=disk)
    kit.writer(store, disk).commit(1)
    store.close(clean=False)
    store = Store.open(CACHE, "p", files=disk)

    def fail(act: str, path: Path) -> None:
        if act == "fdatasync" and path.suffix == ".adc":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    disk.before = fail
    with pytest.raises(StorageError):
        kit.writer(store, disk).commit(2)
    disk = disk.after_process_death()
    for number in (3, 4):
        store = Store.open(CACHE, "p", files=disk)
        kit.writer(store, disk).commit(number)
        store.close(clean=False)
        disk = disk.after_power_cut(random.Random(number))
    store = Store.open(CACHE, "p", files=disk)
    assert kit.numbers(store) == [1, 3, 4]
