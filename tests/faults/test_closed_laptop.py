"""Every process of a run stopped for longer than its deadlines, as when a laptop is closed."""

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

DEADLINE_SECONDS = 2.0
TURN_SECONDS = 0.6
"""Within which the watchdog looks at least once."""
ROWS = 40

SCRIPT = '''
import json
import os
import time
from pathlib import Path

from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts, Step, StepInput
from asyncdistil.testing.crash import visit

FOLDER = Path(os.environ["ASYNCDISTIL_TEST_CALLS"]).parent


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
    with Pipeline(name="scene", cache_dir="cache") as pipeline:
        load = LoadDataFromDicts(name="load", data=[{"x": x} for x in range(ROWS)])
        load >> Slow(name="slow", input_batch_size=10, batch_deadline_seconds=DEADLINE)
    distiset = pipeline.run()
    rows = distiset.table("default").to_pylist()
    Path("result.json").write_text(json.dumps({"report": distiset.report, "rows": rows}))
'''


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    numbers = f"ROWS, DEADLINE = {ROWS}, {DEADLINE_SECONDS}\n"
    return Scene(tmp_path / "scene", numbers + SCRIPT)


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


def sleep_of(
    attempt: Attempt, *, in_order: Callable[[list[int]], list[int]], seconds: float
) -> None:
    """Stop a whole run; when every process of it is, let time pass, then wake them."""

    def all_stopped() -> bool:
        # Again and again: a worker may end, or be forked, between the look and the signal.
        for pid in family(attempt.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        return all(state(pid) in "TZX" for pid in family(attempt.pid))

    assert attempt.until(all_stopped)
    assert state(attempt.pid) == "T"
    pids = family(attempt.pid)
    assert len(pids) >= 3  # supervisor, zygote, worker
    end = time.monotonic() + seconds
    assert attempt.until(lambda: time.monotonic() > end)
    for pid in in_order(pids):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("first", ["supervisor", "workers"])
def test_a_run_that_slept_past_its_deadlines_goes_on_as_if_nothing_were(
    scene: Scene, first: str
) -> None:
    attempt = scene.start()
    assert attempt.until(lambda: bool(scene.visits("slow")))
    sleep_of(
        attempt,
        in_order=list if first == "supervisor" else lambda pids: pids[::-1],
        seconds=1.5 * DEADLINE_SECONDS,
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
    attempt = scene.start()
    assert attempt.until(lambda: bool(scene.visits("slow")))
    sleep_of(attempt, in_order=list, seconds=TURN_SECONDS)
    taken_up = len(scene.visits("slow"))
    assert attempt.until(lambda: len(scene.visits("slow")) > taken_up)
    (scene.folder / "go").touch()
    assert attempt.end().returncode == 0
    told = json.loads((scene.folder / "result.json").read_text())
    assert told["rows"] == [{"x": x, "y": x + 1} for x in range(ROWS)]
    assert scene.processes() == []
