"""Errors that only a fault of the supervising code, or a caller's log handler, can raise."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncdistil.errors import RunStopped
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts, Step, StepInput
from asyncdistil.supervisor.machine import Machine
from asyncdistil.transport import AsyncChannel
from asyncdistil.typing import StepOutput

ROWS = 40


class Plus(Step):
    def process(self, inputs: StepInput) -> StepOutput:
        yield [row | {"sum": row["n"] + 1} for row in inputs]


class Hanging(Step):
    """Stays in its first row for ever, unless a file is there."""

    gate: str
    signature_ignore = {"gate"}

    def process(self, inputs: StepInput) -> StepOutput:
        while not Path(self.gate).exists():
            pass
        yield inputs


class Talking(Step):
    """Prints a line that has no end, and dies unless a file is there."""

    gate: str
    signature_ignore = {"gate"}

    def process(self, inputs: StepInput) -> StepOutput:
        if not Path(self.gate).exists():
            os.write(1, b"last words")
            os._exit(3)
        yield inputs


def plus(cache: Path) -> Pipeline:
    with Pipeline("plus", cache_dir=cache) as pipeline:
        load = LoadDataFromDicts(name="load", data=[{"n": n} for n in range(ROWS)], batch_size=2)
        load >> Plus(name="plus", input_batch_size=2)
    return pipeline


@pytest.fixture
def deaf_handler(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """A handler of the caller that raises on lines that have any of these words."""
    words: list[str] = []

    class Deaf(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if any(word in record.getMessage() for word in words):
                raise BrokenPipeError("the reader of this log is gone")

    caplog.set_level(logging.INFO, "asyncdistil")
    handler, logger = Deaf(), logging.getLogger("asyncdistil")
    logger.addHandler(handler)
    yield words
    logger.removeHandler(handler)


def one_row(cache: Path, step: type[Step], gate: Path, **options: float) -> Pipeline:
    with Pipeline("one-row", cache_dir=cache) as pipeline:
        load = LoadDataFromDicts(name="load", data=[{"n": 0}])
        load >> step(name="one", gate=str(gate), **options)
    return pipeline


@pytest.mark.parametrize(
    ("where", "what"), [(Machine, "durable"), (AsyncChannel, "_readable"), (Machine, "turn")]
)
def test_a_fault_of_our_own_ends_the_run_and_it_can_be_taken_up(
    cache: Path, monkeypatch: pytest.MonkeyPatch, where: type, what: str
) -> None:
    def faulty(*_: object) -> None:
        raise KeyError("a fault")

    with monkeypatch.context() as patched:
        patched.setattr(where, what, faulty)
        with pytest.raises(RunStopped, match="KeyError: 'a fault'") as stopped:
            plus(cache).run()
        assert isinstance(stopped.value.__cause__, KeyError)
    found = plus(cache).run()
    assert found.report["resumed"]
    assert found.table("default")["sum"].to_pylist() == list(range(1, ROWS + 1))


class Farewell(Step):
    """Speaks when it is told to end, which it does not do by itself."""

    def process(self, inputs: StepInput) -> StepOutput:
        yield inputs

    def unload(self) -> None:
        try:
            signal.pause()
        finally:
            os.write(1, b"farewell\n")


def test_a_log_handler_that_raises_as_a_run_ends_takes_nothing_from_it(
    cache: Path, deaf_handler: list[str]
) -> None:
    deaf_handler.append("farewell")
    with Pipeline("farewell", cache_dir=cache) as pipeline:
        load = LoadDataFromDicts(name="load", data=[{"n": 0}])
        load >> Farewell(name="last")
    assert pipeline.run().table("default")["n"].to_pylist() == [0]


@pytest.mark.parametrize(
    ("step", "words", "options"),
    [(Hanging, "takes longer than", {"batch_deadline_seconds": 0.1}), (Talking, "last words", {})],
)
def test_a_log_handler_that_raises_ends_the_run_in_the_midst_of_a_workers_end(
    cache: Path,
    tmp_path: Path,
    deaf_handler: list[str],
    step: type[Step],
    words: str,
    options: dict[str, float],
) -> None:
    deaf_handler.append(words)
    gate = tmp_path / "gate"
    with pytest.raises(RunStopped, match="BrokenPipeError"):
        one_row(cache, step, gate, **options).run()
    gate.touch()
    assert one_row(cache, step, gate, **options).run().table("default")["n"].to_pylist() == [0]
