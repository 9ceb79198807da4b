"""Wall clocks that are set back, by a year between runs and by a day in the midst of one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.log import StoreReader
from asyncdistil.testing.crash import Scene, Strike

ROWS, SIZE, LATE = 1_500, 10, 1_400
"""A worker has far fewer batches in hand than lie before the late row, so some are committed."""

SCRIPT = '''
import json
import os
import sys
import time
from pathlib import Path

from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts, Step, StepInput
from asyncdistil.testing.crash import visit

def hours():
    """A file by whose bytes the clock is behind, in every process."""
    return Path(os.environ["ASYNCDISTIL_TEST_CALLS"]).with_name("hours back")


def shift_clock():
    time.kept_ns = getattr(time, "kept_ns", time.time_ns)
    time.time_ns = lambda: time.kept_ns() - hours().stat().st_size * 3600 * 10**9
    time.time = lambda: time.time_ns() / 1e9


class Asked(Step):
    """Answers every row with what the environment says."""

    row_wise: bool = True
    memoize: bool = True

    @property
    def inputs(self):
        return ["x"]

    @property
    def outputs(self):
        return ["answer"]

    def load(self):
        super().load()
        shift_clock()

    def process(self, inputs: StepInput):
        numbers = [row["x"] for row in inputs]
        if int(os.environ.get("BACK_AT", -1)) in numbers:
            os.truncate(hours(), 24)
        visit(self.name, numbers)
        for row in inputs:
            row["answer"] = os.environ["ANSWER"]
        yield inputs


def run(name, **options):
    with Pipeline(name=name, cache_dir="cache") as pipeline:
        load = LoadDataFromDicts(data=[{"x": x} for x in range(ROWS)], batch_size=SIZE)
        load >> Asked(name="asked", input_batch_size=SIZE)
    return pipeline.run(**options).table("default").to_pylist()


if __name__ == "__main__":
    shift_clock()
    told = []
    for years, answer, name, options in json.loads(sys.argv[1]):
        if years:
            os.truncate(hours(), years * 365 * 24)
        os.environ["ANSWER"] = answer
        told.append(run(name, **options))
    Path("result.json").write_text(json.dumps(told))
'''


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    made = Scene(tmp_path / "scene", f"ROWS, SIZE = {ROWS}, {SIZE}\n" + SCRIPT)
    (made.folder / "hours back").touch()
    return made


def told_by(scene: Scene, *runs: tuple[int, str, str, dict[str, Any]]) -> list[list[str]]:
    """The answers of some runs, one after another; every row has to be there, in its order."""
    ended = scene.run(json.dumps(runs))
    assert ended.returncode == 0, ended.errors[-2000:]
    told = json.loads((scene.folder / "result.json").read_text())
    assert all([row["x"] for row in rows] == list(range(ROWS)) for rows in told)
    return [[row["answer"] for row in rows] for rows in told]


def test_a_clock_set_back_between_runs_makes_nothing_stale_and_nothing_lost(scene: Scene) -> None:
    """The newest answers are those that were given last, whatever the clock said then."""
    found = told_by(
        scene,
        (0, "first", "scene", {}),
        (1, "second", "scene", {"use_cache": False}),
        (2, "never asked", "scene", {}),
        (3, "never asked", "other", {}),  # from the memo, which all pipelines share
    )
    assert [set(answers) for answers in found] == [{"first"}, {"second"}, {"second"}, {"second"}]
    assert set(Counter(scene.visits("asked")).values()) == {2}
    store = StoreReader.open(scene.cache, "scene")
    assert store is not None
    began = [begin.wall_seconds for begin, _ in store.runs()]
    store.close()
    assert began == sorted(began, reverse=True), "the order of runs is that of the log"


def test_a_clock_set_back_in_a_run_that_is_killed_costs_no_answer(scene: Scene) -> None:
    killed = scene.run(
        json.dumps([(0, "first", "scene", {})]),
        strike=Strike("asked", LATE),
        environment={"BACK_AT": str(LATE // 2)},
    )
    assert killed.returncode == -9, killed.errors[-2000:]
    assert scene.processes() == []
    (answers,) = told_by(scene, (0, "second", "scene", {}))
    visits = Counter(scene.visits("asked"))
    kept = [x for x in range(ROWS) if answers[x] == "first"]
    assert len(kept) > LATE // 4
    assert {visits[x] for x in kept} == {1}
