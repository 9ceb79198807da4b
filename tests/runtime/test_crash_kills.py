"""SIGKILL at the supervisor of whole runs; its workers have to find out by themselves.

Each run is killed when a chosen step meets a chosen row, so the moments are points of progress.
``ASYNCDISTIL_SOAK_KILLS`` is the number of moments of the first test, for long runs; its moments
are drawn with ``ASYNCDISTIL_SOAK_SEED``.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.testing.crash import Scene, Strike

SCRIPT = (Path(__file__).parent / "crash_scene.py").read_text()
ROWS = 20_000
MOMENTS = int(os.environ.get("ASYNCDISTIL_SOAK_KILLS", "20"))
SEED = int(os.environ.get("ASYNCDISTIL_SOAK_SEED", "1"))
SIZES = ([50, 50, 50, 50], [50, 7, 100, 33], [100, 50, 50, 50], [33, 50, 7, 100])
MOST_LEASES = 64
EVERY_KIND = ("a", "batch", "left", "right", "other", "join", "few", "sorted")


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "scene", SCRIPT)


def result(
    scene: Scene, options: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, list[dict[str, int]]]]:
    """Report and rows of a run that comes to its end."""
    ended = scene.run(json.dumps(options))
    assert ended.returncode == 0, ended.errors[-2000:]
    told = json.loads((scene.folder / "result.json").read_text())
    return told["report"], told["rows"]


def chain_rows(rows: int) -> list[dict[str, int]]:
    return [{"x": x, "a": x + 1, "b": x + 1, "c": x + 1} for x in range(rows)]


def nothing_is_left(scene: Scene) -> None:
    assert scene.processes() == []
    assert scene.locks() == []
    assert scene.leftovers() == []


def repeated(scene: Scene, *steps: str) -> int:
    """Rows of these steps that were worked on more than once."""
    counts = (Counter(scene.visits(step)) for step in steps)
    return sum(count - 1 for counter in counts for count in counter.values())


def killed(scene: Scene, options: dict[str, Any], strike: Strike) -> None:
    """Run until the blow; no process and no held lock is left then."""
    ended = scene.run(json.dumps(options), strike=strike)
    assert ended.returncode == -9, ended.errors[-2000:]
    assert scene.processes() == []
    assert scene.locks() == []


def moments() -> list[tuple[str, int]]:
    drawn = random.Random(SEED)
    return [(drawn.choice("abc"), drawn.randrange(ROWS)) for _ in range(MOMENTS)]


@pytest.mark.parametrize(("number", "moment"), list(enumerate(moments())))
def test_a_killed_run_goes_on_with_the_same_rows_in_the_same_order(
    scene: Scene, number: int, moment: tuple[str, int]
) -> None:
    sizes = SIZES[number % len(SIZES)]
    options = {"rows": ROWS, "sizes": sizes}
    killed(scene, options, Strike(*moment))

    report, rows = result(scene, options)

    assert rows == {"default": chain_rows(ROWS)}
    assert report["resumed"]
    for step in "abc":
        assert set(scene.visits(step)) == set(range(ROWS))
    assert repeated(scene, *"abc") <= report["lost_in_flight_rows"]
    assert report["lost_in_flight_rows"] <= 3 * MOST_LEASES * max(sizes)
    nothing_is_left(scene)


def test_a_run_that_never_gets_far_still_comes_to_its_end(scene: Scene) -> None:
    options = {"rows": 20_000, "sizes": SIZES[1]}
    held = 0
    # So far apart that no run gets from one to the next before the blow that follows its log line.
    for row in (200, 9_000, 19_000):
        killed(scene, options, Strike("c", row))
        # And once more, as soon as it has taken the run up.
        held += told_in_flight(killed_when_taken_up(scene, options))
        assert scene.processes() == []
        assert scene.locks() == []

    report, rows = result(scene, options)
    assert rows == {"default": chain_rows(20_000)}
    assert repeated(scene, *"abc") <= held + report["lost_in_flight_rows"]
    nothing_is_left(scene)


def killed_when_taken_up(scene: Scene, options: dict[str, Any]) -> str:
    attempt = scene.start(json.dumps(options))
    assert attempt.until(lambda: "taking up run" in attempt.said())
    attempt.send("SIGKILL")
    return attempt.end().errors


def told_in_flight(said: str) -> int:
    """The figure in the log line of a run that was taken up."""
    line = next(line for line in said.splitlines() if "taking up run" in line)
    words = line.partition("did not end; ")[2].split()
    return 0 if words[0] == "no" else int(words[0])


@pytest.mark.parametrize("replicas", [2, 3])
def test_replicas_share_the_work_that_a_kill_left(scene: Scene, replicas: int) -> None:
    options = {"rows": 4000, "sizes": SIZES[1], "replicas": replicas}
    killed(scene, options, Strike("b", 1500))

    report, rows = result(scene, options)

    assert rows == {"default": chain_rows(4000)}
    assert repeated(scene, *"abc") <= report["lost_in_flight_rows"]
    nothing_is_left(scene)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, int]]]:
    """Rows of every kind of step, from a run that nothing happened to."""
    scene = Scene(tmp_path_factory.mktemp("undisturbed") / "scene", SCRIPT)
    return result(scene, every_kind())[1]


def every_kind(**more: Any) -> dict[str, Any]:
    return {"rows": 900, "sizes": [50], "shape": "every_kind", **more}


@pytest.mark.parametrize(
    ("step", "row"),
    [("batch", 300), ("join", 450), ("few", 600), ("other", 160), ("right", 700), ("sorted", 5)],
)
def test_every_kind_of_step_is_taken_up(
    scene: Scene, undisturbed: dict[str, list[dict[str, int]]], step: str, row: int
) -> None:
    killed(scene, every_kind(), Strike(step, row))

    report, rows = result(scene, every_kind())

    assert rows == undisturbed
    assert repeated(scene, *EVERY_KIND) <= report["lost_in_flight_rows"]
    nothing_is_left(scene)


@pytest.mark.parametrize(("step", "row"), [("load", 500), ("left", 700), ("sorted", 5)])
def test_a_generator_that_starts_over_repeats_only_itself(
    scene: Scene, undisturbed: dict[str, list[dict[str, int]]], step: str, row: int
) -> None:
    options = every_kind(count=True)
    killed(scene, options, Strike(step, row))

    report, rows = result(scene, options)

    assert rows == undisturbed
    assert repeated(scene, *EVERY_KIND) <= report["lost_in_flight_rows"]
    nothing_is_left(scene)


def test_a_half_finished_run_without_cache_reuses_its_own_work_and_no_other(scene: Scene) -> None:
    options = {"rows": 2000, "sizes": SIZES[0]}
    result(scene, options)
    anew = {**options, "run": {"use_cache": False}}
    killed(scene, anew, Strike("b", 1000, always=True))

    report, rows = result(scene, anew)

    assert rows == {"default": chain_rows(2000)}
    assert report["resumed"]
    # Everything twice, as was asked for, and what the kill cost on top.
    for step in "abc":
        assert min(Counter(scene.visits(step)).values()) == 2
    assert repeated(scene, *"abc") <= 3 * 2000 + report["lost_in_flight_rows"]
    assert report["steps"]["a"]["rows_replayed"] > 0
    nothing_is_left(scene)


POINTS = [
    "segment.after_create=kill@1",
    "segment.after_create=kill@3",
    "log.after_create=kill@1",
    "log.after_begin=kill@1",
    "log.append=kill@2",
    "log.append=kill@9",
    "log.after_append=kill@1",
    "log.after_append=kill@12",
    "sync.before_segments=kill@2",
    "sync.before_log=kill@3",
    "sync.after_log=kill@1",
    "sync.after_log=kill@5",
    "checkpoint.after_write=kill",
    "checkpoint.before_rename=kill",
    "checkpoint.after_rename=kill",
]


@pytest.mark.parametrize("point", POINTS)
def test_a_supervisor_killed_at_a_named_point_is_taken_up(scene: Scene, point: str) -> None:
    options = {"rows": 1000, "sizes": SIZES[1]}
    ended = scene.run(json.dumps(options), environment={"ASYNCDISTIL_FAILPOINTS": point})
    assert ended.returncode == -9, ended.errors[-2000:]
    assert scene.processes() == []
    assert scene.locks() == []

    report, rows = result(scene, options)

    assert rows == {"default": chain_rows(1000)}
    assert repeated(scene, *"abc") <= report["lost_in_flight_rows"]
    if report["hit"]:
        # Killed behind its last row, it is served without a lock: a run that writes clears away.
        result(scene, {**options, "run": {"use_cache": False}})
    nothing_is_left(scene)
