"""The records of the commit log, as data. Their bytes are described in ``FORMAT.md``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from asyncdistil.batch import (
    BatchRef,
    Digest,
    Lsn,
    Origins,
    RowFailure,
    RowSlice,
    RunId,
    StepName,
    Usage,
)


class Retried(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One step of a retry.

    Attributes:
        step: Its name.
        lineage: What its rows are stored under in the run that is mended.
        again: What rows that the retry computes are stored under: another lineage if a parameter
            was changed for them.
        rows: Input rows of stored commits that are asked anew, as (LSN, first, behind the last).
    """

    step: StepName
    lineage: Digest
    again: Digest
    rows: tuple[tuple[Lsn, int, int], ...] = ()


class Retry(msgspec.Struct, frozen=True, array_like=True):
    """What a run asked anew of another run; all else stands as it was.

    Attributes:
        base: The run that is mended.
        request: Digest of what was asked for, base included.
        steps: All steps, in topological order.
        retry_failed: Whether the base had tried failures of earlier runs again.
        step: Which step was named, or empty.
        where: Which rows, as a condition, or empty.
        anew: Whether rows that did not fail were asked anew too: what other runs stored of the
            same content does not answer for them.
    """

    base: RunId
    request: Digest
    steps: tuple[Retried, ...]
    retry_failed: bool = True
    step: str = ""
    where: str = ""
    anew: bool = False

    def renumbered(self, lsns: Mapping[Lsn, Lsn]) -> Retry:
        """The same in another log.

        Args:
            lsns: New LSNs of commits by their old ones. Rows of others are left out: nobody needs
                their commits, so there is nothing that must not answer for them.
        """
        steps = []
        for step in self.steps:
            rows = tuple((lsns[lsn], start, stop) for lsn, start, stop in step.rows if lsn in lsns)
            steps.append(msgspec.structs.replace(step, rows=rows))
        return msgspec.structs.replace(self, steps=tuple(steps))


class RunBegin(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A run started, or was taken up again (then with the id that it had).

    Attributes:
        run: Run id.
        signature: `RunPlan.signature`.
        aggregated_signature: `RunPlan.aggregated_signature`.
        options: `RunPlan.options`.
        wall_seconds: Unix time, for people.
        resumed: Whether this takes up an unfinished run.
        lineages: Of its steps in plan order, then of its routers; empty in older logs.
        retry: If it mends another run, which rows of it.
        data: What the data of each generator is, in plan order; 16 zero bytes where that can't be
            known. Empty in older logs.
    """

    run: RunId
    signature: str
    aggregated_signature: str
    options: bytes
    wall_seconds: float
    resumed: bool = False
    lineages: tuple[Digest, ...] = ()
    retry: Retry | None = None
    data: tuple[Digest, ...] = ()


class StepDef(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """What a lineage stands for: the full preimage, compared on every hit."""

    lineage: Digest
    step: StepName
    definition: bytes


class Commit(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    """Rows that count.

    Attributes:
        run: Run that wrote it.
        lineage: Of the step.
        inputs: Per port the slices it covered; empty for generators.
        input_digests: Content digest per port; for a generator one digest, its data identity
            (16 zero bytes if it has none).
        outputs: Segment records that hold the output rows, in order; may be empty.
        origins: Where the output rows come from, relative to the input.
        failures: Failed rows, positions relative to input and output of this commit.
        filtered: Input rows dropped on purpose.
        ordinal: For a generator, rows that it had committed before this yield; else 0.
        attempt: Try that succeeded, from 1.
        seconds: Time in the step's code.
        usage: Model calls.
        samples: Memo keys and sample numbers that it took.
        worker: Number of the worker in the run, from 1; 0 if not noted, as in older logs.
        at_seconds: When it was written, in seconds since the `RunBegin` before it, by a clock that
            nobody sets; 0 if not noted.
        spare: Input row and position in ``samples`` of those that the row may take again when it is
            tried again: good answers of a row that failed.
    """

    run: RunId
    lineage: Digest
    inputs: tuple[tuple[RowSlice, ...], ...]
    input_digests: tuple[Digest, ...]
    outputs: tuple[BatchRef, ...]
    origins: Origins
    failures: tuple[RowFailure, ...] = ()
    filtered: int = 0
    ordinal: int = 0
    attempt: int = 1
    seconds: float = 0.0
    usage: Usage | None = None
    samples: tuple[tuple[bytes, int], ...] = ()
    worker: int = 0
    at_seconds: float = 0.0
    spare: tuple[tuple[int, int], ...] = ()


class Reuse(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Commits that a run replayed; pins their segment ranges against ``gc``."""

    run: RunId
    lineage: Digest
    commits: tuple[Lsn, ...]


class Intent(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """An outside effect is about to happen; ``key`` is stable across tries."""

    run: RunId
    lineage: Digest
    key: Digest


class Outcome(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """What became of an outside effect: ``note`` is ``ok`` or an error, or a provider's job id."""

    run: RunId
    lineage: Digest
    key: Digest
    note: str


class Route(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """Where a router sent the batch with this content."""

    run: RunId
    lineage: Digest
    input_digest: Digest
    chosen: tuple[StepName, ...]


class StepDone(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """A step committed all of its output in this run.

    Attributes:
        run: Run id.
        lineage: Of the step.
        data_identity: For generators, what the complete data was; else 16 zero bytes.
        rows: Rows that came out.
        failed: Rows that failed.
    """

    run: RunId
    lineage: Digest
    data_identity: Digest
    rows: int
    failed: int


class Emit(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """A dataset is complete and its files are in place.

    Attributes:
        run: Run id.
        key: Digest of signatures, data identities and reading policies: the complete hit.
        leaf: Step whose rows it holds.
        config: Name of the configuration in the Distiset.
        files: Paths relative to the store, with their XXH3-128.
        rows: Rows in it.
        failed: Rows in it that are null forms of failed rows.
        notes: Columns that had to be unified, and how.
    """

    run: RunId
    key: Digest
    leaf: StepName
    config: str
    files: tuple[tuple[str, Digest], ...]
    rows: int
    failed: int = 0
    notes: tuple[str, ...] = ()


class RunEnd(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """A run ended: ``completed``, or why it stopped.

    Attributes:
        run: Run id.
        completed: Whether every step ended.
        key: As in `Emit`.
        failed: Rows that failed anywhere in the run.
        reason: Empty, or what stopped it.
        wall_seconds: Unix time, for people.
    """

    run: RunId
    completed: bool
    key: Digest
    failed: int
    reason: str
    wall_seconds: float


class Tombstone(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """``gc`` dropped the commits with these LSNs: from here on they are a miss, never damage."""

    commits: tuple[Lsn, ...]


class Moved(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """``gc`` copied a live segment record."""

    old: BatchRef
    new: BatchRef


Event: TypeAlias = (
    RunBegin
    | StepDef
    | Commit
    | Reuse
    | Intent
    | Outcome
    | Route
    | StepDone
    | Emit
    | RunEnd
    | Tombstone
    | Moved
)
