"""The output stream of an operator, and who reads it how."""

from __future__ import annotations

from typing import Protocol

from asyncdistil.batch import RowId, StepName
from asyncdistil.errors import StepError
from asyncdistil.graph.plan import OnError
from asyncdistil.supervisor.chunk import Chunk, read_by
from asyncdistil.supervisor.ids import START
from asyncdistil.supervisor.state import RunState


class Consumer(Protocol):
    """Whatever reads a stream."""

    def receive(self, port: int, chunk: Chunk) -> None:
        """Take a chunk."""
        ...

    def advance(self, port: int, frontier: RowId) -> None:
        """Learn that nothing below ``frontier`` will come any more."""
        ...


class Outlet:
    """The output stream of an operator, and who reads it how."""

    def __init__(self, step: StepName, state: RunState) -> None:
        self.step = step
        self.frontier: RowId = START
        self.rows = 0
        self._state = state
        self._readers: list[tuple[Consumer, int, OnError]] = []

    def connect(self, consumer: Consumer, port: int, policy: OnError) -> None:
        """Add a reader."""
        self._readers.append((consumer, port, policy))

    def emit(self, chunk: Chunk) -> None:
        """Hand a chunk to every reader, each by its policy towards failed rows."""
        self.rows += chunk.rows
        for consumer, port, policy in self._readers:
            if chunk.failed and policy == "raise":
                self._refuse(chunk)
            for part in read_by(chunk, policy):
                consumer.receive(port, part)

    def _refuse(self, chunk: Chunk) -> None:
        failures = self._state.progress[self.step].first_failures
        cause = f" The first: {failures[0][1].kind}: {failures[0][1].message}." if failures else ""
        self._state.fail(
            StepError(
                f"step {self.step!r} has failed rows and its on_error is 'raise'.{cause} Mend the "
                "cause and run again, or set on_error to 'null' or 'skip'; finished work is kept."
            )
        )

    def advance(self, frontier: RowId) -> None:
        """Tell every reader how far the stream is complete."""
        if frontier != self.frontier:
            self.frontier = frontier
            for consumer, port, _ in self._readers:
                consumer.advance(port, frontier)
