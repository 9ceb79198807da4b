"""An export whose directories a dead process had made, without syncing their names."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.distiset.writer import LeafWriter
from asyncdistil.testing.disk import MemoryDisk

STORE = Path("/store")


class TakesAll(random.Random):
    """The power cut that takes everything it may."""

    def random(self) -> float:
        return 0.999

    def choice(self, options: Any) -> Any:
        return options[0]


@pytest.mark.parametrize("synced", [0, 1])
def test_a_finished_export_survives_a_power_cut_whoever_made_its_directories(synced: int) -> None:
    disk = MemoryDisk()
    disk.make_private_dir(STORE)
    disk.fsync_dir(STORE.parent)
    # The dead one made a directory inside another only when the name of that one was durable.
    for name in ("exports", "exports/run")[:synced]:
        disk.make_private_dir(STORE / name)
        disk.fsync_dir((STORE / name).parent)
    disk.make_private_dir(STORE / ("exports", "exports/run")[synced])
    writer = LeafWriter(STORE, "exports/run", "a" * 32, files=disk)
    writer.add([{"x": 1}, {"x": 2}], 20)
    exported = writer.finish()
    before = disk.files()
    after = disk.after_power_cut(TakesAll()).files()
    assert {STORE / name for name, _ in exported.files} == set(after)
    assert after == before
