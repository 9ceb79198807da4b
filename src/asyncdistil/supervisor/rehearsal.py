"""What a run would take from the log, found out by a machine that hands nothing out.

The machine that runs a pipeline is asked what it would do: it matches everything stored against
everything that arrives, exactly as in a run, and what it can't replay stays where it waits. No
process is started, nothing is appended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from asyncdistil.batch import Digest, Lsn, RowId, RowSlice, RunId, SegmentId, StepName
from asyncdistil.codec import EncodedRows, content_digest
from asyncdistil.graph.plan import RunPlan
from asyncdistil.log.events import Commit, Reuse
from asyncdistil.supervisor.build import Stored
from asyncdistil.supervisor.chunk import Chunk
from asyncdistil.supervisor.claims import Claims
from asyncdistil.supervisor.ids import START
from asyncdistil.supervisor.machine import Machine
from asyncdistil.supervisor.operator import NO_DIGEST, StepOperator
from asyncdistil.supervisor.reuse import DigestReader
from asyncdistil.supervisor.router import RouterOperator

UNWRITTEN = SegmentId(0)
"""Segment of rows that were encoded to be compared and lie in no file; real ones count from 1."""

_DIGEST_BYTES = 16


class NothingStored:
    """What a pipeline that never ran has in the log."""

    def commits(self, lineage: Digest) -> Sequence[tuple[Lsn, Commit]]:
        """No commit."""
        return ()

    def routes(self, lineage: Digest) -> dict[Digest, tuple[StepName, ...]]:
        """No decision."""
        return {}

    def step_def(self, lineage: Digest) -> bytes | None:
        """No definition."""
        return None

    def step_done(self, lineage: Digest, data_identity: Digest) -> tuple[Lsn, RunId] | None:
        """Never."""
        return None


class Foreseen:
    """What the log remembers, and the rows of generators that are known before they ran.

    Args:
        stored: What the log remembers.
        generated: Commits that generators would write, by lineage; they are complete.
    """

    def __init__(self, stored: Stored, generated: Mapping[Digest, Sequence[Commit]]) -> None:
        self._stored = stored
        self._generated = generated

    def commits(self, lineage: Digest) -> Sequence[tuple[Lsn, Commit]]:
        """Stored commits, those to come last."""
        stored = self._stored.commits(lineage)
        coming = self._generated.get(lineage)
        if not coming:
            return stored
        first = stored[-1][0] + 1 if stored else 1
        return [*stored, *((Lsn(first + at), commit) for at, commit in enumerate(coming))]

    def routes(self, lineage: Digest) -> dict[Digest, tuple[StepName, ...]]:
        """Stored decisions."""
        return self._stored.routes(lineage)

    def step_def(self, lineage: Digest) -> bytes | None:
        """Stored definition."""
        return self._stored.step_def(lineage)

    def step_done(self, lineage: Digest, data_identity: Digest) -> tuple[Lsn, RunId] | None:
        """A generator whose rows are known is complete, in the run that is foreseen."""
        coming = self._generated.get(lineage)
        if coming:
            return Lsn(1), coming[0].run
        return self._stored.step_done(lineage, data_identity)


class DigestsAtHand:
    """Digests of stored rows, and of rows that lie in no file.

    Args:
        stored: Reader of the store, or ``None`` if there is none.
        unwritten: Rows by the offset of their reference in segment `UNWRITTEN`.
    """

    def __init__(self, stored: DigestReader | None, unwritten: Mapping[int, EncodedRows]) -> None:
        self._stored = stored
        self._unwritten = unwritten

    def row_digests(self, part: RowSlice) -> bytes:
        """16 bytes per row of the slice."""
        if part.ref.segment == UNWRITTEN:
            digests = self._unwritten[part.ref.offset].digests
            return digests[part.start * _DIGEST_BYTES : part.stop * _DIGEST_BYTES]
        assert self._stored is not None, "only a store has references to segments"
        return self._stored.row_digests(part)

    def digest(self, slices: Sequence[RowSlice]) -> Digest:
        """Content digest of concatenated slices."""
        if len(slices) == 1 and slices[0].whole:
            return slices[0].ref.digest
        return content_digest(b"".join(self.row_digests(part) for part in slices))


class Recorder:
    """Reads the output of an operator and keeps it.

    Attributes:
        chunks: What came, in the order in which it came.
        frontier: Nothing below it will come any more.
    """

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.frontier: RowId = START

    def receive(self, port: int, chunk: Chunk) -> None:
        """Keep a chunk."""
        self.chunks.append(chunk)

    def advance(self, port: int, frontier: RowId) -> None:
        """Remember the frontier."""
        self.frontier = frontier

    def in_order(self) -> list[Chunk]:
        """Everything that came, in source order."""
        return sorted(self.chunks, key=lambda chunk: chunk.key)


class Rehearsal:
    """A run as far as the log carries it.

    Args:
        plan: What would run.
        run: Id that the run would have.
        stored: What the log remembers.
        reader: Content digests of stored rows.

    Raises:
        GraphError: Joined ports have no common row identity.
    """

    def __init__(self, plan: RunPlan, run: RunId, stored: Stored, reader: DigestReader) -> None:
        self.plan = plan
        machine = Machine(plan, run, stored, reader, key=NO_DIGEST)
        # A draining machine replays and hands nothing out.
        machine.state.draining = True
        self._machine = machine
        self._operators = {operator.name: operator for operator in machine.operators}
        self._outputs = {step.name: Recorder() for step in plan.steps}
        self._routed = {router.source for router in plan.routers}
        for name, recorder in self._outputs.items():
            self._operators[name].outlet.connect(recorder, 0, "null")
        while any(operator.dirty for operator in machine.operators):
            machine.turn(0.0)
        for step in plan.steps:
            machine.state.flush_replayed(step.lineage)

    @property
    def refusal(self) -> str:
        """Why the run would stop where it stands, or empty."""
        return "" if self._machine.state.stop is None else str(self._machine.state.stop)

    @property
    def claims(self) -> Claims:
        """Samples that replayed work has taken."""
        return self._machine.state.claims

    def output(self, step: StepName) -> Recorder:
        """Rows of a step that are stored and that the run would use."""
        return self._outputs[step]

    def inputs_replayed(self, step: StepName) -> int:
        """Input rows of a step that stored work stands for."""
        return self._machine.state.progress[step].inputs_replayed

    def used(self, lineage: Digest) -> set[Lsn]:
        """Commits of a lineage that stand for something."""
        return {
            lsn
            for event in self._machine.state.events
            if isinstance(event, Reuse) and event.lineage == lineage
            for lsn in event.commits
        }

    def failed(self, step: StepName) -> int:
        """Failed rows among those that stored work stands for."""
        return self._machine.state.progress[step].failed

    def rows_replayed(self, step: StepName) -> int:
        """Output rows of a step that are stored."""
        return sum(chunk.rows for chunk in self._outputs[step].chunks)

    def missing(self, step: StepName) -> list[Chunk]:
        """What certainly waits for a worker of a step; for batch-wise steps, call by call."""
        operator = self._operators[step]
        return list(operator.missing) if isinstance(operator, StepOperator) else []

    def stored(self, step: StepName) -> bool:
        """Whether the log holds anything that might stand for work of a step."""
        operator = self._operators[step]
        return isinstance(operator, StepOperator) and operator.stored

    def ended(self, step: StepName) -> bool:
        """Whether all of a step's output is stored."""
        return self._operators[step].done

    def to_route(self, step: StepName) -> int:
        """Rows of a step that wait for a decision of its router."""
        return sum(
            chunk.rows
            for operator in self._routers()
            if operator.router.source == step
            for chunk in operator.missing
        )

    def routed(self, step: StepName) -> bool:
        """Whether a router stands behind a step."""
        return step in self._routed

    def _routers(self) -> Iterator[RouterOperator]:
        for operator in self._operators.values():
            if isinstance(operator, RouterOperator):
                yield operator
