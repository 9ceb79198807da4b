"""Whole runs, killed again and again, that still come to the rows of a run that was left alone."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.testing.crash import Scene, Strike

SCRIPT = (Path(__file__).parents[1] / "runtime" / "crash_scene.py").read_text()
ROWS = 3_000
SIZES = ([50, 50, 50, 50], [50, 7, 100, 33], [100, 50, 50, 50], [33, 50, 7, 100])
KILLS_PER_RUN = 10
SHARDS = 5
MOST_LEASES = 64


def one_run(rng: random.Random, folder: Path, kills: int) -> tuple[int, list[float]]:
    """Kill a run at drawn rows until it was killed often enough, then let it end.

    Returns:
        Kills, and how long the workers lived on after each, in seconds.
    """
    scene = Scene(folder, SCRIPT)
    sizes = rng.choice(SIZES)
    options = json.dumps({"rows": ROWS, "sizes": sizes})
    outlived = []
    done = 0
    # Rising rows, so that most blows fall on work that the runs before did not reach.
    for row in sorted(rng.sample(range(ROWS), kills)):
        ended = scene.run(options, strike=Strike(rng.choice("abc"), row, always=True))
        if ended.returncode == 0:
            break  # the row was committed before: nothing is left to be killed in
        assert ended.returncode == -9, ended.errors[-2000:]
        done += 1
        started = time.perf_counter()
        assert scene.processes() == []
        outlived.append(time.perf_counter() - started)
        assert scene.locks() == scene.leftovers() == []
    ended = scene.run(options)
    assert ended.returncode == 0, ended.errors[-2000:]
    told = json.loads((scene.folder / "result.json").read_text())
    expected = [{"x": x, "a": x + 1, "b": x + 1, "c": x + 1} for x in range(ROWS)]
    assert told["rows"] == {"default": expected}
    counts = Counter(x for step in "abc" for x in scene.visits(step))
    repeated = sum(count - 3 for count in counts.values())
    assert repeated <= (done + 1) * 3 * MOST_LEASES * max(sizes)
    assert scene.processes() == []
    assert scene.locks() == scene.leftovers() == []
    return done, outlived


@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_run_killed_ten_times_ends_with_every_row_once_and_in_order(
    faults: Any, tmp_path: Path, shard: int
) -> None:
    wanted = faults.amount(smoke=5, short=10, full=50, soak=10_000) // SHARDS
    kills = 0
    outlived: list[float] = []

    def trial(rng: random.Random) -> None:
        nonlocal kills
        here = tmp_path / f"run{rng.randrange(1 << 30)}"
        done, seconds = one_run(rng, here, min(KILLS_PER_RUN, wanted - kills))
        kills += done
        outlived.extend(seconds)

    faults.until(lambda: kills >= wanted, trial)
    faults.count("end-to-end SIGKILLs", kills)
    faults.count("orphans", 0)
    faults.count("slowest end of an orphan, ms", max(outlived) * 1e3)


DEAF = """
import re, sys
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts, Step, StepInput
from asyncdistil.testing.crash import visit


class Deaf(Step):
    row_wise: bool = True

    def process(self, inputs: StepInput):
        visit("deaf", [row["x"] for row in inputs])
        re.match(r"(a+)+$", "a" * 60 + "b")  # C code that holds the interpreter for years
        yield inputs


with Pipeline(name="deaf", cache_dir="cache") as pipeline:
    LoadDataFromDicts(data=[{"x": x} for x in range(10)]) >> Deaf(name="deaf")
pipeline.run()
"""


def test_no_worker_outlives_its_supervisor_even_in_code_that_never_lets_go(
    faults: Any, tmp_path: Path
) -> None:
    outlived = []
    rounds = faults.amount(smoke=1, short=2, full=5, soak=500)
    for number in range(rounds):
        scene = Scene(tmp_path / str(number), DEAF)
        attempt = scene.start()
        assert attempt.until(lambda scene=scene: scene.visited() > 0), attempt.said()
        attempt.send("SIGKILL")
        attempt.end()
        started = time.perf_counter()
        left = scene.processes()
        outlived.append(time.perf_counter() - started)
        faults.count("orphans", len(left))
        assert left == []
        if faults.spent():
            break
    faults.count("slowest end of an orphan, ms", max(outlived) * 1e3)
