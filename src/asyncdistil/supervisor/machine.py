"""The state machine of a run: events in, commands out.

It owns no clock, no socket and no file. The shell tells it what happened (`messages`, `lost`,
`durable`, `request_stop`), calls `turn`, appends `RunState.events` to the log and then acts on
`RunState.commands`, in that order: what a command hands out must be in the log first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from asyncdistil.batch import Digest, Lsn, RunId, StepName
from asyncdistil.errors import (
    AsyncDistilError,
    GraphError,
    MemoryRefused,
    ModelAuthError,
    ModelError,
    ModelRateLimited,
    RunStopped,
    SignatureMismatch,
    StorageError,
    UserError,
    WorkerLoadFailed,
)
from asyncdistil.graph.plan import RunPlan, StepPlan
from asyncdistil.log.events import Commit, StepDef
from asyncdistil.supervisor.commands import WorkerId
from asyncdistil.supervisor.front import Aligned, Barrier, Converging, Direct, Front, Ordered
from asyncdistil.supervisor.leaf import LeafOperator
from asyncdistil.supervisor.operator import Memory, Operator, StepOperator
from asyncdistil.supervisor.progress import StepProgress
from asyncdistil.supervisor.reuse import BatchMemory, DigestReader, RowMemory, generator_chain
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
    Result,
    Routed,
    Survived,
    Yielded,
)

_BACKLOG_BYTES = 512 * 1024 * 1024
_FATAL: dict[str, type[AsyncDistilError]] = {
    cls.__name__: cls
    for cls in (MemoryRefused, ModelAuthError, ModelRateLimited, ModelError, StorageError)
}


class Stored(Protocol):
    """What the log remembers, as far as the machine asks."""

    def commits(self, lineage: Digest) -> Sequence[tuple[Lsn, Commit]]:
        """Commits of a lineage, ascending by LSN."""
        ...

    def routes(self, lineage: Digest) -> dict[Digest, tuple[StepName, ...]]:
        """Routing decisions of a lineage by batch content."""
        ...

    def step_def(self, lineage: Digest) -> bytes | None:
        """Stored preimage of a lineage."""
        ...

    def step_done(self, lineage: Digest, data_identity: Digest) -> tuple[Lsn, RunId] | None:
        """Newest record that a step completed."""
        ...


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
        next_lsn: LSN of the next appended event.
        key: Complete-hit key, for the EMIT records.
        discard: Generators whose stored rows must not be used.
        publish: Whether leaf rows are published as they become durable.

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
        next_lsn: Lsn,
        key: Digest,
        discard: frozenset[StepName] = frozenset(),
        publish: bool = False,
    ) -> None:
        self.plan = plan
        self.state = RunState(plan, run, next_lsn)
        self._stored = stored
        self._reader = reader
        self._discard = discard
        self._operators: dict[StepName, Operator] = {}
        self._order: list[Operator] = []
        self._routers: dict[StepName, RouterOperator] = {}
        self.leaves: list[LeafOperator] = []
        self._owner: dict[WorkerId, Operator] = {}
        self._stages = sorted({step.stage for step in plan.steps})
        self._build(key, publish)
        self._open_stage()

    # --- building ----------------------------------------------------------------------------

    def _build(self, key: Digest, publish: bool) -> None:
        routers = {router.source: router for router in self.plan.routers}
        for step in self.plan.steps:
            if self._stored.step_def(step.lineage) is None:
                self.state.append(StepDef(step.lineage, step.name, step.definition))
            self.state.progress[step.name] = StepProgress()
            operator = self._operator(step)
            self._add(operator)
            if step.name in routers:
                router = routers[step.name]
                if self._stored.step_def(router.lineage) is None:
                    self.state.append(StepDef(router.lineage, step.name, router.definition))
                routes = self._stored.routes(router.lineage) if router.reuse == "any" else {}
                node = RouterOperator(router, step, self.state, routes, self._reader, operator)
                self.state.progress[node.name] = StepProgress()
                operator.outlet.connect(node, 0, "null")
                self._routers[step.name] = node
                self._add(node)
        policies = zip(self.plan.leaves, self.plan.leaf_policies, strict=True)
        for leaf, policy in policies:
            config = "default" if len(self.plan.leaves) == 1 else leaf
            export = LeafOperator(leaf, config, key, self.state, publish=publish)
            self.state.progress[export.name] = StepProgress()
            self._operators[leaf].outlet.connect(export, 0, policy)
            self.leaves.append(export)
            self._add(export)

    def _add(self, operator: Operator) -> None:
        self._operators[operator.name] = operator
        self._order.append(operator)

    def _operator(self, step: StepPlan) -> Operator:
        commits = self._commits(step)
        if step.kind == "generator":
            return self._source(step, commits)
        upstreams = tuple(self._operators[edge.upstream] for edge in step.edges)
        front = self._front(step, upstreams)
        operator = StepOperator(step, self.state, front, self._memory(step, commits), upstreams)
        for port, edge in enumerate(step.edges):
            if edge.routed:
                router = self._routers[edge.upstream]
                router.branches.connect_branch(step.name, operator, port, edge.on_error)
            else:
                self._operators[edge.upstream].outlet.connect(operator, port, edge.on_error)
        if isinstance(front, Converging) and step.converges is not None:
            self._routers[step.converges].converge(operator, front)
        return operator

    def _commits(self, step: StepPlan) -> Sequence[tuple[Lsn, Commit]]:
        commits = self._stored.commits(step.lineage)
        if step.reuse == "own_run":
            commits = [(lsn, commit) for lsn, commit in commits if commit.run == self.state.run]
        for _, commit in commits if commits else ():
            if commit.samples:
                self.state.claims.take(commit.samples)
        return commits

    def _source(self, step: StepPlan, commits: Sequence[tuple[Lsn, Commit]]) -> SourceOperator:
        if step.data_identity is None or step.name in self._discard:
            return SourceOperator(step, self.state, (), complete=False)
        chain = generator_chain(commits, step.data_identity)
        done = self._stored.step_done(step.lineage, step.data_identity)
        complete = done is not None and (step.reuse == "any" or done[1] == self.state.run)
        return SourceOperator(step, self.state, chain, complete=complete)

    def _memory(self, step: StepPlan, commits: Sequence[tuple[Lsn, Commit]]) -> Memory | None:
        if not commits:
            return None
        retry = self.plan.retry_failed
        if step.kind == "row":
            share = step.concurrency == 0
            return RowMemory(commits, self._reader, share=share, retry_failed=retry)
        return BatchMemory(commits, self._reader, retry_failed=retry)

    def _front(self, step: StepPlan, upstreams: tuple[Operator, ...]) -> Front:
        names = tuple(edge.upstream for edge in step.edges)
        if step.kind == "global":
            return Barrier(len(names))
        if step.converges is not None:
            return Converging(step.name, names, step.input_batch_size)
        if len(names) > 1:
            spaces = tuple(upstream.space for upstream in upstreams)
            if len(set(spaces)) > 1 and not step.by_position:
                pairs = ", ".join(
                    f"{name!r} (rows numbered by {space!r})"
                    for name, space in zip(names, spaces, strict=True)
                )
                raise GraphError(
                    f"step {step.name!r} joins rows that have no common identity: {pairs}. Set "
                    f"align='position' on {step.name!r} if row i of each belongs together."
                )
            return Aligned(
                step.name,
                names,
                step.input_batch_size,
                lambda: tuple(upstream.space for upstream in upstreams),
                inner=step.inner_join,
                by_position=step.by_position,
            )
        return Direct() if step.kind == "row" else Ordered(step.input_batch_size)

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

    def messages(self, worker: WorkerId, messages: Sequence[FromWorker]) -> None:
        """Take what a worker sent."""
        operator = self._owner_of(worker)
        for message in messages:
            if isinstance(operator, StepOperator):
                self._to_step(operator, worker, message)
            elif isinstance(operator, SourceOperator):
                self._to_source(operator, message)
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
            case Claim():
                self.state.send(worker, self.state.claims.answer(message))

    def _to_source(self, operator: SourceOperator, message: FromWorker) -> None:
        match message:
            case Yielded():
                operator.on_yielded(message)
            case Exhausted():
                operator.on_exhausted()
            case GeneratorFailed():
                operator.on_generator_failed(message)
            case Diverged():
                raise GeneratorDiverged(operator.name, message.row)

    def _to_any(self, operator: Operator, worker: WorkerId, message: FromWorker) -> None:
        match message:
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

    def lost(self, worker: WorkerId, cause: str) -> None:
        """Take the news that a worker is gone; everything it sent has been given before."""
        operator = self._owner_of(worker)
        self._owner.pop(worker, None)
        if worker in operator.crew.members:
            for job in operator.crew.members[worker].jobs:
                self.state.claims.release(job)
            if self.state.stop is None:
                operator.on_lost(worker, cause)
            else:
                operator.crew.members.pop(worker)

    def durable(self, lsn: Lsn) -> None:
        """Take the news that everything up to ``lsn`` is durable."""
        for leaf in self.leaves:
            leaf.durable(lsn)

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
        self.state.now_seconds = now_seconds
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
        hungry = not steps or any(op.starving for op in steps)
        hold = not hungry and sum(op.backlog_bytes for op in steps) > _BACKLOG_BYTES
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

    @property
    def operators(self) -> tuple[Operator, ...]:
        """Every node, in topological order."""
        return tuple(self._order)

    def lineage_of(self, name: StepName) -> Digest:
        """Lineage whose segments a worker of this operator writes."""
        operator = self._operators[name]
        if isinstance(operator, StepOperator | SourceOperator):
            return operator.plan.lineage
        return Digest(bytes(16))

    @property
    def finished(self) -> bool:
        """Whether every step and export has ended."""
        return all(operator.done for operator in self._order)

    @property
    def idle(self) -> bool:
        """Whether no worker holds anything, so that a draining run may end."""
        return not any(
            operator.crew.in_flight()
            for operator in self._order
            if isinstance(operator, StepOperator)
        )

    @property
    def failed_rows(self) -> int:
        """Rows that failed anywhere in the run."""
        return sum(counters.failed for counters in self.state.progress.values())
