"""A run as far as the log carries it, rehearsed: what forecasts and explanations are made from.

The log is read without its lock, and rows that a loader holds already are compared before they are
written. No model is loaded and nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, NamedTuple

from asyncdistil.batch import BatchRef, Digest, Lsn, Origins, Row, RowSlice, RunId, StepName
from asyncdistil.codec import EncodedRows, content_digest, decode_rows, encode_rows
from asyncdistil.graph.plan import RunPlan, StepPlan
from asyncdistil.log import StoreReader
from asyncdistil.log.events import Commit
from asyncdistil.pipeline.planning import PreparedRun
from asyncdistil.pipeline.supervision import run_id_of
from asyncdistil.steps.load_dicts import LoadDataFromDicts
from asyncdistil.supervisor.rehearsal import (
    UNWRITTEN,
    DigestsAtHand,
    Foreseen,
    NothingStored,
    Rehearsal,
)
from asyncdistil.supervisor.reuse import generator_chain

_FRESH = Origins("fresh")


class Generated(NamedTuple):
    """What a generator will have made.

    Attributes:
        rows: All of its rows.
        begun: How many of them an earlier run has stored.
    """

    rows: int
    begun: int


@dataclass(frozen=True, slots=True)
class Prospect:
    """A run that was rehearsed, and what is known beside it.

    Attributes:
        prepared: The run.
        plan: Its plan.
        rehearsal: How far the log carries it.
        store: The store, or ``None`` if the pipeline never ran.
        resumes: Whether an unfinished run would be taken up.
        generated: Rows of generators that are known before they run, by step.
        rows: Reads rows that are stored, or known before they are.
    """

    prepared: PreparedRun
    plan: RunPlan
    rehearsal: Rehearsal
    store: StoreReader | None
    resumes: bool
    generated: Mapping[StepName, Generated]
    rows: Callable[[RowSlice], list[Row]]


def prospect_of(prepared: PreparedRun, opened: ExitStack) -> Prospect:
    """Rehearse a run.

    Args:
        prepared: The run.
        opened: Closes the store and its reader, when its owner is done.
    """
    plan = prepared.outline
    store = StoreReader.open(prepared.cache_dir, prepared.name)
    reader = None
    run, resumes = RunId("0" * 32), False
    if store is not None:
        opened.enter_context(closing(store))
        reader = opened.enter_context(closing(store.reader()))
        run, resumes = run_id_of(store, plan)
    stored = NothingStored() if store is None else store
    coming: dict[Digest, list[Commit]] = {}
    unwritten: dict[int, EncodedRows] = {}
    generated: dict[StepName, Generated] = {}
    for step in plan.steps:
        rows = _rows_to_come(prepared, step, run, stored.step_done)
        if rows:
            coming[step.lineage] = list(_unwritten(step, run, rows, unwritten))
            begun = _begun(step, run, stored.commits(step.lineage))
            generated[step.name] = Generated(sum(map(len, rows)), begun)
    rehearsal = Rehearsal(plan, run, Foreseen(stored, coming), DigestsAtHand(reader, unwritten))

    def rows_of(part: RowSlice) -> list[Row]:
        if part.ref.segment != UNWRITTEN:
            assert reader is not None, "only a store has references to segments"
            return reader.rows(part)
        body, offsets, _ = unwritten[part.ref.offset]
        return decode_rows(body[offsets[part.start] : offsets[part.stop]], part.rows)

    return Prospect(prepared, plan, rehearsal, store, resumes, generated, rows_of)


def _rows_to_come(
    prepared: PreparedRun,
    step: StepPlan,
    run: RunId,
    step_done: Callable[[Digest, Digest], tuple[Any, RunId] | None],
) -> list[list[Row]]:
    """The yields of a generator that will run and whose rows the program holds already."""
    made = prepared.step(step.name)
    if prepared.retry is not None:
        return []  # no generator of a retry runs
    # Exactly this class: a subclass may do anything.
    if type(made) is not LoadDataFromDicts or step.data_identity is None:
        return []
    if step.reuse == "never" or prepared.options.dry_rows:
        return []
    done = step_done(step.lineage, step.data_identity)
    if done is not None and (step.reuse == "any" or done[1] == run):
        return []
    return [rows for rows, _ in made.generate(0) if rows]


def _begun(step: StepPlan, run: RunId, commits: Sequence[tuple[Lsn, Commit]]) -> int:
    """Rows of a generator that the run goes on behind."""
    assert step.data_identity is not None
    own = [(lsn, c) for lsn, c in commits if step.reuse == "any" or c.run == run]
    chain = generator_chain(own, step.data_identity)
    return sum(ref.rows for _, commit in chain for ref in commit.outputs)


def _unwritten(
    step: StepPlan, run: RunId, batches: list[list[Row]], unwritten: dict[int, EncodedRows]
) -> Iterator[Commit]:
    """The commits of yields that are compared and never written."""
    identity = step.data_identity
    assert identity is not None
    ordinal = 0
    for rows in batches:
        encoded = encode_rows(rows, step=step.name)
        place = len(unwritten)
        unwritten[place] = encoded
        ref = BatchRef(UNWRITTEN, place, 0, len(rows), 0, content_digest(encoded.digests))
        yield Commit(run, step.lineage, (), (identity,), (ref,), _FRESH, ordinal=ordinal)
        ordinal += len(rows)
