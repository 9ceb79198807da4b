"""The state machine of a run: events in, commands out.

It owns no clock, no socket and no file. The shell tells it what happened (`messages`, `lost`,
`durable`, `request_stop`), calls `turn`, appends `RunState.events` to the log and then acts on
`RunState.commands`, in that order: what a command hands out must be in the log first.
"""

from __future__ import annotations

from collections.abc import Sequence

from asyncdistil.batch import Digest, RunId, StepName
from asyncdistil.errors import (
    AsyncDistilError,
    BatchesPending,
    CorruptRecord,
    MemoryRefused,
    ModelAuthError,
    ModelError,
    ModelNotFound,
    ModelOutage,
    ModelRateLimited,
    RunStopped,
    SignatureMismatch,
    StorageError,
    UserError,
    WorkerLoadFailed,
)
from asyncdistil.graph.plan import RunPlan
from asyncdistil.supervisor.build import Builder, Stored
from asyncdistil.supervisor.commands import WorkerId
from asyncdistil.supervisor.effects import EffectOperator
from asyncdistil.supervisor.leaf import LeafOperator
from asyncdistil.supervisor.operator import Operator, StepOperator
from asyncdistil.supervisor.reuse import DigestReader
from asyncdistil.supervisor.router import RouterOperator
from asyncdistil.supervisor.source import SourceOperator
from asyncdistil.supervisor.state import RunState
from asyncdistil.transport.messages import (
    Claim,
    Diverged,
    Exhausted,
    Exported,
    Failed,
    Fatal,
    FromWorker,
    GeneratorFailed,
    Loaded,
    LoadFailed,
    PermitRequest,
    Result,
    Routed,
    Survived,
    Yielded,
)

_BACKLOG_BYTES = 512 * 1024 * 1024
BACKLOG_CHUNKS = 8192
"""Chunks that may wait before generators pause; each takes under a kilobyte of memory here."""
_FATAL: dict[str, type[AsyncDistilError]] = {
    cls.__name__: cls
    for cls in (
        BatchesPending,
        CorruptRecord,
        MemoryRefused,
        ModelAuthError,
        ModelError,
        ModelNotFound,
        ModelOutage,
        ModelRateLimited,
        StorageError,
    )
}


class GeneratorDiverged(Exception):
    """A restarted generator repeated other rows: its stored rows must be left out."""

    def __init__(self, step: StepName, row: int) -> None:
        super().__init__(f"generator {step!r} differs from its stored rows at row {row}")
        self.step = step
        self.row = row


class Machine:
    """One run.

    Args:
        plan: What runs.
        run: Its id.
        stored: What the log remembers.
        reader: Content digests of stored rows.
        key: Complete-hit key, for the EMIT records.
        discard: Generators whose stored rows must not be used.
        publish: Whether leaf rows are published as they become durable.
        backlog_chunks: Chunks that may wait before generators pause.

    Raises:
        GraphError: Joined ports have no common row identity.
    """

    def __init__(
        self,
        plan: RunPlan,
        run: RunId,
        stored: Stored,
        reader: DigestReader,
        *,
        key: Digest,
        discard: frozenset[StepName] = frozenset(),
        publish: bool = False,
        backlog_chunks: int = BACKLOG_CHUNKS,
    ) -> None:
        self.plan = plan
        self.state = RunState(plan, run)
        self._backlog_chunks = backlog_chunks
        built = Builder(self.state, stored, reader, discard)
        built.build(key, publish=publish)
        self.leaves = built.leaves
        self._order = built.order
        self._operators = built.named
        self._owner: dict[WorkerId, Operator] = {}
        self._stages = sorted({step.stage for step in plan.steps})
        self._open_stage()

    def start_early(self) -> None:
        """Spawn the workers of steps that will certainly have work, before it is there."""
        for operator in self._order:
            if isinstance(operator, LeafOperator):
                operator.crew.ensure(1)
            elif isinstance(operator, SourceOperator):
                continue  # its first sweep does it
            elif isinstance(operator, StepOperator) and operator.active and not operator.stored:
                operator.crew.ensure(operator.plan.replicas)

    # --- events ------------------------------------------------------------------------------

    def messages(
        self, worker: WorkerId, messages: Sequence[FromWorker], now_seconds: float
    ) -> None:
        """Take what a worker sent."""
        self.state.at(now_seconds)
        operator = self._owner_of(worker)
        for message in messages:
            if isinstance(operator, StepOperator):
                self._to_step(operator, worker, message)
            elif isinstance(operator, SourceOperator):
                self._to_source(operator, worker, message)
            elif isinstance(operator, LeafOperator) and isinstance(message, Exported):
                operator.on_exported(message)
            self._to_any(operator, worker, message)

    def _to_step(self, operator: StepOperator, worker: WorkerId, message: FromWorker) -> None:
        match message:
            case Result():
                operator.on_result(worker, message)
            case Failed():
                operator.on_failed(worker, message)
            case Survived():
                operator.on_survived(worker, message)
            case Routed() if isinstance(operator, RouterOperator):
                operator.on_routed(worker, message)

    def _to_source(self, operator: SourceOperator, worker: WorkerId, message: FromWorker) -> None:
        match message:
            case Yielded():
                operator.on_yielded(worker, message)
            case Exhausted():
                operator.on_exhausted()
            case GeneratorFailed():
                operator.on_generator_failed(message)
            case Diverged():
                raise GeneratorDiverged(operator.name, message.row)

    def _to_any(self, operator: Operator, worker: WorkerId, message: FromWorker) -> None:
        match message:
            case Claim():
                self.state.send(worker, self.state.claims.answer(message))
            case PermitRequest():
                now = self.state.now_seconds
                self.state.send(worker, self.state.governors.answer(worker, message, now))
            case Loaded():
                member = operator.crew.members.get(worker)
                if member is not None:
                    member.ready = True
                    operator.on_ready(member)
            case LoadFailed(failure=failure):
                member = operator.crew.members.get(worker)
                if member is not None:
                    member.finishing = True
                signed = failure.kind == SignatureMismatch.__name__
                kind = SignatureMismatch if signed else WorkerLoadFailed
                self.state.fail(
                    kind(
                        f"step {operator.name!r} could not be loaded: {failure.kind}: "
                        f"{failure.message}. Mend it and run again; finished work is kept.\n"
                        f"{failure.detail}".rstrip()
                    )
                )
            case Fatal(kind=kind_name, message=text):
                self.state.fail(
                    _FATAL.get(kind_name, RunStopped)(f"step {operator.name!r}: {text}")
                )
                if isinstance(operator, StepOperator):
                    operator.on_fatal(worker)

    def lost(self, worker: WorkerId, cause: str) -> None:
        """Take the news that a worker is gone; everything it sent has been given before."""
        operator = self._owner_of(worker)
        self._owner.pop(worker, None)
        self.state.governors.forget(worker)
        if worker in operator.crew.members:
            for job in operator.crew.members[worker].jobs:
                self.state.claims.release(job)
            # Also when stopping: rows that nobody covered must stay open, or the step would end.
            operator.on_lost(worker, cause)

    def durable(self, ticket: int) -> None:
        """Take the news that every append up to ``ticket`` is durable."""
        for operator in self._order:
            if isinstance(operator, LeafOperator | EffectOperator):
                operator.durable(ticket)

    def request_stop(self, reason: AsyncDistilError) -> None:
        """Stop intake; work in hand is finished."""
        self.state.fail(reason)
        self.state.draining = True

    def _owner_of(self, worker: WorkerId) -> Operator:
        owner = self._owner.get(worker)
        if owner is None:
            for operator in self._order:
                if worker in operator.crew.members:
                    owner = self._owner[worker] = operator
                    break
            else:
                raise KeyError(f"worker {worker} belongs to no step")
        return owner

    # --- the turn ----------------------------------------------------------------------------

    def turn(self, now_seconds: float) -> None:
        """Move everything that can move; fills ``state.events`` and ``state.commands``."""
        self.state.at(now_seconds)
        self._hold_sources()
        try:
            for operator in self._order:
                if operator.dirty:
                    operator.sweep()
        except UserError as error:
            self.state.fail(error)
        if self._stage_done():
            self._open_stage()

    def _hold_sources(self) -> None:
        """Pause generators that run far ahead of the steps, but never while a step starves."""
        sources = [op for op in self._order if isinstance(op, SourceOperator) and not op.done]
        if not sources:
            return
        steps = [op for op in self._order if isinstance(op, StepOperator)]
        # What waits above a step will reach it; only one with nothing above it needs the source.
        supplied: set[StepName] = set()
        for op in steps:
            if op.backlog or any(up.name in supplied for up in op.upstreams):
                supplied.add(op.name)
        hungry = any(op.starving and op.name not in supplied for op in steps)
        full = (
            sum(len(op.backlog) for op in steps) > self._backlog_chunks
            or sum(op.backlog.size_bytes for op in steps) > _BACKLOG_BYTES
        )
        hold = full and not hungry
        for source in sources:
            if source.hold and not hold:
                source.dirty = True
            source.hold = hold

    def _stage_done(self) -> bool:
        return bool(self._stages) and all(
            self._operators[step.name].done
            for step in self.plan.steps
            if step.stage < self._stages[0]
        )

    def _open_stage(self) -> None:
        """Let the steps of the next load group start; those of later ones wait."""
        current = self._stages.pop(0) if self._stages else 0
        for step in self.plan.steps:
            operator = self._operators[step.name]
            operator.active = step.stage <= current
            operator.dirty = True

    def count_waiting(self) -> None:
        """Note in the counters how many rows wait; for showing, so now and then is enough."""
        for operator in self._order:
            if isinstance(operator, StepOperator):
                self.state.progress[operator.name].waiting = operator.waiting_rows

    @property
    def operators(self) -> tuple[Operator, ...]:
        """Every node, in topological order."""
        return tuple(self._order)

    def name_of(self, worker: WorkerId) -> StepName:
        """Name of the operator that a worker belongs to."""
        return self._owner_of(worker).name

    def lineage_of(self, name: StepName) -> Digest:
        """Lineage whose segments a worker of this operator writes."""
        operator = self._operators[name]
        if isinstance(operator, StepOperator | SourceOperator):
            return operator.plan.computes
        return Digest(bytes(16))

    @property
    def finished(self) -> bool:
        """Whether every step and export has ended."""
        return all(operator.done for operator in self._order)

    @property
    def drained(self) -> bool:
        """Whether no worker holds anything that is worth waiting for in a run that is to end."""
        return not any(
            member.rows and not self.state.governors.waits_in_vain(member.number)
            for operator in self._order
            if isinstance(operator, StepOperator)
            for member in operator.crew.members.values()
        )

    @property
    def idle(self) -> bool:
        """Whether no worker holds anything."""
        return not any(
            operator.crew.in_flight()
            for operator in self._order
            if isinstance(operator, StepOperator)
        )

    def in_flight(self) -> list[int]:
        """Most input rows that workers hold, or held and gave back, per step of the plan."""
        rows = []
        for step in self.plan.steps:
            operator = self._operators[step.name]
            held = operator.unsettled_rows if isinstance(operator, StepOperator) else 0
            # The ports of a global step are lists of their own, of which the longest is counted.
            rows.append(held * len(step.edges) if step.kind == "global" else held)
        return rows

    @property
    def failed_rows(self) -> int:
        """Rows that failed anywhere in the run."""
        return sum(counters.failed for counters in self.state.progress.values())
