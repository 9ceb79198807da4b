"""Power cuts at every kind of moment: commit log, segments and memo files, on one disk."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from asyncdistil.log import Store
from asyncdistil.testing.disk import MemoryDisk
from asyncdistil.testing.faults import NAME, Life, read_back, small_reserve

SHARDS = 16


@pytest.fixture(autouse=True)
def _cheap_and_silent(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with small_reserve(), caplog.at_level(logging.ERROR, "asyncdistil.memo"):
        yield


def cut_and_check(life: Life, *, thorough: bool) -> MemoryDisk:
    """One disk that a cut may leave; it must hold what was promised."""
    assert isinstance(life.files, MemoryDisk)
    after = life.files.after_power_cut(life.rng)
    store = Store.open(life.cache, NAME, files=after)
    found = read_back(store)
    life.check(found)
    life.check_memo(after)
    if thorough:
        # What was on the disk is not touched; recovering twice is recovering once.
        store.close(clean=False)
        again = Store.open(life.cache, NAME, files=after)
        assert read_back(again) == found
        assert not again.warnings
        again.close(clean=True)
    return after


def live_through_cuts(rng: random.Random, *, cuts: int, states: int) -> int:
    """A life of several power cuts, with many possible disks after each.

    Returns:
        Disks that were checked.
    """
    life = Life(rng, MemoryDisk(), memo=rng.random() < 0.4)
    checked = 0
    for _ in range(cuts):
        disk = life.files
        assert isinstance(disk, MemoryDisk)

        def watch(tick: Callable[[], None], disk: MemoryDisk = disk) -> None:
            disk.before = lambda _act, _path: tick()

        life.until_power_cut(60, watch)
        disk.before = lambda _act, _path: None
        after = disk
        for state in range(states):
            after = cut_and_check(life, thorough=state % 16 == 0)
            checked += 1
        # Life goes on with the last of them: its own recovery may be cut as well.
        life.files = fresh = disk.after_power_cut(rng) if rng.random() < 0.5 else after
        store = Store.open(life.cache, NAME, files=fresh.after_process_death())
        found = read_back(store)
        life.check(found)
        life.adopt(found)
        life.files = fresh.after_process_death()
    return checked


@pytest.mark.parametrize("shard", range(SHARDS))
def test_no_power_cut_loses_or_misjudges_what_was_acknowledged(faults: Any, shard: int) -> None:
    wanted = faults.amount(smoke=800, short=24_000, full=300_000, soak=100_000_000) // SHARDS
    checked = 0

    def trial(rng: random.Random) -> None:
        nonlocal checked
        checked += live_through_cuts(rng, cuts=3, states=32)

    faults.until(lambda: checked >= wanted, trial)
    faults.count("power-loss states", checked)
