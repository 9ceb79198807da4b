"""Steps that act on the outside world: pushes, webhooks, provider batches.

Rows are committed exactly once, an outside act can only be promised at least once. So an act is
announced in the log, under a key that a second try will find equal, and waits until the
announcement and its input survive a power cut; what became of it is recorded with its commit.
"""

from __future__ import annotations

from collections import deque

from xxhash import xxh3_128_digest

from asyncdistil.batch import Digest, RowId
from asyncdistil.graph.plan import StepPlan
from asyncdistil.log.events import Intent, Outcome
from asyncdistil.supervisor.chunk import Chunk
from asyncdistil.supervisor.commands import WorkerId
from asyncdistil.supervisor.crew import Job
from asyncdistil.supervisor.front import Front
from asyncdistil.supervisor.operator import Memory, Operator, StepOperator
from asyncdistil.supervisor.reuse import DigestReader
from asyncdistil.supervisor.state import RunState
from asyncdistil.transport.messages import Result


class EffectOperator(StepOperator):
    """A step whose calls wait for durability.

    Args:
        plan: The step.
        state: Of the run.
        front: How its inputs become chunks.
        memory: Its stored work.
        upstreams: Operators behind its ports.
        reader: For the keys of its acts.
    """

    def __init__(
        self,
        plan: StepPlan,
        state: RunState,
        front: Front,
        memory: Memory | None,
        upstreams: tuple[Operator, ...],
        reader: DigestReader,
    ) -> None:
        super().__init__(plan, state, front, memory, upstreams)
        self._reader = reader
        self._announced: deque[tuple[int, Job]] = deque()
        self._durable_ticket = 0

    def durable(self, ticket: int) -> None:
        """Every append up to ``ticket`` survives a power cut."""
        self._durable_ticket = ticket
        self.dirty = True

    def _dispatch(self) -> None:
        while self._backlog:
            job = self._next_job()
            intent = Intent(self._state.run, self.plan.lineage, self._key(job.chunk))
            self._announced.append((self._state.append(intent), job))
        # The log is synced in order, so an announcement that is durable covers the rows before it.
        while self._announced and self._announced[0][0] <= self._durable_ticket:
            self._retries.append(self._announced.popleft()[1])
        super()._dispatch()

    def on_result(self, worker: WorkerId, result: Result) -> None:
        """Commit, and record what became of the act."""
        job = self.crew.members[worker].jobs.get(result.lease)
        super().on_result(worker, result)
        if job is not None:
            failed = result.failures[0].failure.kind if result.failures else "ok"
            key = self._key(job.chunk)
            self._state.append(Outcome(self._state.run, self.plan.lineage, key, failed))

    def _frontier(self) -> RowId:
        return min([super()._frontier(), *(job.key for _, job in self._announced)])

    def _key(self, chunk: Chunk) -> Digest:
        content = b"".join(self._reader.digest(port) for port in chunk.ports)
        return Digest(xxh3_128_digest(self.plan.lineage + content))
