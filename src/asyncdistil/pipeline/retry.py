"""`Pipeline.retry`: rows of a stored run are asked anew, and all else of it stands.

A retry is a run whose stored work lies in layers (`supervisor.layers`): what the mended run used,
less the rows that are asked anew. So it starts the workers of steps that have such rows, and sends
what comes out through the rest of the graph by the same rules as any run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
from xxhash import xxh3_128_digest

from asyncdistil.batch import Digest, RunId, StepName
from asyncdistil.codec import canonical_bytes
from asyncdistil.distiset.tables import exports_in_place
from asyncdistil.errors import ParameterError
from asyncdistil.graph import RunPlan
from asyncdistil.log import StoreReader
from asyncdistil.log.events import Retried, Retry, RunBegin, RunEnd
from asyncdistil.pipeline.choice import chosen_rows
from asyncdistil.pipeline.condition import Condition
from asyncdistil.pipeline.finished import Finished
from asyncdistil.pipeline.options import RunOptions
from asyncdistil.pipeline.planning import PreparedRun, build_plan
from asyncdistil.steps.base import BaseStep
from asyncdistil.supervisor.layers import chain_of, layers_of
from asyncdistil.supervisor.operator import NO_DIGEST
from asyncdistil.supervisor.stored_run import StoredRun, UnknownRun

if TYPE_CHECKING:
    from asyncdistil.pipeline.pipeline import Pipeline

Parameters = Mapping[str, Mapping[str, Any]]
Runs = Sequence[tuple[RunBegin, RunEnd | None]]


@dataclass(frozen=True, slots=True)
class Wish:
    """Which rows shall be asked anew, and how.

    Attributes:
        run: Id of the run to be mended, or how it begins; the newest one without it.
        step: Rows of this step; of all steps without it.
        where: Condition on rows. With ``step`` it chooses among all rows of the step, without it
            among those that failed.
        parameters: Runtime parameters by step, for rows that the retry computes.
    """

    run: str = ""
    step: str = ""
    where: str = ""
    parameters: Parameters | None = None

    @property
    def anew(self) -> bool:
        """Whether rows that did not fail may be asked too."""
        return bool(self.step and self.where)


@dataclass
class PreparedRetry(PreparedRun):
    """A retry that may start.

    Attributes:
        changed: The run as it would be if all of it had the changed parameters.
        mended: Plan of the run that is mended, as its store tells it.
        history: All runs of the store, oldest first.
    """

    changed: PreparedRun = field(kw_only=True)
    mended: RunPlan = field(kw_only=True)
    history: Sequence[RunBegin] = field(kw_only=True)

    @cached_property
    def plan(self) -> RunPlan:
        """What the supervisor needs."""
        return self._layered(payloads=True)

    @cached_property
    def outline(self) -> RunPlan:
        """The plan without the pickled steps."""
        return self._layered(payloads=False)

    def step(self, name: StepName) -> BaseStep:
        """The copy of a step that computes rows of this retry."""
        return self.changed.step(name)

    @property
    def rows(self) -> dict[StepName, int]:
        """How many input rows are asked anew, of steps where there are any."""
        assert self.retry is not None
        counts = {s.step: sum(stop - start for _, start, stop in s.rows) for s in self.retry.steps}
        return {step: count for step, count in counts.items() if count}

    def _layered(self, *, payloads: bool) -> RunPlan:
        assert self.retry is not None
        begin = RunBegin(RunId(""), "", "", b"", 0.0, retry=self.retry)
        runs = [*self.history, begin]
        layers = layers_of(chain_of(begin, runs), runs, live=True)
        usual = self._plan(payloads=payloads)
        changed = self.changed.plan if payloads else self.changed.outline
        stored = {step.name: step for step in self.mended.steps}
        steps = []
        for old, new, retried in zip(usual.steps, changed.steps, self.retry.steps, strict=True):
            generated = stored[old.name].data_identity
            step = msgspec.structs.replace(
                new,
                lineage=old.lineage,
                definition=new.definition if retried.again != old.lineage else old.definition,
                reuse="any",
                data_identity=generated,
                layers=layers[old.name],
            )
            if generated == NO_DIGEST:
                # What it yielded in other runs is another matter.
                (first, *rest) = step.layers
                only = msgspec.structs.replace(first, runs=frozenset({first.judged}))
                step = msgspec.structs.replace(step, layers=(only, *rest))
            steps.append(step)
        return msgspec.structs.replace(
            usual,
            steps=tuple(steps),
            routers=tuple(msgspec.structs.replace(r, reuse="any") for r in usual.routers),
            options=usual.options + self.retry.request,
        )


def prepare_retry(pipeline: Pipeline, options: RunOptions, wish: Wish) -> PreparedRetry:
    """Find the rows that shall be asked anew and plan how; starts and writes nothing.

    Raises:
        UnknownRun: Nothing is stored, or there is no such run or step.
        ParameterError: The run can't be mended so: it has not ended, or the pipeline is another
            one by now; or the condition can't be read.
        UserError: As for a run.
        LogError: What is stored can't be read.
    """
    condition = Condition(wish.where) if wish.where else None
    usual = build_plan(pipeline, options)
    changed = usual
    if wish.parameters:
        changed = build_plan(pipeline, replace(options, parameters=wish.parameters))
    again = {step.name: _again(usual, changed, step.name) for step in usual.outline.steps}
    runs = _runs(usual)
    base = _base(usual, runs, wish, again)
    stored = StoredRun.open(usual.cache_dir, usual.name, base.run)
    assert stored is not None, "the store has this run"
    with stored:
        rows = chosen_rows(stored, wish.step, condition, anew=wish.anew)
        mended = stored.plan
    if wish.anew and rows:
        changed.ask_anew(StepName(wish.step))
    retry = Retry(
        base=base.run,
        request=_request(base.run, wish, again),
        steps=tuple(
            Retried(name, usual.named(name).lineage, lineage, rows.get(name, ()))
            for name, lineage in again.items()
        ),
        retry_failed=mended.retry_failed,
        step=wish.step,
        where=wish.where,
        anew=wish.anew,
    )
    return PreparedRetry(
        **{each.name: getattr(usual, each.name) for each in fields(usual) if each.name != "retry"}
        | {"complete_key": _key(usual, retry, _end_of(runs, base))},
        retry=retry,
        changed=changed,
        mended=mended,
        history=[begin for begin, _ in runs],
    )


def retried_dataset(prepared: PreparedRetry) -> Finished | None:
    """The dataset of an equal retry that left no failed row, or of a run with nothing to retry."""
    assert prepared.retry is not None
    reader = StoreReader.open(prepared.cache_dir, prepared.name)
    assert reader is not None, "the store has the run that is mended"
    with closing(reader):
        for begin, end in reversed(reader.runs()):
            mended = begin.retry is not None and begin.retry.request == prepared.retry.request
            if end is None or not end.completed or (prepared.rows and end.failed):
                continue
            if mended or (not prepared.rows and begin.run == prepared.retry.base):
                made = {e.leaf: e for e in reader.emits(end.key) if e.run == begin.run}
                emits = [made[leaf] for leaf in prepared.leaves if leaf in made]
                if len(emits) == len(prepared.leaves) and all(
                    exports_in_place(reader.root, emit.files) for emit in emits
                ):
                    return Finished(reader.root, emits, hit=True, failed_rows=end.failed)
    return None


def _again(usual: PreparedRun, changed: PreparedRun, name: StepName) -> Digest:
    """What computed rows of a step are stored under: as usual, unless it was changed itself."""
    old, new = usual.named(name), changed.named(name)
    return old.lineage if old.identity.digest == new.identity.digest else new.lineage


def _runs(prepared: PreparedRun) -> Runs:
    reader = StoreReader.open(prepared.cache_dir, prepared.name)
    if reader is None:
        raise UnknownRun(
            f"nothing is stored under the name {prepared.name!r} in {prepared.cache_dir}: run the "
            "pipeline first"
        )
    with closing(reader):
        return reader.runs()


def _base(
    usual: PreparedRun,
    runs: Runs,
    wish: Wish,
    again: Mapping[StepName, Digest],
) -> RunBegin:
    """The run that shall be mended: the newest one of this pipeline, or the one that was named."""
    signed = usual.signature, usual.aggregated_signature
    named = [(b, e) for b, e in runs if b.run.startswith(wish.run)]
    if not named or (wish.run and len({b.run for b, _ in named}) > 1):
        known = ", ".join(dict.fromkeys(b.run[:8] for b, _ in runs[-5:]))
        raise UnknownRun(f"pipeline {usual.name!r} has no one run {wish.run!r}; last: {known}")
    able = [(b, e) for b, e in named if (b.signature, b.aggregated_signature) == signed]
    if not able:
        raise ParameterError(
            f"run {named[-1][0].run[:8]} of {usual.name!r} was made by other steps or parameters "
            "than the pipeline has now, so rows that are asked anew would not fit in. Run the "
            "pipeline, or give the changed parameters to the retry alone; `explain` says what "
            "changed"
        )
    begin, end = able[-1]
    retry = None if wish.run else begin.retry
    if retry is not None and retry.request == _request(retry.base, wish, again):
        # The same retry once more: it is asked of the run that it was asked of before.
        return next(b for b, _ in reversed(runs) if b.run == retry.base)
    if end is None or not end.completed:
        raise ParameterError(
            f"run {begin.run[:8]} of {usual.name!r} has not ended: run the pipeline, it goes on "
            "from there and tries failed rows again"
        )
    return begin


def _request(base: RunId, wish: Wish, again: Mapping[StepName, Digest]) -> Digest:
    """Names a retry: equal ones repeat nothing."""
    preimage = {"base": base, "step": wish.step, "where": wish.where, "again": dict(again)}
    return Digest(xxh3_128_digest(canonical_bytes("asyncdistil/retry/1", preimage)))


def _end_of(runs: Runs, base: RunBegin) -> Digest:
    """Key of the dataset of a run."""
    end = next(e for b, e in reversed(runs) if b.run == base.run)
    assert end is not None, "only runs that ended can be mended"
    return end.key


def _key(usual: PreparedRun, retry: Retry, mended: Digest) -> Digest:
    """What the dataset is found by.

    The key of a run only if a run would give the same: of the same data and reading policies,
    with nothing changed for some rows.
    """
    if usual.complete_key == mended and all(s.again == s.lineage for s in retry.steps):
        return mended
    preimage = {"usual": usual.complete_key, "retry": retry.request}
    return Digest(xxh3_128_digest(canonical_bytes("asyncdistil/retried/1", preimage)))
