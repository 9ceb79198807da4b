"""Disks that fill up and cache directories that vanish under a running pipeline."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.testing.crash import Scene

SCRIPT = (Path(__file__).parent / "crash_scene.py").read_text()
PADDED = {"rows": 4000, "sizes": [50, 50, 50, 50], "pad": 500}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "scene", SCRIPT)


def goes_on(scene: Scene, options: dict[str, Any] = PADDED) -> dict[str, Any]:
    """Run to the end; all rows are there, in order. Gives the report."""
    ended = scene.run(json.dumps(options))
    assert ended.returncode == 0, ended.errors[-2000:]
    told = json.loads((scene.folder / "result.json").read_text())
    found = [(row["x"], row["a"], row["b"], row["c"]) for row in told["rows"]["default"]]
    assert found == [(x, x + 1, x + 1, x + 1) for x in range(options["rows"])]
    assert scene.processes() == []
    assert scene.locks() == []
    assert scene.leftovers() == []
    report: dict[str, Any] = told["report"]
    return report


def repeated(scene: Scene, *steps: str) -> int:
    counts = (Counter(scene.visits(step)) for step in steps)
    return sum(count - 1 for counter in counts for count in counter.values())


def refused(scene: Scene, options: dict[str, Any] = PADDED) -> str:
    """Run until the disk refuses; one clean error, and nothing is left."""
    ended = scene.run(json.dumps(options))
    assert ended.returncode == 1, ended.errors[-2000:]
    last = ended.errors.strip().splitlines()[-1]
    assert last.startswith("asyncdistil.errors.StorageError"), ended.errors[-3000:]
    assert scene.processes() == []
    assert scene.locks() == []
    return last


# Limits in bytes per file: of the loader's segment, and of the rows that steps write.
@pytest.mark.parametrize("limit", [1_200_000, 2_100_000])
def test_a_file_that_may_not_grow_stops_the_run_and_costs_nothing_finished(
    scene: Scene, limit: int
) -> None:
    said = refused(scene, {**PADDED, "file_bytes": limit})
    assert "run again" in said or "goes on" in said, said
    report = goes_on(scene)
    assert report["resumed"]
    assert report["steps"]["load"]["rows_replayed"] > 0
    assert repeated(scene, *"abc") <= report["lost_in_flight_rows"]


@pytest.fixture
def small_disk(scene: Scene) -> Iterator[Callable[[str], None]]:
    """A file system of chosen size for the cache; the size can be changed."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("needs root on Linux to mount a small tmpfs")
    scene.cache.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=5m,mode=0700", "none", str(scene.cache)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs mount, which this container forbids")

    def resize(size: str) -> None:
        again = ["mount", "-o", f"remount,size={size}", str(scene.cache)]
        subprocess.run(again, check=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", "-l", str(scene.cache)], check=True)


@pytest.mark.needs_root
def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(
    scene: Scene, small_disk: Callable[[str], None]
) -> None:
    said = refused(scene)
    assert "make room" in said, said
    assert refused(scene), "it is still full"
    small_disk("64m")
    report = goes_on(scene)
    assert report["resumed"]
    assert report["steps"]["load"]["rows_replayed"] > 0
    assert max(Counter(scene.visits("a")).values()) <= 3


@pytest.mark.parametrize("what", ["cache", "store", "segments"])
def test_a_cache_that_is_deleted_under_a_run_ends_it_cleanly(scene: Scene, what: str) -> None:
    attempt = scene.start(json.dumps(PADDED))
    assert attempt.until(lambda: scene.visited() > 3000)
    (store,) = (scene.cache / "pipelines").iterdir()
    doomed = {"cache": scene.cache, "store": store, "segments": store / "segments"}[what]
    # Moved first: what is made in a directory while it is emptied would keep it.
    shutil.rmtree(doomed.rename(scene.folder / "deleted"))
    ended = attempt.end()

    # Whoever has opened all that is still wanted goes on to the end.
    if ended.returncode:
        assert ended.returncode == 1, ended.errors[-3000:]
        last = ended.errors.strip().splitlines()[-1]
        assert last.startswith("asyncdistil.errors."), ended.errors[-3000:]
    assert scene.processes() == []
    shutil.rmtree(scene.cache, ignore_errors=True)
    goes_on(scene)
