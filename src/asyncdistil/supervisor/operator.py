"""One step of the running graph: chunks in, leases out, commits and chunks out.

Operators form the same graph as the steps. A sweep over them in topological order moves everything
that can move; between sweeps nothing happens. All of it is pure: no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from asyncdistil.batch import Digest, Failure, RowId, StepName
from asyncdistil.errors import StepError, WorkerDied
from asyncdistil.graph.plan import StepPlan
from asyncdistil.log.events import Commit, StepDone
from asyncdistil.supervisor import ids, narrow, reuse
from asyncdistil.supervisor.backlog import Backlog
from asyncdistil.supervisor.chunk import Chunk, cut
from asyncdistil.supervisor.commands import WorkerId
from asyncdistil.supervisor.crew import MOST_ATTEMPTS, Crew, Job, Member
from asyncdistil.supervisor.front import Front
from asyncdistil.supervisor.ids import END
from asyncdistil.supervisor.outlet import Outlet
from asyncdistil.supervisor.state import RunState
from asyncdistil.transport.messages import Failed, Result, Survived

NO_DIGEST = Digest(bytes(16))


class Memory(Protocol):
    """Finds stored work for a chunk."""

    def match(self, chunk: Chunk) -> list[reuse.Match]:
        """Divide the chunk into stored and missing rows."""
        ...


class StepOperator:
    """A step that reads other steps.

    Args:
        plan: The step.
        state: Of the run.
        front: How its inputs become chunks.
        memory: Its stored work, or ``None`` if nothing stored may be used.
        upstreams: Operators behind its ports, for id spaces.
    """

    def __init__(
        self,
        plan: StepPlan,
        state: RunState,
        front: Front,
        memory: Memory | None,
        upstreams: tuple[Operator, ...],
    ) -> None:
        self.plan = plan
        self.name = plan.name
        self.front = front
        self.outlet = Outlet(plan.name, state)
        self.crew = Crew(plan.name, "step", plan.replicas, state, concurrency=plan.concurrency)
        self.done = False
        self.active = True
        self.dirty = True
        self._state = state
        self._memory = memory
        self.upstreams = upstreams
        self._fresh = plan.kind == "global"
        self._backlog = Backlog()
        self._retries: list[Job] = []

    # --- stream in ---------------------------------------------------------------------------

    def receive(self, port: int, chunk: Chunk) -> None:
        """Take a chunk from upstream."""
        self.dirty = True
        self.front.receive(port, chunk)

    def advance(self, port: int, frontier: RowId) -> None:
        """Learn how far an input stream is complete."""
        self.dirty = True
        self.front.advance(port, frontier)

    @property
    def space(self) -> str:
        """Which ids its rows carry: equal for steps whose rows can be told apart by id."""
        return self.name if self._fresh else self.upstreams[0].space

    @property
    def starving(self) -> bool:
        """Whether its workers could do more than it has."""
        return not self.done and self.active and not self._backlog

    @property
    def backlog(self) -> Backlog:
        """What waits for a worker."""
        return self._backlog

    @property
    def waiting_rows(self) -> int:
        """Input rows that arrived and that no worker holds."""
        return self.front.waiting_rows + self._backlog.rows

    @property
    def missing(self) -> Iterator[Chunk]:
        """What waits for a worker because nothing stored stands for it."""
        return self._backlog.waiting()

    @property
    def unsettled_rows(self) -> int:
        """Input rows that workers have, or had, and that no commit covers."""
        return self.crew.in_flight() + sum(job.rows for job in self._retries)

    @property
    def stored(self) -> bool:
        """Whether stored work may stand for some of its work."""
        return self._memory is not None

    # --- the sweep ---------------------------------------------------------------------------

    def sweep(self) -> None:
        """Move everything that can move."""
        self.dirty = False
        for chunk in self.front.take():
            self._admit(chunk)
        if not self._state.draining:
            self._dispatch()
        frontier = self._frontier()
        self._backlog.forget_below(frontier)
        self.outlet.advance(frontier)
        if not self.done and self.outlet.frontier == END:
            self._end()

    def _admit(self, chunk: Chunk) -> None:
        if self._memory is None:
            self._backlog.push(chunk)
            return
        matches = self._memory.match(chunk)
        for match in matches:
            part = cut(chunk, match.start, match.stop)
            if match.hit is None:
                self._backlog.push(part)
                continue
            self._backlog.went_ahead(part.key)
            self._replay(part, match.hit)

    def _replay(self, part: Chunk, hit: reuse.Hit) -> None:
        output, failures = reuse.replay(part, hit)
        counters = self._state.progress[self.name]
        counters.inputs_replayed += part.rows
        if failures:
            # A replayed failure was judged when it happened; it is counted, not judged again.
            counters.failed += len(failures)
        if len(failures) < part.rows:
            self._state.worked(self.name)
        if hit.commit.origins.kind == "fresh":
            self._fresh = True
        self._state.replayed(self.plan.lineage, hit.lsn)
        if output is not None:
            counters.rows_replayed += output.rows
            self.outlet.emit(output)

    # --- handing out -------------------------------------------------------------------------

    def _dispatch(self) -> None:
        if not self.active or not (self._backlog or self._retries):
            return
        self.crew.ensure(len(self._retries) + len(self._backlog))
        while self._retries or self._backlog:
            waiting = self._retries[0].chunk if self._retries else self._backlog.first
            alone = bool(self._retries) and self._retries[0].alone
            member = self.crew.pick(waiting.rows, waiting.size_bytes, alone=alone)
            if member is None:
                break
            job = self._retries.pop(0) if self._retries else self._next_job()
            self.crew.hand_out(job, member)
        self._count_in_flight()

    def _count_in_flight(self) -> None:
        counters = self._state.progress[self.name]
        counters.in_flight = self.crew.in_flight()
        counters.in_flight_peak = max(counters.in_flight_peak, counters.in_flight)

    def _next_job(self) -> Job:
        if self.plan.kind == "row":
            chunk = self._backlog.pop_sized(self.plan.input_batch_size, self.front.frontier)
        else:
            chunk = self._backlog.pop()
        return Job(self._state.new_lease(), chunk)

    # --- results -----------------------------------------------------------------------------

    def on_result(self, worker: WorkerId, result: Result) -> None:
        """Commit what a worker reports, and pass it on."""
        self.dirty = True
        member = self.crew.members[worker]
        job = member.jobs.get(result.lease)
        stop = job.chunk.rows if job and self.plan.kind == "global" else result.stop
        if job is None or not job.cover(result.start, stop):
            return  # covered by another worker before: a lease settles once
        if job.bisecting:
            self.crew.forgive()
        part = cut(job.chunk, result.start, stop)
        ticket = self._commit(worker, job, part, result)
        member.rows = max(0, member.rows - part.rows)
        rows = sum(ref.rows for ref in result.outputs)
        whole = part.rows == job.chunk.rows
        self._state.account(self.plan, ids.first_id(part.runs), part.rows, result, whole=whole)
        if result.origins.kind == "fresh":
            self._fresh = True
        if rows:
            commit = self._last_commit
            self.outlet.emit(
                reuse.output_chunk(part, commit, result.origins, result.failures, (0, rows), ticket)
            )
        if not job.uncovered:
            self._state.claims.settle(job.id)
            self.crew.settle(worker, job, result.seconds)

    def _commit(self, worker: WorkerId, job: Job, part: Chunk, result: Result) -> int:
        self._last_commit = Commit(
            run=self._state.run,
            lineage=self.plan.computes,
            inputs=part.ports,
            input_digests=result.input_digests,
            outputs=result.outputs,
            origins=result.origins,
            failures=result.failures,
            filtered=result.filtered,
            attempt=job.attempt,
            seconds=result.seconds,
            usage=result.usage,
            samples=result.samples,
            worker=worker,
            at_seconds=self._state.run_seconds,
            spare=result.spare,
        )
        return self._state.append(self._last_commit)

    def on_failed(self, worker: WorkerId, message: Failed) -> None:
        """A lease failed as a whole: a global step raised, or a worker could not go on with it."""
        self.dirty = True
        job = self.crew.members[worker].jobs.get(message.lease)
        if job is None:
            return
        failure = message.failure
        self._state.fail(
            StepError(
                f"step {self.name!r} failed on {job.chunk.rows} rows: {failure.kind}: "
                f"{failure.message}. Mend it and run again; finished work is kept.\n"
                f"{failure.detail}".rstrip()
            )
        )
        self._take_back(worker, job)

    def on_fatal(self, worker: WorkerId) -> None:
        """A worker cannot go on, and the run stops: what it holds will not come."""
        self.dirty = True
        for job in list(self.crew.members[worker].jobs.values()):
            self._take_back(worker, job)

    def _take_back(self, worker: WorkerId, job: Job) -> None:
        """A lease came back undone: its worker is free again, its rows stay open."""
        self.crew.settle(worker, job, 0.0)
        self._retries.append(job)

    # --- deaths ------------------------------------------------------------------------------

    def on_lost(self, worker: WorkerId, cause: str) -> None:
        """A worker died: what it held is leased again, and a culprit row is searched for."""
        self.dirty = True
        jobs = self.crew.lost(worker, cause, restart=not self.done)
        retries: list[Job] = []
        for job in self._open(jobs):
            limit = 1 if job.bisecting else MOST_ATTEMPTS
            if job.attempt <= limit:
                retries.append(job)
            else:
                retries.extend(self._narrow(job, cause))
        self._retries = retries + self._retries
        self._count_in_flight()

    def _open(self, jobs: list[Job]) -> list[Job]:
        new = self._state.new_lease
        return [part for job in jobs for part in narrow.open_parts(job, new)]

    def _narrow(self, job: Job, cause: str) -> list[Job]:
        """Divide a job that kills its workers, until the culprit row stands alone."""
        failure = Failure(
            "WorkerDied", f"the worker that processed this row died: {cause}", job.attempt - 1
        )
        if self.plan.kind == "global" or job.condemned:
            self._state.fail(
                WorkerDied(
                    f"step {self.name!r} killed its worker {job.attempt - 1} times: {cause}. Look "
                    "at its log lines and at the machine's memory, then run again; finished work "
                    "is kept."
                )
            )
            return [job]
        if self.plan.kind == "batch":
            return [narrow.by_probe(job, failure)]
        return narrow.by_halves(job, failure, self._state.new_lease)

    def on_survived(self, worker: WorkerId, message: Survived) -> None:
        """A probe did not kill its worker: look elsewhere for the culprit."""
        self.dirty = True
        job = self.crew.members[worker].jobs.get(message.lease)
        if job is None:
            return
        self.crew.settle(worker, job, 0.0)
        self.crew.forgive()
        failure = message.failure or Failure(
            "WorkerDied", "the rows of this batch kill a worker only together", MOST_ATTEMPTS
        )
        self._retries.insert(0, narrow.next_probe(job, failure))

    def on_ready(self, member: Member) -> None:
        """A worker is loaded."""
        self.dirty = True

    # --- the end -----------------------------------------------------------------------------

    def _frontier(self) -> RowId:
        frontier = min(self.front.frontier, self._backlog.key)
        for job in self._retries:
            frontier = min(frontier, job.key)
        for member in self.crew.members.values():
            for job in member.jobs.values():
                frontier = min(frontier, job.key)
        return frontier

    def _end(self) -> None:
        self.done = True
        self._state.flush_replayed(self.plan.lineage)
        counters = self._state.progress[self.name]
        counters.done = True
        counters.in_flight = 0
        self._state.append(
            StepDone(
                self._state.run, self.plan.lineage, NO_DIGEST, self.outlet.rows, counters.failed
            )
        )
        self._state.nothing_worked(self.plan)
        self.crew.finish()


class Operator(Protocol):
    """What the machine needs of every node of the running graph."""

    name: StepName
    outlet: Outlet
    crew: Crew
    done: bool
    active: bool
    dirty: bool

    @property
    def space(self) -> str:
        """Which ids its rows carry."""
        ...

    @property
    def starving(self) -> bool:
        """Whether its workers could do more than it has."""
        ...

    def sweep(self) -> None:
        """Move everything that can move."""
        ...

    def on_lost(self, worker: WorkerId, cause: str) -> None:
        """A worker died."""
        ...

    def on_ready(self, member: Member) -> None:
        """A worker is loaded."""
        ...
