"""Callers that interfere: handlers that raise, displays that break, stops at odd moments."""

import os
import signal
from pathlib import Path

import pytest

from asyncdistil.pipeline import Pipeline
from asyncdistil.pipeline.watch import WATCHER, Watcher
from asyncdistil.steps import LoadDataFromDicts, Step, StepInput
from asyncdistil.supervisor.progress import Progress
from asyncdistil.typing import StepOutput

ROWS = 40


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
