"""Every process of a run stopped for longer than its deadlines, as when a laptop is closed.

The processes and their signals are real. How long they slept is not waited for: the clock that the
supervisor asks is set on by as much, so a deadline can be long enough for any machine.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from asyncdistil.testing.crash import Attempt, Scene

PATIENT_SECONDS, SHORT_SECONDS = 300, 2
"""Deadlines of a batch: one that no machine misses while awake, and one that is waited for."""
TURN_SECONDS = 0.6
"""Within which the watchdog looks at least once."""
ROWS = 40

SCRIPT = '''
import json
import os
import sys
import time
from pathlib import Path

from asyncdistil.clock import SystemClock
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts, Step, StepInput
from asyncdistil.testing.crash import visit

FOLDER = Path(os.environ["ASYNCDISTIL_TEST_CALLS"]).parent


def monotonic(_self):
    """The machine's clock, and a second more for each byte of a file."""
    return time.monotonic() + os.stat(FOLDER / "slept").st_size


class Slow(Step):
    """Takes up its batch when it is told to."""

    @property
    def outputs(self) -> list[str]:
        return ["y"]

    def process(self, inputs: StepInput):
        visit(self.name, [row["x"] for row in inputs])
        while not (FOLDER / "go").exists():
            time.sleep(0.005)
        yield [row | {"y": row["x"] + 1} for row in inputs]


if __name__ == "__main__":
    SystemClock.monotonic = monotonic
    deadline = float(sys.argv[1])
    with Pipeline(name="scene", cache_dir="cache") as pipeline:
        load = LoadDataFromDicts(name="load", data=[{"x": x} for x in range(ROWS)])
        load >> Slow(name="slow", input_batch_size=10, batch_deadline_seconds=deadline)
    distiset = pipeline.run()
    rows = distiset.table("default").to_pylist()
    Path("result.json").write_text(json.dumps({"report": distiset.report, "rows": rows}))
'''


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    made = Scene(tmp_path / "scene", f"ROWS = {ROWS}\n" + SCRIPT)
    (made.folder / "slept").touch()
    return made


def family(pid: int) -> list[int]:
    """A process and all that descend from it, the oldest first."""
    found = [pid]
    for each in found:
        for task in Path(f"/proc/{each}/task").glob("*"):
            with suppress(OSError):
                found += map(int, (task / "children").read_text().split())
    return found


def state(pid: int) -> str:
    """Its letter in ``/proc``; ``X`` for one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def stopped(pids: list[int]) -> bool:
    return all(state(pid) in "TZX" for pid in pids)


def sleep_of(
    scene: Scene, attempt: Attempt, *, in_order: Callable[[list[int]], list[int]], seconds: int
) -> None:
    """Stop a whole run; when every process of it is, set its clock on, then wake them."""

    def all_stopped() -> bool:
        # Again and again: a worker may end, or be forked, between the look and the signal.
        for pid in family(attempt.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        # Only of processes that don't move are the children known for sure: so a second look.
        pids = family(attempt.pid)
        return stopped(pids) and family(attempt.pid) == pids

    assert attempt.until(all_stopped)
    assert state(attempt.pid) == "T"
    pids = family(attempt.pid)
    assert len(pids) >= 3  # supervisor, zygote, worker
    os.truncate(scene.folder / "slept", seconds)
    for pid in in_order(pids):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("first", ["supervisor", "workers"])
def test_a_run_that_slept_past_its_deadlines_goes_on_as_if_nothing_were(
    scene: Scene, first: str
) -> None:
    attempt = scene.start(str(PATIENT_SECONDS))
    assert attempt.until(lambda: bool(scene.visits("slow")))
    sleep_of(
        scene,
        attempt,
        in_order=list if first == "supervisor" else lambda pids: pids[::-1],
        seconds=2 * PATIENT_SECONDS,
    )
    ends = time.monotonic() + TURN_SECONDS
    assert attempt.until(lambda: time.monotonic() > ends)
    (scene.folder / "go").touch()
    ended = attempt.end()
    assert ended.returncode == 0, ended.errors[-2000:]
    told = json.loads((scene.folder / "result.json").read_text())
    assert told["rows"] == [{"x": x, "y": x + 1} for x in range(ROWS)]
    assert told["report"]["steps"]["slow"]["restarts"] == 0
    assert told["report"]["failed_rows"] == 0
    assert sorted(scene.visits("slow")) == list(range(ROWS))
    assert scene.processes() == []
    assert scene.leftovers() == []


def test_a_batch_that_hangs_is_found_after_a_sleep_too(scene: Scene) -> None:
    attempt = scene.start(str(SHORT_SECONDS))
    assert attempt.until(lambda: bool(scene.visits("slow")))
    sleep_of(scene, attempt, in_order=list, seconds=2 * PATIENT_SECONDS)
    taken_up = len(scene.visits("slow"))
    assert attempt.until(lambda: len(scene.visits("slow")) > taken_up)
    (scene.folder / "go").touch()
    assert attempt.end().returncode == 0
    told = json.loads((scene.folder / "result.json").read_text())
    assert told["rows"] == [{"x": x, "y": x + 1} for x in range(ROWS)]
    assert scene.processes() == []
