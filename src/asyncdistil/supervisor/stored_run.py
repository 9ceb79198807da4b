"""A run as its store tells it: its steps, their rows in source order, where each row came from.

No step object is needed, nothing of the user's is imported: the wiring is read from the stored
definitions, and the machine puts the stored rows into the order that they had in the run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple, Self

from asyncdistil.batch import (
    Digest,
    Failure,
    Lsn,
    Row,
    RowFailure,
    RowId,
    RowSlice,
    RunId,
    StepName,
    Usage,
)
from asyncdistil.errors import UserError
from asyncdistil.graph.plan import RunPlan
from asyncdistil.log import SegmentReader, StoreReader
from asyncdistil.log.events import Commit, RunBegin, RunEnd
from asyncdistil.supervisor import ids
from asyncdistil.supervisor.chunk import Chunk, cut_slices
from asyncdistil.supervisor.ids import END
from asyncdistil.supervisor.rehearsal import Rehearsal
from asyncdistil.supervisor.stored_wiring import StoredStep, Wiring

Place = tuple[int, int]
"""Segment and offset of a record."""


class UnknownRun(UserError):
    """The store has no such run, step or row."""


class FailedInput(NamedTuple):
    """One entry of the dead-letter table.

    Attributes:
        step: Where it failed.
        row: Id of the row in the run, if its place is known.
        failure: Why.
        wrote: Run that tried it.
        source: The input rows, one per port.
        lsn: Of the commit that says so.
        at: Place of the row in the input of that commit.
        null: What readers of the step see in its place, if anything.
    """

    step: StepName
    row: RowId | None
    failure: Failure
    wrote: RunId
    source: tuple[RowSlice, ...]
    lsn: Lsn
    at: int
    null: tuple[RowSlice, ...]


class Traced(NamedTuple):
    """A stored row and the commit that made it.

    Attributes:
        step: Which made it.
        position: Its place in the output of the step in this run, from 0; ``None`` if the run
            used an equal row of another commit in its place.
        row: Id in this run, or ``None``.
        part: Where it lies.
        lsn: Of the commit.
        commit: The commit.
        replayed: Whether the commit is of an earlier run.
        failure: Why its input row failed, if it did.
        inputs: Input rows that it was made of, one slice per port and row; for steps whose rows
            hang on a whole batch, all of it.
    """

    step: StepName
    position: int | None
    row: RowId | None
    part: RowSlice
    lsn: Lsn
    commit: Commit
    replayed: bool
    failure: Failure | None
    inputs: tuple[RowSlice, ...]


class StoredRun:
    """One run, read without a lock, also while it goes on. Close it when done.

    Attributes:
        begin: How it began; the last time, if it was taken up again.
        end: How it ended, or ``None``.
        steps: By name, in topological order. Of a run in a log older than `RunBegin.lineages`,
            steps that computed nothing in it and have nothing below them that did are missing.
        store: The store.
        plan: The run as its store tells it, without code.
    """

    plan: RunPlan

    def __init__(self, store: StoreReader, begin: RunBegin, end: RunEnd | None) -> None:
        """Made by `open`."""
        self.store = store
        self.begin = begin
        self.end = end
        self.steps: dict[StepName, StoredStep] = {}
        self._opened = ExitStack()
        self._opened.enter_context(closing(store))
        self._reader: SegmentReader = self._opened.enter_context(closing(store.reader()))
        self._index: dict[Place, tuple[StepName, Lsn, Commit, int]] = {}
        self._positions: dict[Place, list[tuple[int, int, int, Chunk, int]]] | None = None
        self._standing: set[Lsn] = set()

    @classmethod
    def open(cls, cache_dir: Path, name: str, run: str = "") -> Self | None:
        """Read a run of a pipeline, ``None`` if nothing is stored under the name.

        Args:
            cache_dir: Where results are kept.
            name: Of the pipeline.
            run: Id of the run, or how it begins; the newest one without it.

        Raises:
            UnknownRun: There is no such run.
            LogError: The store can't be read.
        """
        store = StoreReader.open(cache_dir, name)
        if store is None:
            return None
        runs = store.runs()
        found = [(b, e) for b, e in runs if b.run.startswith(run)]
        if not found or (run and len({b.run for b, _ in found}) > 1):
            store.close()
            known = ", ".join(dict.fromkeys(b.run[:8] for b, _ in runs[-5:]))
            raise UnknownRun(f"pipeline {name!r} has no one run {run!r}; its last ones: {known}")
        begin, end = found[-1]
        made = cls(store, begin, end)
        try:
            made._read([b for b, _ in runs])
        except BaseException:
            made.close()
            raise
        return made

    def close(self) -> None:
        """Close every file."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def step(self, name: str) -> StoredStep:
        """One step.

        Raises:
            UnknownRun: The run has none of this name.
        """
        found = self.steps.get(StepName(name))
        if found is None:
            known = ", ".join(self.steps) or "none yet"
            raise UnknownRun(f"run {self.begin.run[:8]} has no step {name!r}: it has {known}")
        return found

    def worked_on(self, name: str) -> list[RunId]:
        """Runs whose work on a step this run used, its own included, oldest first.

        Raises:
            UnknownRun: There is no such step.
        """
        commits = self.step(name).commits
        return list(dict.fromkeys(c.run for lsn, c in commits if lsn in self._standing))

    @property
    def completed(self) -> bool:
        """Whether every step ended."""
        return self.end is not None and self.end.completed

    @property
    def leaves(self) -> list[StepName]:
        """Steps that no other step reads."""
        read = {up for step in self.steps.values() for up in step.upstreams}
        return [name for name in self.steps if name not in read]

    # --- rows --------------------------------------------------------------------------------

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Rows ``start`` to ``stop`` of a step's output, in source order.

        Raises:
            UnknownRun: There is no such step.
            CorruptRecord: They are damaged.
        """
        position = 0
        for chunk in self.step(name).chunks:
            low, high = start - position, chunk.rows if stop is None else stop - position
            position += chunk.rows
            if high <= 0:
                return
            if low < chunk.rows:
                for part in cut_slices(chunk.ports[0], max(low, 0), min(high, chunk.rows)):
                    yield from self._reader.rows(part)

    def read(self, part: RowSlice) -> list[Row]:
        """Stored rows."""
        return self._reader.rows(part)

    def parts(self, name: str) -> Iterator[tuple[RowSlice, Lsn, Commit, int]]:
        """Where the rows of a step lie, in source order, and what made them.

        Yields:
            Rows in one record, the commit that they are of, and its LSN; and the place of the
            first of them in the output of that commit.

        Raises:
            UnknownRun: There is no such step.
        """
        for chunk in self.step(name).chunks:
            for part in chunk.ports[0]:
                _, lsn, commit, base = self._index[part.ref.segment, part.ref.offset]
                yield part, lsn, commit, base + part.start

    def failures(self) -> Iterator[FailedInput]:
        """Every failed row that the run used or made, step by step."""
        for step in self.steps.values():
            for lsn, commit, failed, row in self._failed(step):
                at = failed.input_row
                source = tuple(s for port in commit.inputs for s in cut_slices(port, at, at + 1))
                null = _output(commit, failed.output_row)
                yield FailedInput(step.name, row, failed.failure, commit.run, source, lsn, at, null)

    def _failed(self, step: StoredStep) -> Iterator[tuple[Lsn, Commit, RowFailure, RowId | None]]:
        """Failures that stand in this run: a later try takes the place of an earlier one."""
        for lsn, commit in step.commits:
            if lsn not in self._standing or not commit.failures:
                continue
            for failed in commit.failures:
                null = _output(commit, failed.output_row)
                position, row = self._position(null[0]) if null else (None, None)
                if not null or position is not None:
                    yield lsn, commit, failed, row

    # --- where a row came from ---------------------------------------------------------------

    def locate(self, name: str, position: int) -> RowSlice:
        """Where row ``position`` of a step's output lies.

        Raises:
            UnknownRun: There is no such row.
        """
        step = self.step(name)
        at = position + step.rows if position < 0 else position
        rest = at
        for chunk in step.chunks:
            if 0 <= rest < chunk.rows:
                return cut_slices(chunk.ports[0], rest, rest + 1)[0]
            rest -= chunk.rows
        raise UnknownRun(f"step {name!r} has {step.rows} rows in this run, no row {position}")

    def trace(self, part: RowSlice) -> Traced | None:
        """Who made a row, of what; ``None`` if its commit is gone.

        Args:
            part: One row.
        """
        made = self._index.get((part.ref.segment, part.ref.offset))
        if made is None:
            return None
        step, lsn, commit, base = made
        output = base + part.start
        position, row = self._position(part)
        failure = next((f.failure for f in commit.failures if f.output_row == output), None)
        return Traced(
            step,
            position,
            row,
            part,
            lsn,
            commit,
            commit.run != self.begin.run,
            failure,
            _inputs_of(commit, output),
        )

    def _position(self, part: RowSlice) -> tuple[int | None, RowId | None]:
        if self._positions is None:
            self._positions = {}
            for step in self.steps.values():
                self._note_positions(step, self._positions)
        for low, high, first, chunk, inside in self._positions.get(
            (part.ref.segment, part.ref.offset), ()
        ):
            if low <= part.start < high:
                at = part.start - low
                runs = ids.between(chunk.runs, inside + at, inside + at + 1)
                return first + at, ids.first_id(runs) if runs else None
        return None, None

    @staticmethod
    def _note_positions(
        step: StoredStep, places: dict[Place, list[tuple[int, int, int, Chunk, int]]]
    ) -> None:
        position = 0
        for chunk in step.chunks:
            inside = 0
            for part in chunk.ports[0]:
                entry = (part.start, part.stop, position + inside, chunk, inside)
                places.setdefault((part.ref.segment, part.ref.offset), []).append(entry)
                inside += part.rows
            position += chunk.rows

    # --- reading -----------------------------------------------------------------------------

    def _read(self, runs: list[RunBegin]) -> None:
        ids_of = [begin.run for begin in runs]
        wiring = Wiring(
            self.store, self.begin, runs[: len(runs) - ids_of[::-1].index(self.begin.run)]
        )
        self.steps = wiring.steps
        plan = wiring.plan(retried=True)
        commits: defaultdict[Digest, list[tuple[Lsn, Commit]]] = defaultdict(list)
        for step in self.steps.values():
            for lsn, commit in step.commits:
                commits[commit.lineage].append((lsn, commit))
        stored = _Until(self.store, commits)
        rehearsal = Rehearsal(plan, self.begin.run, stored, self._reader)
        if self.completed and any(rehearsal.missing(name) for name in self.steps):
            # It was told to leave failures of earlier runs as they are.
            plan = wiring.plan(retried=False)
            rehearsal = Rehearsal(plan, self.begin.run, stored, self._reader)
        self.plan = plan
        for step in self.steps.values():
            self._fill(step, rehearsal)
        for step in self.steps.values():
            step.failed = sum(1 for _ in self._failed(step))

    def _fill(self, step: StoredStep, rehearsal: Rehearsal) -> None:
        run = self.begin.run
        step.chunks = rehearsal.output(step.name).in_order()
        self._standing |= (standing := rehearsal.used(step.lineage))
        for lsn, commit in step.commits:
            base = 0
            for ref in commit.outputs:
                self._index[ref.segment, ref.offset] = (step.name, lsn, commit, base)
                base += ref.rows
            if commit.run == run:
                self._account(step, commit)
                if lsn not in standing and not self.completed and step.kind != "generator":
                    # Finished out of order by a run that has not ended: its place is not known.
                    self._standing.add(lsn)
                    rest = tuple(RowSlice(ref, 0, ref.rows) for ref in commit.outputs)
                    rows = sum(part.rows for part in rest)
                    if rows:
                        step.chunks.append(Chunk(END, (rest,), (), rows))
        step.rows = sum(chunk.rows for chunk in step.chunks)
        replayed = rehearsal.inputs_replayed(step.name)
        if step.kind == "generator":
            replayed = step.rows
            step.inputs_computed = step.rows_computed
        step.inputs_replayed = max(replayed - step.inputs_computed, 0)

    @staticmethod
    def _account(step: StoredStep, commit: Commit) -> None:
        step.rows_computed += sum(ref.rows for ref in commit.outputs)
        if commit.inputs:
            step.inputs_computed += max(sum(s.rows for s in port) for port in commit.inputs)
        step.filtered += commit.filtered
        step.seconds += commit.seconds
        if commit.usage is not None:
            step.usage = Usage(
                *(
                    getattr(step.usage, name) + getattr(commit.usage, name)
                    for name in Usage.__struct_fields__
                )
            )


class _Until:
    """What the log held when a run ended, as far as the machine asks."""

    def __init__(
        self, store: StoreReader, commits: Mapping[Digest, Sequence[tuple[Lsn, Commit]]]
    ) -> None:
        self._store = store
        self._commits = commits

    def commits(self, lineage: Digest) -> Sequence[tuple[Lsn, Commit]]:
        return self._commits.get(lineage, ())

    def routes(self, lineage: Digest) -> dict[Digest, tuple[StepName, ...]]:
        return self._store.routes(lineage)

    def step_def(self, lineage: Digest) -> bytes | None:
        return self._store.step_def(lineage)

    def step_done(self, lineage: Digest, data_identity: Digest) -> tuple[Lsn, RunId] | None:
        return self._store.step_done(lineage, data_identity)


def _output(commit: Commit, at: int) -> tuple[RowSlice, ...]:
    """Output row ``at`` of a commit; nothing if that is negative."""
    slices = tuple(RowSlice(ref, 0, ref.rows) for ref in commit.outputs)
    return cut_slices(slices, at, at + 1) if at >= 0 else ()


def _inputs_of(commit: Commit, output: int) -> tuple[RowSlice, ...]:
    """Input rows that output row ``output`` of a commit was made of."""
    origins = commit.origins
    if origins.kind == "fresh":
        return tuple(part for port in commit.inputs for part in port)
    at = output if origins.kind == "same" else origins.index[output]
    return tuple(part for port in commit.inputs for part in cut_slices(port, at, at + 1))
