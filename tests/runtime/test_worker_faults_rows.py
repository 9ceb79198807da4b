"""What user code can do to the process it runs in, and that it costs no other row.

Faults of the first kind happen once: the rows are done again and nothing is missing. Those of the
second kind happen whenever a row is met: that row is found, and it alone fails.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.distiset import Distiset
from asyncdistil.errors import RunStopped, WorkerDied
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts, Step, StepInput, StepResources
from asyncdistil.typing import StepOutput

ROWS = 60
BAD = 37


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def segmentation_fault() -> None:
    ctypes.string_at(0)


def exits(status: int) -> Callable[[], None]:
    return lambda: os._exit(status)


def asks_to_exit(status: int) -> Callable[[], None]:
    return lambda: sys.exit(status)


def closes_descriptors() -> None:
    os.closerange(3, 256)


def sleeps() -> None:
    threading.Event().wait(3600)


def loops() -> None:
    while True:
        pass


def holds_the_interpreter() -> None:
    re.match("(a+)+$", "a" * 60 + "b")


def stops() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


FAULTS: dict[str, Callable[[], None]] = {
    "killed": killed,
    "segmentation fault": segmentation_fault,
    "aborts": os.abort,
    "os._exit(0)": exits(0),
    "os._exit(3)": exits(3),
    "sys.exit(0)": asks_to_exit(0),
    "sys.exit(3)": asks_to_exit(3),
    "closes its descriptors": closes_descriptors,
    "sleeps": sleeps,
    "loops": loops,
    "holds the interpreter": holds_the_interpreter,
    "is stopped": stops,
}
_HANGING = {"sleeps", "loops", "holds the interpreter", "is stopped"}
DEATHS = [fault for fault in FAULTS if fault not in _HANGING]
HANGS = [fault for fault in FAULTS if fault not in DEATHS]


class Touchy(Step):
    """Suffers a fault at some rows; the first time only, or each time."""

    fault: str
    rows: list[int] = [BAD]
    once: bool = False

    @property
    def outputs(self) -> list[str]:
        return ["y"]

    def process(self, inputs: StepInput) -> StepOutput:
        for row in inputs:
            if row["x"] in self.rows and not (self.once and self._happened(row["x"])):
                FAULTS[self.fault]()
            row["y"] = row["x"] + 1
        yield inputs

    def _happened(self, row: int) -> bool:
        try:
            Path(f"{os.environ['ASYNCDISTIL_TEST_CALLS']}.{row}").touch(exist_ok=False)
        except FileExistsError:
            return True
        return False


def run(cache: Path, *, batch: int = 20, **options: Any) -> Distiset:
    with Pipeline("faults", cache_dir=cache) as pipeline:
        load = LoadDataFromDicts(name="load", data=[{"x": x} for x in range(ROWS)])
        load >> Touchy(name="touchy", input_batch_size=batch, **options)
    return pipeline.run()


def rows_of(distiset: Distiset) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = distiset.table("default").to_pylist()
    return rows


def without(*bad: int) -> list[dict[str, Any]]:
    return [{"x": x, "y": None if x in bad else x + 1} for x in range(ROWS)]


def failures(distiset: Distiset) -> list[tuple[int, str]]:
    assert distiset.report is not None
    found = distiset.report["steps"]["touchy"]["failures"]
    return [(failure["row"][0], failure["kind"]) for failure in found]


kinds = pytest.mark.parametrize("row_wise", [True, False], ids=["row-wise", "batch-wise"])


@kinds
@pytest.mark.parametrize("fault", DEATHS)
def test_a_worker_that_dies_once_costs_no_row(cache: Path, fault: str, row_wise: bool) -> None:
    distiset = run(cache, fault=fault, once=True, row_wise=row_wise)
    assert rows_of(distiset) == without()
    assert distiset.report is not None
    assert distiset.report["failed_rows"] == 0
    assert distiset.report["steps"]["touchy"]["restarts"] == 1


@pytest.mark.parametrize("fault", HANGS)
def test_a_worker_that_hangs_once_costs_no_row(cache: Path, fault: str) -> None:
    distiset = run(cache, fault=fault, once=True, batch_deadline_seconds=1.0)
    assert rows_of(distiset) == without()
    assert distiset.report is not None
    assert distiset.report["steps"]["touchy"]["restarts"] >= 1


def test_a_worker_that_dies_once_costs_its_siblings_nothing(cache: Path) -> None:
    resources = StepResources(replicas=3)
    distiset = run(
        cache, fault="killed", rows=[5, 30, 50], once=True, row_wise=True, resources=resources
    )
    assert rows_of(distiset) == without()


@kinds
@pytest.mark.parametrize("fault", ["killed", "segmentation fault", "os._exit(0)", "sys.exit(3)"])
def test_a_deadly_row_is_found_and_fails_alone(cache: Path, fault: str, row_wise: bool) -> None:
    distiset = run(cache, fault=fault, row_wise=row_wise)
    assert rows_of(distiset) == without(BAD)
    assert failures(distiset) == [(BAD, "WorkerDied")]


@kinds
def test_two_deadly_rows_of_one_batch_are_found(cache: Path, row_wise: bool) -> None:
    distiset = run(cache, fault="killed", rows=[20, 39], row_wise=row_wise)
    assert rows_of(distiset) == without(20, 39)
    assert failures(distiset) == [(20, "WorkerDied"), (39, "WorkerDied")]


@kinds
def test_deadly_rows_all_over_are_found(cache: Path, row_wise: bool) -> None:
    bad = [5, 25, 26, 45, 59]
    resources = StepResources(replicas=2)
    distiset = run(cache, fault="os._exit(3)", rows=bad, row_wise=row_wise, resources=resources)
    assert rows_of(distiset) == without(*bad)


@kinds
def test_a_row_that_hangs_is_found_and_fails_alone(cache: Path, row_wise: bool) -> None:
    # Each batch that has the row in it takes its deadline: of small ones there are fewer.
    distiset = run(cache, fault="sleeps", batch=2, row_wise=row_wise, batch_deadline_seconds=1.0)
    assert rows_of(distiset) == without(BAD)
    assert failures(distiset) == [(BAD, "WorkerDied")]
    assert distiset.report is not None
    (failure,) = distiset.report["steps"]["touchy"]["failures"]
    assert "because a batch took longer than batch_deadline_seconds=1" in failure["message"]
    assert "memory" not in failure["message"]


@kinds
def test_an_interrupt_raised_by_a_step_is_an_error_like_any_other(
    cache: Path, row_wise: bool
) -> None:
    with Pipeline("faults", cache_dir=cache) as pipeline:
        load = LoadDataFromDicts(name="load", data=[{"x": x} for x in range(ROWS)])
        load >> Interrupting(name="touchy", input_batch_size=20, row_wise=row_wise)
    distiset = pipeline.run()
    assert rows_of(distiset) == without(BAD)
    assert failures(distiset) == [(BAD, "KeyboardInterrupt")]


class Interrupting(Step):
    @property
    def outputs(self) -> list[str]:
        return ["y"]

    def process(self, inputs: StepInput) -> StepOutput:
        for row in inputs:
            if row["x"] == BAD:
                raise KeyboardInterrupt
            row["y"] = row["x"] + 1
        yield inputs


@kinds
def test_a_step_that_dies_of_every_row_stops_the_run_and_can_be_mended(
    cache: Path, row_wise: bool
) -> None:
    with pytest.raises((WorkerDied, RunStopped), match="touchy"):
        run(cache, fault="os._exit(3)", rows=list(range(ROWS)), row_wise=row_wise)
    distiset = run(cache, fault="os._exit(3)", rows=[], row_wise=row_wise)
    assert rows_of(distiset) == without()
    assert distiset.report is not None
    assert distiset.report["steps"]["load"]["rows_replayed"] == ROWS


# --- things that are no fault -----------------------------------------------------------------


class Untidy(Step):
    """Does to its process what a library might do."""

    habit: str

    @property
    def outputs(self) -> list[str]:
        return ["y"]

    def process(self, inputs: StepInput) -> StepOutput:
        HABITS[self.habit]()
        yield [row | {"y": row["x"] + 1} for row in inputs]


def changes_directory() -> None:
    os.chdir("/")


def prints_a_lot() -> None:
    for _ in range(20_000):
        sys.stdout.write("a line that nobody asked for\n")
    sys.stderr.write("x" * 1_000_000)


def leaves_a_grandchild() -> None:
    subprocess.Popen(["sleep", "3600"])


def forks() -> None:
    if os.fork() == 0:
        threading.Event().wait(3600)
        os._exit(0)


def forks_again_and_again() -> None:
    worker = os.getpid()
    for _ in range(5):  # each of them in all of them: 31 more
        os.fork()
    if os.getpid() != worker:
        threading.Event().wait(3600)
        os._exit(0)


def leaves_a_thread() -> None:
    threading.Thread(target=threading.Event().wait, args=(3600,)).start()


def ignores_termination() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def changes_the_mask() -> None:
    os.umask(0o777)


def closes_its_outputs() -> None:
    sys.stdout.close()
    os.closerange(0, 3)


HABITS: dict[str, Callable[[], None]] = {
    "changes directory": changes_directory,
    "prints a lot": prints_a_lot,
    "leaves a grandchild": leaves_a_grandchild,
    "forks": forks,
    "forks again and again": forks_again_and_again,
    "leaves a thread": leaves_a_thread,
    "ignores termination": ignores_termination,
    "changes the mask": changes_the_mask,
    "closes its outputs": closes_its_outputs,
}


@pytest.mark.parametrize("habit", HABITS)
def test_untidy_code_does_no_harm_and_leaves_nothing(cache: Path, habit: str) -> None:
    with Pipeline("untidy", cache_dir=cache) as pipeline:
        load = LoadDataFromDicts(name="load", data=[{"x": x} for x in range(ROWS)])
        load >> Untidy(name="untidy", habit=habit, input_batch_size=20)
    assert rows_of(pipeline.run()) == without()
