"""The operator of a routing function: it decides, batch by batch, who reads on."""

from __future__ import annotations

from asyncdistil.batch import Digest, RowId, StepName
from asyncdistil.errors import StepError
from asyncdistil.graph.plan import OnError, RouterPlan, StepPlan
from asyncdistil.log.events import Route
from asyncdistil.supervisor.chunk import Chunk, read_by
from asyncdistil.supervisor.commands import WorkerId
from asyncdistil.supervisor.crew import Crew, Job
from asyncdistil.supervisor.front import Converging, Ordered
from asyncdistil.supervisor.ids import START
from asyncdistil.supervisor.operator import Operator, StepOperator
from asyncdistil.supervisor.outlet import Consumer, Outlet
from asyncdistil.supervisor.reuse import DigestReader
from asyncdistil.supervisor.state import RunState
from asyncdistil.transport.messages import Failed, Result, Routed, Survived


class _Branches(Outlet):
    """An outlet whose chunks go to chosen readers only."""

    def __init__(self, step: StepName, state: RunState) -> None:
        super().__init__(step, state)
        self._branches: dict[StepName, list[tuple[Consumer, int, OnError]]] = {}

    def connect_branch(
        self, name: StepName, consumer: Consumer, port: int, policy: OnError
    ) -> None:
        """Add the reader of one branch."""
        self.connect(consumer, port, policy)
        self._branches.setdefault(name, []).append((consumer, port, policy))

    def emit_to(self, chunk: Chunk, chosen: tuple[StepName, ...]) -> None:
        """Hand a chunk to the readers of the chosen branches."""
        for name in chosen:
            for consumer, port, policy in self._branches.get(name, ()):
                if chunk.failed and policy == "raise":
                    self._refuse(chunk)
                for part in read_by(chunk, policy):
                    consumer.receive(port, part)


class RouterOperator(StepOperator):
    """Routes the batches of one step.

    Args:
        plan: The router.
        source: The step whose output is routed; its name stands in messages and counters.
        state: Of the run.
        routes: Stored decisions by batch content; they stay in force while router and content do.
        reader: For batch digests.
        upstream: Operator of the source.
    """

    def __init__(
        self,
        plan: RouterPlan,
        source: StepPlan,
        state: RunState,
        routes: dict[Digest, tuple[StepName, ...]],
        reader: DigestReader,
        upstream: Operator,
    ) -> None:
        step = StepPlan(
            name=StepName(f"{plan.source}/router"),
            kind="batch",
            edges=(),
            lineage=plan.lineage,
            definition=plan.definition,
            reuse=plan.reuse,
            payload=plan.payload,
            input_batch_size=plan.batch_size,
            stage=source.stage,
        )
        super().__init__(step, state, Ordered(plan.batch_size), None, (upstream,))
        self.router = plan
        self.crew = Crew(step.name, "router", 1, state)
        self.branches = _Branches(plan.source, state)
        self.outlet = self.branches
        self._routes = routes
        self._reader = reader
        self._converging: list[tuple[StepOperator, Converging]] = []
        self._decided: RowId = START

    def converge(self, operator: StepOperator, front: Converging) -> None:
        """Tell a convergence step about every decision."""
        self._converging.append((operator, front))

    def _admit(self, chunk: Chunk) -> None:
        chosen = None
        if self._routes:
            chosen = self._routes.get(self._reader.digest(chunk.ports[0]))
        if chosen is None:
            self._backlog.push(chunk)
        else:
            self._state.progress[self.name].inputs_replayed += chunk.rows
            self._forward(chunk, chosen)

    def _forward(self, chunk: Chunk, chosen: tuple[StepName, ...]) -> None:
        for operator, front in self._converging:
            operator.dirty = True
            front.routed(chunk, chosen, self._decided)
        self.branches.emit_to(chunk, chosen)

    def on_routed(self, worker: WorkerId, message: Routed) -> None:
        """Record a decision and act on it."""
        self.dirty = True
        job = self.crew.members[worker].jobs.get(message.lease)
        if job is None or not job.cover(0, job.chunk.rows):
            return
        lineage, chosen = self.plan.lineage, message.chosen
        self._state.append(Route(self._state.run, lineage, message.input_digest, chosen))
        self._state.progress[self.name].inputs_computed += job.chunk.rows
        self._forward(job.chunk, chosen)
        self.crew.settle(worker, job, 0.0)

    def sweep(self) -> None:
        """Move everything that can move."""
        super().sweep()
        if self._decided != self.outlet.frontier:
            self._decided = self.outlet.frontier
            for operator, front in self._converging:
                operator.dirty = True
                front.router_advanced(self._decided)

    def on_result(self, worker: WorkerId, result: Result) -> None:
        """A router does not return rows."""
        self._state.fail(StepError(f"the router of {self.router.source!r} returned rows"))

    def on_failed(self, worker: WorkerId, message: Failed) -> None:
        """A routing function that raises stops the run: nobody knows where its rows belong."""
        self.dirty = True
        failure = message.failure
        self._state.fail(
            StepError(
                f"the routing function of step {self.router.source!r} raised {failure.kind}: "
                f"{failure.message}. Mend it and run again; finished work is kept.\n"
                f"{failure.detail}".rstrip()
            )
        )
        job = self.crew.members[worker].jobs.get(message.lease)
        if job is not None:
            self._take_back(worker, job)

    def on_survived(self, worker: WorkerId, message: Survived) -> None:
        """A router is never probed."""

    def _narrow(self, job: Job, cause: str) -> list[Job]:
        self._state.fail(
            StepError(
                f"the routing function of step {self.router.source!r} killed its worker: {cause}. "
                "Mend it and run again; finished work is kept."
            )
        )
        return [job]
