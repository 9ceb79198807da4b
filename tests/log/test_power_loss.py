"""Power cuts at every kind of moment, on the real layout: segments and commit log together."""

from __future__ import annotations

import errno
import itertools
import os
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.errors import StorageError
from asyncdistil.log import Store, StoreReader
from asyncdistil.testing.disk import MemoryDisk, PowerCut

STATES = int(os.environ.get("ASYNCDISTIL_POWER_LOSS_STATES", "1500"))
CACHE = Path("/cache")


class Life:
    """One machine: what it was told is durable must survive whatever happens to its disk."""

    def __init__(self, rng: random.Random, kit: Any) -> None:
        self.rng = rng
        self.kit = kit
        self.disk = MemoryDisk()
        self.appended: list[int] = []
        self.acknowledged = 0
        self.next = 0

    def run(self, acts: int) -> None:
        """Work until the power fails, at a drawn act of the disk."""
        countdown = self.rng.randint(0, acts)

        def before(_act: str, _path: Path) -> None:
            nonlocal countdown
            countdown -= 1
            if countdown < 0:
                raise PowerCut

        self.disk.before = before
        try:
            while True:
                self.session()
        except PowerCut:
            pass

    def session(self) -> None:
        rng, kit = self.rng, self.kit
        store = Store.open(CACHE, "p", files=self.disk)
        found = kit.numbers(store)
        self.check(found)
        self.appended = found
        self.acknowledged = len(found)
        writers = [kit.writer(store, self.disk)]
        for _ in range(rng.randint(1, 12)):
            choice = rng.random()
            if choice < 0.6:
                self.next += 1
                self.appended.append(self.next)
                rng.choice(writers).commit(self.next, rows=rng.randint(1, 4))
            elif choice < 0.9:
                store.flush()
                self.acknowledged = len(self.appended)
            elif len(writers) < 3:
                writers.append(kit.writer(store, self.disk))
        store.close(clean=rng.random() < 0.5)
        self.acknowledged = len(self.appended)

    def check(self, found: list[int]) -> None:
        assert found[: self.acknowledged] == self.appended[: self.acknowledged]
        assert found == self.appended[: len(found)]


def test_no_acknowledged_commit_is_lost_and_none_is_misjudged(kit: Any) -> None:
    states = 0
    seed = 0
    while states < STATES:
        seed += 1
        life = Life(random.Random(seed), kit)
        for _ in range(3):
            life.run(60)
            for _ in range(6):
                states += 1
                after = life.disk.after_power_cut(life.rng)
                store = Store.open(CACHE, "p", files=after)
                first = kit.numbers(store)
                life.check(first)
                warnings = store.warnings
                store.close(clean=False)
                # Recovering twice is recovering once, and the second time there is nothing to say.
                again = Store.open(CACHE, "p", files=after)
                assert kit.numbers(again) == first
                assert not again.warnings, (warnings, again.warnings)
                again.close(clean=False)
                assert after.open_descriptors == 0
            life.disk = after
            life.appended = first
            life.acknowledged = len(first)


def refuse_changes(act: str, path: Path) -> None:
    raise AssertionError(f"{act} of {path} by a reader")


@pytest.mark.parametrize("seed", range(60))
def test_who_only_looks_sees_after_a_power_cut_what_the_next_run_will_find(
    kit: Any, seed: int
) -> None:
    life = Life(random.Random(9000 + seed), kit)
    for _ in range(3):
        life.run(60)
        for _ in range(3):
            after = life.disk.after_power_cut(life.rng)
            after.before = refuse_changes
            before = after.files()
            reader = StoreReader.open(CACHE, "p", files=after)
            seen = kit.numbers(reader) if reader is not None else []
            if reader is not None:
                reader.close()
            assert after.files() == before
            assert after.open_descriptors == 0
            after.before = lambda _act, _path: None
            store = Store.open(CACHE, "p", files=after)
            assert kit.numbers(store) == seen
            store.close(clean=False)
        life.disk = after
        life.appended = seen
        life.acknowledged = len(seen)


def test_rows_that_a_power_cut_took_are_no_damage_to_a_reader(kit: Any) -> None:
    disk = MemoryDisk()
    store = Store.open(CACHE, "p", files=disk)
    writer = kit.writer(store, disk)
    writer.commit(1)
    store.flush()
    writer.commit(2)
    writer.commit(3)
    # The commits reached the disk, the rows of the second one did not.
    log, segment = (next(p for p in disk.files() if p.suffix == s) for s in (".adc", ".ads"))
    written = disk.files()
    after = MemoryDisk()
    for folder in (CACHE, CACHE / "pipelines", log.parent.parent, log.parent, segment.parent):
        after.make_private_dir(folder)
    after.put(log, written[log])
    refs = [ref for _, commit in store.commits(kit.lineage) for ref in commit.outputs]
    rows = bytearray(written[segment])
    rows[refs[1].offset : refs[1].offset + refs[1].length] = bytes(refs[1].length)
    after.put(segment, bytes(rows))
    reader = StoreReader.open(CACHE, "p", files=after)
    assert reader is not None
    assert kit.numbers(reader) == [1]
    reader.close()
    assert after.open_descriptors == 0


def test_a_clean_store_is_looked_at_without_a_glance_at_its_rows(kit: Any) -> None:
    disk = MemoryDisk()
    store = Store.open(CACHE, "p", files=disk)
    writer = kit.writer(store, disk)
    for number in range(5):
        writer.commit(number)
    store.close(clean=True)
    opened: list[str] = []
    open_read = disk.open_read
    disk.open_read = lambda path: opened.append(path.suffix) or open_read(path)  # type: ignore[method-assign,func-returns-value]
    reader = StoreReader.open(CACHE, "p", files=disk)
    assert reader is not None
    assert ".ads" not in opened
    assert kit.numbers(reader) == [0, 1, 2, 3, 4]
    assert ".ads" in opened
    reader.close()


@pytest.mark.parametrize("seed", range(150))
def test_a_dead_process_loses_nothing_and_a_power_cut_after_it_nothing_recovered(
    kit: Any, seed: int
) -> None:
    life = Life(random.Random(5000 + seed), kit)
    for _ in range(6):
        life.run(40)
        life.disk = life.disk.after_process_death()
        store = Store.open(CACHE, "p", files=life.disk)
        found = kit.numbers(store)
        life.check(found)
        assert len(found) >= len(life.appended) - 1  # the last may have died half-way
        # What the new process builds on must not vanish under it.
        life.appended, life.acknowledged = found, len(found)
        if life.rng.random() < 0.5:
            store.close(clean=life.rng.random() < 0.5)
        life.disk = life.disk.after_power_cut(life.rng)


@pytest.mark.parametrize("seed", range(40))
def test_power_cuts_during_recovery_lose_nothing(kit: Any, seed: int) -> None:
    life = Life(random.Random(1000 + seed), kit)
    life.run(80)
    for _ in range(12):
        life.disk = life.disk.after_power_cut(life.rng)
        life.run(life.rng.choice((3, 8, 20)))
    life.disk = life.disk.after_power_cut(life.rng)
    store = Store.open(CACHE, "p", files=life.disk)
    life.check(kit.numbers(store))
    store.close(clean=True)


@pytest.mark.parametrize("act", ["fsync_dir", "death"])
def test_names_of_directories_that_an_earlier_try_made_are_synced_by_the_next(
    kit: Any, act: str
) -> None:
    """The first try ends behind a directory that it made, before its name was durable."""
    for nth in itertools.count(1):
        disk = MemoryDisk()
        left = nth

        def end(what: str, _path: Path) -> None:
            nonlocal left
            left -= what == "fsync_dir"
            if left == 0:
                left = -1
                raise OSError(errno.EIO, "no") if act == "fsync_dir" else PowerCut

        disk.before = end
        with suppress(StorageError, PowerCut):
            store = Store.open(CACHE, "p", files=disk)
            kit.writer(store, disk).commit(1)
        if left > 0:
            return
        disk = disk.after_process_death()
        store = Store.open(CACHE, "p", files=disk)
        kit.writer(store, disk).commit(2)
        store.flush()
        after = disk.after_power_cut(NothingUnsynced())
        assert 2 in kit.numbers(Store.open(CACHE, "p", files=after)), nth


class NothingUnsynced(random.Random):
    """The power cut that takes everything it may."""

    def random(self) -> float:
        return 0.999

    def choice(self, options: Any) -> Any:
        return options[0]
