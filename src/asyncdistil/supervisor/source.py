"""The operator of a generator: it has no input, and its stored yields come first."""

from __future__ import annotations

from collections.abc import Sequence

from asyncdistil.batch import BatchRef, Digest, IdRun, Lsn, Origins, RowSlice
from asyncdistil.errors import StepError, WorkerDied
from asyncdistil.graph.plan import StepPlan
from asyncdistil.log.events import Commit, StepDone
from asyncdistil.supervisor.chunk import Chunk
from asyncdistil.supervisor.commands import WorkerId
from asyncdistil.supervisor.crew import MOST_ATTEMPTS, Crew, Member
from asyncdistil.supervisor.ids import END
from asyncdistil.supervisor.operator import NO_DIGEST
from asyncdistil.supervisor.outlet import Outlet
from asyncdistil.supervisor.state import RunState
from asyncdistil.transport.messages import Generate, GeneratorFailed, Produce, Yielded

CREDITS = 64
"""Yields that a generator may run ahead of the supervisor."""

_FRESH = Origins("fresh")


class SourceOperator:
    """A generator step.

    Args:
        plan: The step.
        state: Of the run.
        chain: Stored yields to replay, without a gap from row 0.
        complete: Whether they are all that the generator has.
    """

    def __init__(
        self,
        plan: StepPlan,
        state: RunState,
        chain: Sequence[tuple[Lsn, Commit]],
        *,
        complete: bool,
    ) -> None:
        self.plan = plan
        self.name = plan.name
        self.outlet = Outlet(plan.name, state)
        self.crew = Crew(plan.name, "step", 1, state)
        self.done = False
        self.active = True
        self.dirty = True
        self.hold = False
        self._state = state
        self._chain = chain
        self._complete = complete
        self._stored: list[RowSlice] = []
        self._rows = 0
        self._attempts = 1
        self._credits = 0
        self._replayed = False
        self._exhausted = False
        self._identity: Digest = plan.data_identity or NO_DIGEST

    @property
    def space(self) -> str:
        """Its own."""
        return self.name

    @property
    def starving(self) -> bool:
        """A generator needs no input."""
        return False

    def sweep(self) -> None:
        """Replay once, then keep the generator supplied with credits."""
        self.dirty = False
        if not self._replayed:
            self._replayed = True
            self._replay()
        if self._complete or self._exhausted:
            self._end()
            return
        if self.active and not self._state.draining:
            self.crew.ensure(1)
            self._grant()
        self.outlet.advance((self._rows,))

    def _replay(self) -> None:
        counters = self._state.progress[self.name]
        for lsn, commit in self._chain:
            self._state.replayed(self.plan.lineage, lsn)
            rows = self._emit(commit.outputs, 0)
            counters.rows_replayed += rows

    def _emit(self, outputs: tuple[BatchRef, ...], ticket: int) -> int:
        slices = tuple(RowSlice(ref, 0, ref.rows) for ref in outputs)
        rows = sum(ref.rows for ref in outputs)
        chunk = Chunk(
            key=(self._rows,),
            ports=(slices,),
            runs=(IdRun((), self._rows, rows),),
            rows=rows,
            ticket=ticket,
            replayed=ticket == 0,
        )
        if not (self._complete or self.plan.resumable):
            self._stored.extend(slices)
        self._rows += rows
        self.outlet.emit(chunk)
        return rows

    def _grant(self) -> None:
        member = next(iter(self.crew.members.values()), None)
        if member and member.ready and not self.hold and self._credits <= CREDITS // 2:
            self._state.send(member.number, Produce(CREDITS - self._credits))
            self._credits = CREDITS

    def on_ready(self, member: Member) -> None:
        """Start the generator behind the rows that are stored."""
        self.dirty = True
        self._credits = 0
        limit = self._state.plan.dry_rows
        if self.plan.resumable:
            self._state.send(member.number, Generate(offset=self._rows, limit=limit))
        else:
            skip = tuple(self._stored)
            self._state.send(member.number, Generate(skip=skip, limit=limit))

    def on_yielded(self, worker: WorkerId, message: Yielded) -> None:
        """Commit what the generator yielded, and pass it on."""
        self.dirty = True
        self._credits -= 1
        self._attempts = 1
        if not message.outputs:
            return
        ticket = self._state.append(
            Commit(
                run=self._state.run,
                lineage=self.plan.lineage,
                inputs=(),
                input_digests=(self._identity,),
                outputs=message.outputs,
                origins=_FRESH,
                ordinal=self._rows,
                attempt=self._attempts,
                seconds=message.seconds,
                worker=worker,
                at_seconds=self._state.run_seconds,
            )
        )
        rows = self._emit(message.outputs, ticket)
        counters = self._state.progress[self.name]
        counters.rows_computed += rows
        counters.batches += 1
        counters.seconds += message.seconds

    def on_exhausted(self) -> None:
        """The generator has ended."""
        self.dirty = True
        self._exhausted = True

    def on_generator_failed(self, message: GeneratorFailed) -> None:
        """The generator raised: rows after this point can't be known, so the run stops."""
        failure = message.failure
        self._state.fail(
            StepError(
                f"generator {self.name!r} raised after {self._rows} rows: {failure.kind}: "
                f"{failure.message}. Mend it and run again; finished work is kept.\n"
                f"{failure.detail}".rstrip()
            )
        )

    def on_lost(self, worker: WorkerId, cause: str) -> None:
        """Start the generator again behind what is committed."""
        self.dirty = True
        self.crew.lost(worker, cause, restart=not (self.done or self._exhausted))
        self._credits = 0
        self._attempts += 1
        if self._attempts > MOST_ATTEMPTS and not self.done:
            self._state.fail(
                WorkerDied(
                    f"generator {self.name!r} killed its worker {MOST_ATTEMPTS} times after "
                    f"{self._rows} rows: {cause}. Mend it and run again; finished work is kept."
                )
            )

    def _end(self) -> None:
        self.outlet.advance(END)
        if self.done:
            return
        self.done = True
        self._state.flush_replayed(self.plan.lineage)
        self._state.progress[self.name].done = True
        if not self._complete:
            self._state.append(
                StepDone(self._state.run, self.plan.lineage, self._identity, self._rows, 0)
            )
        self.crew.finish()
