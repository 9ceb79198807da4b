"""A run without processes: the real machine, pretend workers, a seeded scheduler.

Rows are small values, a segment is a list, a worker is a function. Which message arrives next is
drawn from a seeded random source, so thousands of interleavings run in seconds and each one can
be repeated. Workers can be killed between any two messages.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from asyncdistil.batch import (
    FRESH_ORIGINS,
    SAME_ORIGINS,
    BatchRef,
    Digest,
    Lsn,
    Origins,
    RowSlice,
    RunId,
    SegmentId,
    StepName,
)
from asyncdistil.codec import content_digest, encode_rows
from asyncdistil.errors import Interrupted
from asyncdistil.graph.plan import RouterPlan, RunPlan, StepPlan
from asyncdistil.log.events import Commit, Event, Route, StepDef, StepDone
from asyncdistil.supervisor.commands import Kill, Publish, Send, Spawn, WorkerId
from asyncdistil.supervisor.machine import BACKLOG_CHUNKS, Machine
from asyncdistil.transport.messages import (
    Exhausted,
    Export,
    Exported,
    Finish,
    FromWorker,
    Generate,
    Lease,
    Loaded,
    Produce,
    Result,
    Routed,
    Survived,
    Yielded,
)

Entry = Any
"""What a simulated row-wise step returns for one row: a value, ``None`` or a list of values."""

_MOST_TURNS = 200_000


class Segments:
    """Stored rows: the in-memory stand-in for segment files."""

    def __init__(self) -> None:
        self._records: dict[tuple[int, int], tuple[list[dict[str, Any]], bytes]] = {}

    def write(self, segment: int, values: Sequence[Any]) -> tuple[BatchRef, ...]:
        """Append one record, or nothing for no rows."""
        if not values:
            return ()
        rows = [{"v": value} for value in values]
        digests = encode_rows(rows, step="simulated").digests
        offset = len(self._records)
        self._records[segment, offset] = (rows, digests)
        digest = content_digest(digests)
        return (BatchRef(SegmentId(segment), offset, 100 * len(rows), len(rows), 0, digest),)

    def values(self, slices: Sequence[RowSlice]) -> list[Any]:
        """The values of slices, in order."""
        return [
            row["v"]
            for part in slices
            for row in self._records[part.ref.segment, part.ref.offset][0][part.start : part.stop]
        ]

    def row_digests(self, part: RowSlice) -> bytes:
        """16 bytes per row of the slice."""
        return self._records[part.ref.segment, part.ref.offset][1][16 * part.start : 16 * part.stop]

    def digest(self, slices: Sequence[RowSlice]) -> Digest:
        """Content digest of concatenated slices."""
        return content_digest(b"".join(self.row_digests(part) for part in slices))


class Memory:
    """What the log would remember."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def commits(self, lineage: Digest) -> list[tuple[Lsn, Commit]]:
        """Commits of a lineage with their LSNs."""
        return [
            (Lsn(at), event)
            for at, event in enumerate(self.events, 1)
            if isinstance(event, Commit) and event.lineage == lineage
        ]

    def routes(self, lineage: Digest) -> dict[Digest, tuple[StepName, ...]]:
        """Routing decisions."""
        return {
            event.input_digest: event.chosen
            for event in self.events
            if isinstance(event, Route) and event.lineage == lineage
        }

    def step_def(self, lineage: Digest) -> bytes | None:
        """Stored preimage."""
        for event in self.events:
            if isinstance(event, StepDef) and event.lineage == lineage:
                return event.definition
        return None

    def step_done(self, lineage: Digest, data_identity: Digest) -> tuple[Lsn, RunId] | None:
        """Newest completion."""
        found = None
        for at, event in enumerate(self.events, 1):
            if (
                isinstance(event, StepDone)
                and event.lineage == lineage
                and event.data_identity == data_identity
            ):
                found = (Lsn(at), event.run)
        return found


@dataclass
class Behaviour:
    """What the pretend worker of one step does.

    Attributes:
        rows: Values that a generator yields, batch by batch.
        each: Row-wise: value per port to entry.
        batch: Batch-wise and global: lists per port to list.
        route: Router: values to chosen successors.
        kills: Values whose processing kills the worker, always.
    """

    rows: Sequence[Sequence[Any]] = ()
    each: Callable[..., Entry] | None = None
    batch: Callable[..., list[Any]] | None = None
    route: Callable[[list[Any]], tuple[StepName, ...]] | None = None
    kills: frozenset[Any] = frozenset()


@dataclass
class _Worker:
    step: StepName
    role: str
    segment: int
    inbox: deque[Any] = field(default_factory=deque)
    outbox: deque[FromWorker] = field(default_factory=deque)
    produced: int = 0
    credits: int = 0
    generating: bool = False
    exported: list[RowSlice] = field(default_factory=list)


class Simulation:
    """One run of a plan with pretend workers.

    Args:
        plan: What runs.
        behaviours: Per step, and per router under ``<source>/router``.
        seed: Of the scheduler.
        memory: Log of earlier runs; the run adds to it.
        segments: Stored rows of earlier runs.
        run: Run id.
        kill_rate: Chance per turn that some worker dies.
        backlog_chunks: As for `Machine`.
        stop_after: Turn after which the whole run is abandoned, as by SIGKILL.
        interrupt_after: Turn after which the run is asked to stop in order.
    """

    def __init__(
        self,
        plan: RunPlan,
        behaviours: dict[str, Behaviour],
        *,
        seed: int = 0,
        memory: Memory | None = None,
        segments: Segments | None = None,
        run: str = "run",
        kill_rate: float = 0.0,
        stop_after: int | None = None,
        backlog_chunks: int = BACKLOG_CHUNKS,
        interrupt_after: int | None = None,
    ) -> None:
        self.plan = plan
        self.memory = memory or Memory()
        self.segments = segments or Segments()
        self.results: dict[StepName, list[Any]] = {}
        self.calls: dict[str, int] = {}
        self.turns = 0
        self._earlier = len(self.memory.events)
        self._behaviours = behaviours
        self._random = random.Random(seed)
        self._kill_rate = kill_rate
        self._stop_after = stop_after
        self._interrupt_after = interrupt_after
        self._workers: dict[WorkerId, _Worker] = {}
        self._plans: dict[str, StepPlan] = {step.name: step for step in plan.steps}
        self._routers: dict[str, RouterPlan] = {f"{r.source}/router": r for r in plan.routers}
        self.machine = Machine(
            plan,
            RunId(run),
            self.memory,
            self.segments,
            key=Digest(bytes(16)),
            backlog_chunks=backlog_chunks,
        )

    def run(self) -> bool:
        """Run to the end; false if it was abandoned on the way, or stopped in order.

        Raises:
            AsyncDistilError: The machine asked to stop.
            AssertionError: Nothing can move and the run is not finished.
        """
        machine = self.machine
        machine.start_early()
        while True:
            self.turns += 1
            assert self.turns < _MOST_TURNS, "the run does not end"
            machine.turn(float(self.turns))
            self._act()
            if machine.state.stop is not None and self._interrupt_after is None:
                raise machine.state.stop
            if machine.finished:
                return True
            if self._interrupt_after is not None and self.turns >= self._interrupt_after:
                machine.request_stop(Interrupted("asked to stop"))
                if machine.idle:
                    return False
            if self._stop_after is not None and self.turns >= self._stop_after:
                return False
            self._step()

    def _act(self) -> None:
        state = self.machine.state
        self.memory.events.extend(state.events)
        state.events.clear()
        commands = list(state.commands)
        state.commands.clear()
        self.machine.durable(len(self.memory.events) - self._earlier)
        for command in commands:
            match command:
                case Spawn(worker=number, step=step, role=role):
                    self._workers[number] = _Worker(step, role, int(number))
                    self._workers[number].outbox.append(Loaded(None, 0.0))
                case Send(worker=number, message=message):
                    if number in self._workers:
                        self._workers[number].inbox.append(message)
                case Kill(worker=number):
                    self._workers.pop(number, None)
                case Publish():
                    pass

    def _step(self) -> None:
        """Let one worker take one message, or deliver what one has sent."""
        choices: list[tuple[WorkerId, str]] = []
        for number, worker in self._workers.items():
            if worker.inbox or (worker.generating and worker.credits > 0):
                choices.append((number, "work"))
            if worker.outbox:
                choices.append((number, "deliver"))
        if self._workers and self._random.random() < self._kill_rate:
            self._die(self._random.choice(list(self._workers)))
            return
        if not choices:
            if any(leaf.dirty for leaf in self.machine.leaves):
                return
            waits = {op.name: op.done for op in self.machine.operators}
            raise AssertionError(f"nothing can move: {waits}")
        number, what = self._random.choice(choices)
        if what == "deliver":
            self._deliver(number)
        else:
            self._work(number)

    def _deliver(self, number: WorkerId) -> None:
        outbox = self._workers[number].outbox
        count = self._random.randint(1, len(outbox))
        self._pass_on(number, [outbox.popleft() for _ in range(count)])

    def _pass_on(self, number: WorkerId, messages: list[FromWorker]) -> None:
        self.machine.messages(number, messages, float(self.turns))

    def _die(self, number: WorkerId) -> None:
        worker = self._workers.pop(number)
        # Workers bundle what they send, so the newest messages may die with them.
        sent = list(worker.outbox)[: self._random.randint(0, len(worker.outbox))]
        if sent:
            self._pass_on(number, sent)
        self.machine.lost(number, "it was killed by the simulation")

    def _work(self, number: WorkerId) -> None:
        worker = self._workers[number]
        if worker.inbox:
            message = worker.inbox.popleft()
            match message:
                case Finish():
                    if worker.role == "export":
                        values = self.segments.values(worker.exported)
                        leaf = StepName(worker.step.removesuffix("/export"))
                        self.results[leaf] = values
                        worker.outbox.append(Exported((), len(values)))
                    if worker.outbox:
                        self._pass_on(number, list(worker.outbox))
                    del self._workers[number]
                    self.machine.lost(number, "it exited with status 0")
                case Export(slices=slices):
                    worker.exported.extend(slices)
                case Generate() as generate:
                    worker.generating = True
                    worker.produced = generate.offset + sum(s.rows for s in generate.skip)
                case Produce(credits=more):
                    worker.credits += more
                case Lease() as lease:
                    self._lease(number, worker, lease)
        else:
            self._generate(worker)

    def _generate(self, worker: _Worker) -> None:
        batches = self._behaviours[worker.step].rows
        position = 0
        for batch in batches:
            if position >= worker.produced:
                self.calls[worker.step] = self.calls.get(worker.step, 0) + len(batch)
                worker.produced += len(batch)
                worker.credits -= 1
                worker.outbox.append(Yielded(self.segments.write(worker.segment, batch)))
                return
            position += len(batch)
        worker.generating = False
        worker.outbox.append(Exhausted())

    def _lease(self, number: WorkerId, worker: _Worker, lease: Lease) -> None:
        ports = [self.segments.values(port) for port in lease.ports]
        behaviour = self._behaviours[worker.step]
        condemned = {row for row, _ in lease.condemned}
        rows = {v for port in ports for i, v in enumerate(port) if i not in condemned}
        if behaviour.kills & rows:
            self._die(number)
            return
        digests = tuple(self.segments.digest(port) for port in lease.ports)
        if lease.probe:
            worker.outbox.append(Survived(lease.id))
            return
        if worker.role == "router":
            assert behaviour.route is not None
            worker.outbox.append(Routed(lease.id, behaviour.route(ports[0]), digests[0]))
            return
        self.calls[worker.step] = self.calls.get(worker.step, 0) + len(ports[0])
        values, origins = self._compute(self._plans[worker.step], behaviour, ports, condemned)
        outputs = self.segments.write(worker.segment, values)
        worker.outbox.append(
            Result(lease.id, 0, len(ports[0]), outputs, origins, input_digests=digests)
        )

    def _compute(
        self, plan: StepPlan, behaviour: Behaviour, ports: list[list[Any]], condemned: set[int]
    ) -> tuple[list[Any], Origins]:
        if plan.kind != "row":
            assert behaviour.batch is not None
            values = behaviour.batch(*ports)
            same = plan.kind == "batch" and len(values) == len(ports[0])
            return values, SAME_ORIGINS if same else FRESH_ORIGINS
        assert behaviour.each is not None
        values = []
        index: list[int] = []
        child: list[int] = []
        for position, row in enumerate(zip(*ports, strict=True)):
            entry = None if position in condemned else behaviour.each(*row)
            if isinstance(entry, list):
                values.extend(entry)
                index.extend([position] * len(entry))
                child.extend(range(len(entry)))
            elif entry is not None:
                values.append(entry)
                index.append(position)
                child.append(-1)
        if index == list(range(len(ports[0]))) and all(c < 0 for c in child):
            return values, SAME_ORIGINS
        return values, Origins("children", tuple(index), tuple(child))
