"""The workers of one step: who is ready, who holds what, who is started again.

Restarts stop here: no layer above or below restarts anything. A step whose workers die more than
`RESTART_LIMIT` times within `RESTART_WINDOW_SECONDS` is given up, and so is one whose workers die
`FRUITLESS_LIMIT` times with nothing done in between.

What a dead worker was at cannot be seen from here: it may have finished leases and not said so. So
every lease that it held is a suspect, and one that was held too often is handed out alone. A death
under a suspect is put down to it and doesn't count: `MOST_ATTEMPTS` and bisecting bound those. A
step may meet any number of deadly rows.
"""

from __future__ import annotations

from collections import deque

from asyncdistil.batch import Failure, RowId, StepName
from asyncdistil.errors import WorkerDied
from asyncdistil.supervisor import ids
from asyncdistil.supervisor.chunk import Chunk, cut
from asyncdistil.supervisor.commands import Kill, Role, Spawn, WorkerId
from asyncdistil.supervisor.state import RunState
from asyncdistil.transport.messages import Finish, Lease
from asyncdistil.transport.window import HELD_PER_SLOT, Window

MOST_ATTEMPTS = 3
RESTART_LIMIT = 3
FRUITLESS_LIMIT = 32  # locating one deadly row among 10,000 takes at most 3 + 14 in a row
RESTART_WINDOW_SECONDS = 60.0
_RESTART_DELAY_SECONDS = 0.05


class Job:
    """Rows that some worker must cover. It settles once, whoever covers them.

    Attributes:
        id: Lease number.
        chunk: The input rows.
        uncovered: Ranges of rows not covered yet, ascending.
        attempt: Try under way, from 1.
        condemned: Rows that must not be processed, with the reason.
        bisecting: Whether a death under this job narrows down a culprit.
        probe: Range of rows that is tried without effect, or ``None``.
    """

    __slots__ = (
        "attempt",
        "bisecting",
        "chunk",
        "condemned",
        "culprits",
        "id",
        "probe",
        "size_bytes",
        "suspects",
        "uncovered",
    )

    def __init__(self, number: int, chunk: Chunk) -> None:
        self.id = number
        self.chunk = chunk
        self.size_bytes = chunk.size_bytes
        self.uncovered: list[tuple[int, int]] = [(0, chunk.rows)]
        self.attempt = 1
        self.condemned: tuple[tuple[int, Failure], ...] = ()
        self.bisecting = False
        self.probe: tuple[int, int] | None = None
        self.suspects: list[tuple[int, int]] = []
        self.culprits: list[tuple[int, Failure]] = []

    @property
    def key(self) -> RowId:
        """Key of the first row that is not covered."""
        start = self.uncovered[0][0] if self.uncovered else self.chunk.rows
        if start == 0:
            return self.chunk.key
        return ids.first_id(ids.between(self.chunk.runs, start, self.chunk.rows))

    @property
    def alone(self) -> bool:
        """Whether a worker that holds it may hold nothing else, so that blame is certain."""
        return self.bisecting or self.attempt >= MOST_ATTEMPTS

    @property
    def rows(self) -> int:
        """Rows not covered yet."""
        return sum(stop - start for start, stop in self.uncovered)

    def cover(self, start: int, stop: int) -> bool:
        """Take a reported range off; false if any of it was covered before."""
        for position, (low, high) in enumerate(self.uncovered):
            if low <= start and stop <= high:
                rest = [part for part in ((low, start), (stop, high)) if part[0] < part[1]]
                self.uncovered[position : position + 1] = rest
                return True
        return False

    def lease(self) -> Lease:
        """The message that hands the job out."""
        chunk = self.chunk if self.probe is None else cut(self.chunk, *self.probe)
        return Lease(
            self.id, chunk.ports, self.attempt, self.probe is not None, tuple(self.condemned)
        )


class Member:
    """One worker as its crew sees it."""

    __slots__ = (
        "busy_since_seconds",
        "engaged",
        "finishing",
        "jobs",
        "number",
        "ready",
        "replica",
        "rows",
        "window",
    )

    def __init__(self, number: WorkerId, replica: int, window: Window) -> None:
        self.number = number
        self.replica = replica
        self.ready = False
        self.finishing = False
        self.engaged = False
        self.window = window
        self.jobs: dict[int, Job] = {}
        self.rows = 0
        self.busy_since_seconds = 0.0


class Crew:
    """The workers of one step.

    Args:
        step: Name of the step, or of the leaf or source that a special role belongs to.
        role: What the workers are to become.
        replicas: How many at most.
        state: Of the run.
        concurrency: Rows that one worker keeps in flight; 0 for a batch at a time.
    """

    def __init__(
        self,
        step: StepName,
        role: Role,
        replicas: int,
        state: RunState,
        *,
        concurrency: int = 0,
    ) -> None:
        self.step = step
        self.members: dict[WorkerId, Member] = {}
        self._role: Role = role
        self._replicas = replicas
        self._state = state
        self._concurrency = concurrency
        self._deaths: deque[float] = deque()
        self._fruitless = 0
        self.gave_up: WorkerDied | None = None

    def ensure(self, count: int) -> None:
        """Have at least ``count`` workers, but no more than there may be; none when stopping."""
        if self._state.stop is not None:
            return
        taken = {member.replica for member in self.members.values()}
        for replica in range(self._replicas):
            if len(self.members) >= min(count, self._replicas):
                return
            if replica not in taken:
                self._spawn(replica, 0.0)

    def _spawn(self, replica: int, delay_seconds: float) -> None:
        number = self._state.new_worker()
        member = self.members[number] = Member(number, replica, Window())
        # An exporter has nothing to load: what is sent to it waits in its socket.
        member.ready = self._role == "export"
        self._state.commands.append(Spawn(number, self.step, self._role, replica, delay_seconds))

    def pick(self, rows: int, size_bytes: int, *, alone: bool = False) -> Member | None:
        """The ready worker with the least in hand that has room for a lease of this size."""
        best: Member | None = None
        for member in self.members.values():
            if not member.ready or member.finishing or (best and member.rows >= best.rows):
                continue
            if alone or member.engaged:
                room = not member.jobs
            elif self._concurrency:
                room = member.rows < HELD_PER_SLOT * self._concurrency
            else:
                room = member.window.admits(size_bytes)
            if room:
                best = member
        return best

    def hand_out(self, job: Job, member: Member) -> None:
        """Send a job to a worker."""
        if not member.jobs:
            member.busy_since_seconds = self._state.now_seconds
        member.jobs[job.id] = job
        member.engaged = job.alone
        member.rows += job.rows
        member.window.sent(job.size_bytes)
        self._state.send(member.number, job.lease())

    def settle(self, worker: WorkerId, job: Job, seconds: float) -> None:
        """Take a settled job off the worker that holds it."""
        member = self.members[worker]
        del member.jobs[job.id]
        member.window.settled(job.size_bytes, seconds)
        if not job.condemned:
            self._fruitless = 0
        member.busy_since_seconds = self._state.now_seconds
        if not member.jobs:
            member.rows = 0

    def in_flight(self) -> int:
        """Rows that workers hold."""
        return sum(member.rows for member in self.members.values())

    def jobs(self) -> list[Job]:
        """Jobs that workers hold."""
        return [job for member in self.members.values() for job in member.jobs.values()]

    def lost(self, worker: WorkerId, cause: str, *, restart: bool) -> list[Job]:
        """A worker is gone.

        Args:
            worker: Which.
            cause: How it went, for messages.
            restart: Whether there is work left for a new one.

        Returns:
            The jobs that it held, oldest first, each with its attempt raised.
        """
        member = self.members.pop(worker)
        jobs = list(member.jobs.values())
        explained = any(job.bisecting or job.attempt > 1 for job in jobs)
        for job in jobs:
            job.attempt += 1
        if member.finishing or not restart or self._state.stop is not None:
            return jobs
        self._state.progress[self.step].restarts += 1
        too_often = self._too_often(explained=explained)
        if too_often:
            self.gave_up = WorkerDied(
                f"workers of step {self.step!r} died {too_often}, the last: {cause}. Look at the "
                "step's log lines and at the machine's memory, then run again; finished work is "
                "kept."
            )
            self._state.fail(self.gave_up)
            return jobs
        # Spread restarts of replicas that died of one cause, without a random source.
        delay = _RESTART_DELAY_SECONDS * len(self._deaths) * (1 + member.replica % 4)
        self._spawn(member.replica, delay)
        return jobs

    def _too_often(self, *, explained: bool) -> str:
        """Count a death; says how often they came if that is too often, else nothing."""
        self._fruitless += 1
        if self._fruitless > FRUITLESS_LIMIT:
            return f"{self._fruitless} times with nothing done in between"
        if not explained:
            now = self._state.now_seconds
            self._deaths.append(now)
            while self._deaths and now - self._deaths[0] > RESTART_WINDOW_SECONDS:
                self._deaths.popleft()
        if len(self._deaths) > RESTART_LIMIT:
            return f"{len(self._deaths)} times within {RESTART_WINDOW_SECONDS:.0f} s"
        return ""

    def forgive(self) -> None:
        """Forget deaths: a deadly batch has harmless rows, so the step as such works."""
        self._deaths.clear()

    def finish(self) -> None:
        """No more work: let every worker unload and exit."""
        for member in self.members.values():
            if not member.finishing:
                member.finishing = True
                self._state.send(member.number, Finish())

    def kill(self) -> None:
        """Kill every worker."""
        for member in self.members.values():
            self._state.commands.append(Kill(member.number))
