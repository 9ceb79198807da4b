"""Callers that interfere: handlers that raise, displays that break, stops at odd moments."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from asyncdistil.pipeline import Pipeline
from asyncdistil.pipeline.options import RunOptions
from asyncdistil.pipeline.run import prepare
from asyncdistil.pipeline.session import Session, interrupted
from asyncdistil.pipeline.watch import WATCHER, Watcher
from asyncdistil.steps import LoadDataFromDicts, Step, StepInput
from asyncdistil.supervisor.progress import Progress
from asyncdistil.typing import StepOutput

ROWS = 40


class Alarm(Exception):
    """What a handler of the caller raises."""


class Calling(Step):
    """Sends its caller a signal at one row, and goes on when the gate is there."""

    gate: str
    caller: int
    signature_ignore = {"gate", "caller"}

    def process(self, inputs: StepInput) -> StepOutput:
        if inputs[0]["n"] == ROWS // 2 and not os.path.exists(self.gate):
            os.kill(self.caller, signal.SIGUSR1)
            while not os.path.exists(self.gate):
                os.sched_yield()
        yield inputs


def calling(cache: Path, gate: Path) -> Pipeline:
    with Pipeline("calling", cache_dir=cache) as pipeline:
        load = LoadDataFromDicts(name="load", data=[{"n": n} for n in range(ROWS)], batch_size=2)
        load >> Calling(name="calling", input_batch_size=2, gate=str(gate), caller=os.getpid())
    return pipeline


@pytest.fixture
def raising(tmp_path: Path) -> Iterator[Path]:
    """A gate that is opened by a handler that raises."""
    gate = tmp_path / "gate"

    def handler(_signal: int, _frame: FrameType | None) -> None:
        gate.touch()
        raise Alarm

    before = signal.signal(signal.SIGUSR1, handler)
    yield gate
    signal.signal(signal.SIGUSR1, before)


def test_a_run_ends_before_what_a_handler_of_the_caller_raises_leaves_it(
    cache: Path, raising: Path
) -> None:
    with pytest.raises(Alarm):
        calling(cache, raising).run()
    assert "asyncdistil-supervisor" not in [thread.name for thread in threading.enumerate()]
    found = calling(cache, raising).run()
    assert found.table("default")["n"].to_pylist() == list(range(ROWS))


def test_a_second_keyboard_interrupt_of_a_notebook_does_not_wait_for_workers(
    cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    main, gate = threading.get_ident(), tmp_path / "gate"
    seconds: list[threading.Thread] = []

    def send_again() -> None:
        while "once more to stop at once" not in caplog.text:
            os.sched_yield()
        signal.pthread_kill(main, signal.SIGUSR1)

    def handler(_signal: int, _frame: FrameType | None) -> None:
        if not seconds:
            seconds.append(threading.Thread(target=send_again))
            seconds[0].start()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        # The gate stays closed: a run that waited for its worker would take `DRAIN_SECONDS`.
        with pytest.raises(KeyboardInterrupt, match="Ctrl-C"):
            calling(cache, gate).run()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert "stopping at once" in caplog.text
    seconds[0].join()
    gate.touch()
    assert len(calling(cache, gate).run().table("default")) == ROWS


def test_a_display_that_breaks_ends_the_run_with_its_error(cache: Path, tmp_path: Path) -> None:
    class Breaking(Watcher):
        turns = 0

        def turn(self, progress: Progress) -> None:
            self.turns += 1
            if self.turns > 1:
                raise BrokenPipeError

    (gate := tmp_path / "gate").touch()
    token = WATCHER.set(Breaking())
    try:
        with pytest.raises(BrokenPipeError):
            calling(cache, gate).run()
    finally:
        WATCHER.reset(token)
    assert len(calling(cache, gate).run().table("default")) == ROWS


def test_a_stop_may_be_asked_for_at_any_moment_of_a_run(cache: Path, tmp_path: Path) -> None:
    (gate := tmp_path / "gate").touch()
    session = Session(prepare(calling(cache, gate), RunOptions()))
    refused: list[Exception] = []

    def each_line(_frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            try:
                session.stop_now()
                session.request_stop(interrupted("a test"))
            except Exception as error:
                refused.append(error)
        return each_line

    def each_call(frame: FrameType, _event: str, _argument: Any) -> Any:
        return each_line if frame.f_code is Session._run.__code__ else None

    threading.settrace(each_call)
    try:
        session.start()
        session.ended.wait()
    finally:
        threading.settrace(None)  # type: ignore[arg-type]
    assert refused == []
