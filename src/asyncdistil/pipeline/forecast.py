"""`Pipeline.plan`: what a run would replay, compute and call, and why, before it costs anything.

The log is read without its lock and the supervisor's own machine is asked what it would do, so a
forecast can't disagree with the run. No model is loaded and nothing is written.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from asyncdistil.batch import BatchRef, Digest, Lsn, Origins, Row, RowSlice, RunId, StepName
from asyncdistil.codec import EncodedRows, content_digest, decode_rows, encode_rows
from asyncdistil.graph.plan import RunPlan, StepKind, StepPlan
from asyncdistil.log import StoreReader
from asyncdistil.log.events import Commit
from asyncdistil.pipeline.changes import Change, changes_of
from asyncdistil.pipeline.history import History, Interval, history_of
from asyncdistil.pipeline.options import RunOptions
from asyncdistil.pipeline.planning import PreparedRun, build_plan
from asyncdistil.pipeline.recall import NOTHING, recall
from asyncdistil.pipeline.session import complete_hit, run_id_of
from asyncdistil.steps.base import BaseStep
from asyncdistil.steps.load_dicts import LoadDataFromDicts
from asyncdistil.supervisor.chunk import Chunk
from asyncdistil.supervisor.rehearsal import (
    UNWRITTEN,
    DigestsAtHand,
    Foreseen,
    NothingStored,
    Rehearsal,
)
from asyncdistil.supervisor.reuse import generator_chain

if TYPE_CHECKING:
    from asyncdistil.pipeline.pipeline import Pipeline

_FRESH = Origins("fresh")


@dataclass(frozen=True, slots=True)
class StepForecast:
    """What a run would do with one step. Counts are of input rows; of a generator, its own rows.

    Attributes:
        name: Of the step.
        kind: ``generator``, ``row``, ``batch`` or ``global``.
        replayed: Rows that stored work stands for. Exact.
        compute: Rows that are certain to be computed. Exact.
        pending: Rows expected from steps above that have to run first, by what earlier runs made
            of their input; 0 if all rows are known, ``None`` if nothing tells how many.
        reusable: Whether some of the pending rows may be replayed, once they are known; without
            it all of them are computed.
        calls: Calls of ``process`` with the rows that are computed or pending; ``None`` for
            row-wise steps, whose calls hold as many rows as happen to wait, and if unknown.
        why: What makes it run, in words; empty if all of it is replayed.
        changes: Components of its key that differ from the nearest stored one.
        model_calls: Requests for the rows that are computed or pending, at most: those of rows
            that are not stored yet may be in the memo too. 0 for steps without a model.
        memo_answers: Requests for stored rows that the memo answers for nothing.
        tokens: Paid tokens of those requests, by the cheapest and the dearest stored batch;
            ``None`` if nothing is stored to go by.
        cost_microusd: The same in millionths of a US dollar.
        seconds: Time in the step's code, by what earlier runs took per row, over all workers;
            ``None`` if nothing is stored to go by.
    """

    name: str
    kind: StepKind
    replayed: int
    compute: int
    pending: int | None
    reusable: bool
    calls: int | None
    why: str
    changes: tuple[Change, ...] = field(default=(), repr=False)
    model_calls: int | None = 0
    memo_answers: int = 0
    tokens: Interval | None = None
    cost_microusd: Interval | None = None
    seconds: float | None = None

    @property
    def exact(self) -> bool:
        """Whether every number of rows is certain."""
        return self.pending == 0

    @property
    def runs(self) -> bool:
        """Whether the step has anything to do, or may have."""
        return self.compute > 0 or self.pending != 0

    @property
    def to_run(self) -> int | None:
        """Rows that are computed if nothing that is pending can be replayed."""
        return None if self.pending is None else self.compute + self.pending

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        made = {name: getattr(self, name) for name in type(self).__slots__ if name != "changes"}
        made["changes"] = [change.to_dict() for change in self.changes]
        made["exact"] = self.exact
        for interval in ("tokens", "cost_microusd"):
            made[interval] = None if made[interval] is None else list(made[interval])
        return made


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run would do.

    Attributes:
        pipeline: Name that the run would be logged under.
        steps: In topological order.
        hit: Whether the stored dataset is served as it is: nothing runs, no worker is started.
        resumes: Whether the last run has not ended and would be taken up.
        refusal: What would stop the run where the log ends, or empty.
        warnings: What a run would warn of.
    """

    pipeline: str
    steps: tuple[StepForecast, ...]
    hit: bool
    resumes: bool
    refusal: str = ""
    warnings: tuple[str, ...] = ()

    def __getitem__(self, step: str) -> StepForecast:
        """The forecast of one step."""
        for found in self.steps:
            if found.name == step:
                return found
        raise KeyError(f"no step {step!r}: there are {', '.join(s.name for s in self.steps)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "pipeline": self.pipeline,
            "summary": self.summary,
            "hit": self.hit,
            "resumes": self.resumes,
            "refusal": self.refusal,
            "warnings": list(self.warnings),
            "steps": [step.to_dict() for step in self.steps],
        }

    @property
    def summary(self) -> str:
        """One sentence."""
        if self.hit:
            return "Nothing runs: the stored dataset is served."
        if not any(step.runs for step in self.steps):
            return "No step runs: every row is replayed, only the dataset is written again."
        running = [step for step in self.steps if step.runs]
        known = "" if all(step.exact for step in running) else "at least "
        text = f"{len(running)} of {len(self.steps)} steps run"
        text += f", {known}{sum(step.compute for step in running):,} rows are computed"
        return f"{text}{_spending(self.steps)}{_duration(running)}."

    def __str__(self) -> str:
        lines = [f"{self.pipeline}: {self.summary}"]
        if self.resumes:
            lines.append("The last run has not ended: it is taken up, or still under way.")
        lines += _aligned([_HEADINGS, *(_cells(step) for step in self.steps)])
        lines += [f"! {text}" for text in (*self.warnings, self.refusal) if text]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """As a table, for notebooks."""
        rows = [_html_row("th", _HEADINGS), *(_html_row("td", _cells(s)) for s in self.steps)]
        notes = "".join(
            f"<p>{html.escape(text)}</p>" for text in (*self.warnings, self.refusal) if text
        )
        return (
            f"<p><b>{html.escape(self.pipeline)}</b>: {html.escape(self.summary)}</p>"
            f"<table>{''.join(rows)}</table>{notes}"
        )


_HEADINGS = ("step", "replayed", "to compute", "after others", "calls", "why")


def _cells(step: StepForecast) -> tuple[str, ...]:
    after = "unknown" if step.pending is None else f"{step.pending:,}" if step.pending else ""
    if step.pending and step.reusable:
        after = f"up to {after}"
    elif step.pending:
        after = f"about {after}"
    calls = "" if step.calls is None else f"{step.calls:,}"
    if step.model_calls is None:
        calls = "model calls: unknown"
    elif step.model_calls:
        calls = f"up to {step.model_calls:,} of the model"
    if step.memo_answers:
        calls += f"{', ' if step.model_calls else ''}{step.memo_answers:,} from the memo"
    return (step.name, f"{step.replayed:,}", f"{step.compute:,}", after, calls, step.why)


def _spending(steps: Sequence[StepForecast]) -> str:
    calls = [step.model_calls for step in steps]
    answers = sum(step.memo_answers for step in steps)
    memo = f", {answers:,} answers come from the memo" if answers else ""
    if not any(calls) and None not in calls:
        return memo
    text = f", at most {sum(n or 0 for n in calls):,} model calls"
    if None in calls:
        text = ", an unknown number of model calls"
    for what, of in (("tokens", "tokens"), ("cost", "cost_microusd")):
        found = [value for step in steps if (value := getattr(step, of)) is not None]
        low, high = sum(v.low for v in found), sum(v.high for v in found)
        if what == "tokens" and high:
            text += f", {_range(f'{low:,}', f'{high:,}')} tokens"
        elif high:
            text += f", {_range(f'${low / 1e6:.4f}', f'${high / 1e6:.4f}')}"
    return text + memo


def _range(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


def _duration(steps: Iterable[StepForecast]) -> str:
    seconds = sum(step.seconds or 0.0 for step in steps)
    # Shorter ones are ruled by the start of the workers, which is in no step's code.
    return f", about {seconds:,.0f} s in steps' code" if seconds >= 1 else ""


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            text.ljust(width) if place in (0, len(row) - 1) else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _html_row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(text)}</{tag}>' for text in cells)}</tr>"


# --- how it is found out --------------------------------------------------------------------------


def forecast(pipeline: Pipeline, options: RunOptions) -> Forecast:
    """Say what a run with these options would do; starts and writes nothing.

    Raises:
        UserError: The pipeline, its parameters or its data must change before it can run.
        LogError: What is stored can't be read.
    """
    prepared = build_plan(pipeline, options)
    hit = complete_hit(prepared) is not None
    with ExitStack() as opened:
        outlook = outlook_of(prepared, opened)
        steps = tuple(_Teller(outlook, hit=hit).tell())
    return Forecast(
        prepared.name,
        steps,
        hit=hit,
        resumes=outlook.resumes and not hit,
        refusal=outlook.rehearsal.refusal,
        warnings=prepared.warnings,
    )


class Generated(NamedTuple):
    """What a generator will have made.

    Attributes:
        rows: All of its rows.
        begun: How many of them an earlier run has stored.
    """

    rows: int
    begun: int


@dataclass(frozen=True, slots=True)
class Outlook:
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


def outlook_of(prepared: PreparedRun, opened: ExitStack) -> Outlook:
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

    return Outlook(prepared, plan, rehearsal, store, resumes, generated, rows_of)


def _rows_to_come(
    prepared: PreparedRun,
    step: StepPlan,
    run: RunId,
    step_done: Callable[[Digest, Digest], tuple[Any, RunId] | None],
) -> list[list[Row]]:
    """The yields of a generator that will run and whose rows the program holds already."""
    made = prepared.step(step.name)
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


@dataclass(slots=True)
class _Expected:
    """Output rows of a step: those stored, and all that are expected (``None``: unknown)."""

    total: int | None
    settled: bool


class _Teller:
    """Puts a rehearsal into numbers and words, step by step from the top."""

    def __init__(self, outlook: Outlook, *, hit: bool) -> None:
        self._outlook = outlook
        self._hit = hit
        self._out: dict[StepName, _Expected] = {}
        self._plans = {step.name: step for step in outlook.plan.steps}
        self._running: set[StepName] = set()

    def tell(self) -> Iterable[StepForecast]:
        """Every step, in topological order."""
        for step in self._outlook.plan.steps:
            made = self._source(step) if step.kind == "generator" else self._step(step)
            if made.runs:
                self._running.add(step.name)
            yield made

    def _source(self, step: StepPlan) -> StepForecast:
        rehearsal, store = self._outlook.rehearsal, self._outlook.store
        history = history_of(step, store)
        came = rehearsal.output(step.name).chunks
        stored = 0
        coming = self._outlook.generated.get(step.name)
        pending: int | None = 0
        if coming is not None:
            stored = coming.begun
            compute = coming.rows - stored
            self._out[step.name] = _Expected(coming.rows, settled=True)
        else:
            stored = sum(chunk.rows for chunk in came)
            settled = rehearsal.ended(step.name)
            total = stored if settled else history.rows_out
            if total is not None:
                total = max(total, stored)
            compute = 0
            pending = None if total is None else total - stored
            if settled:
                pending = 0
            self._out[step.name] = _Expected(total, settled=settled)
            if pending == 0 and not settled:
                pending = None  # it runs, and whether more rows come is for it to say
        changes = changes_of(self._outlook, step)
        runs = compute or pending != 0
        return StepForecast(
            name=step.name,
            kind=step.kind,
            replayed=stored,
            compute=compute,
            pending=pending,
            reusable=False,
            calls=1 if runs else 0,
            why=self._why(step, changes, computing=bool(runs)),
            changes=changes,
            seconds=history.seconds_for(compute + pending) if pending is not None else None,
            **self._model(step, history, None if pending is None else compute + pending),
        )

    def _step(self, step: StepPlan) -> StepForecast:
        rehearsal, store = self._outlook.rehearsal, self._outlook.store
        history = history_of(step, store)
        missing = rehearsal.missing(step.name)
        compute = sum(chunk.rows for chunk in missing)
        replayed = rehearsal.inputs_replayed(step.name)
        pending = self._pending(step, replayed + compute)
        settled = pending == 0 and not compute
        fresh = None if pending is None else history.out_of(compute + pending)
        total = None if fresh is None else rehearsal.rows_replayed(step.name) + fresh
        self._out[step.name] = _Expected(total, settled=settled)
        changes = changes_of(self._outlook, step)
        to_run = None if pending is None else compute + pending
        return StepForecast(
            name=step.name,
            kind=step.kind,
            replayed=replayed,
            compute=compute,
            pending=pending,
            reusable=rehearsal.stored(step.name) and pending != 0,
            calls=_calls(step, len(missing), pending),
            why=self._why(step, changes, computing=not settled, arrived=bool(compute)),
            changes=changes,
            seconds=history.seconds_for(to_run),
            **self._model(step, history, to_run, missing),
        )

    def _pending(self, step: StepPlan, here: int) -> int | None:
        """Input rows that are still to come, given how many are dealt with."""
        rehearsal = self._outlook.rehearsal
        ports = []
        for edge in step.edges:
            above = self._out[edge.upstream]
            if not above.settled:
                if edge.routed or step.converges is not None or above.total is None:
                    return None
            elif edge.routed and rehearsal.to_route(edge.upstream):
                return None
            ports.append(above)
        if all(port.settled for port in ports):
            # Everything has arrived; what no worker and no stored work covers was dropped.
            return 0
        if any(rehearsal.routed(edge.upstream) and edge.routed for edge in step.edges):
            return None
        return max(max(port.total or 0 for port in ports) - here, 0)

    def _model(
        self,
        step: StepPlan,
        history: History,
        rows: int | None,
        missing: Sequence[Chunk] = (),
    ) -> dict[str, Any]:
        outlook = self._outlook
        made = outlook.prepared.step(step.name)
        per_row = _requests_per_row(made)
        if not per_row and not history.requests:
            return {}
        recalled = NOTHING
        if step.reuse == "any" and not self._hit:
            memo = outlook.prepared.cache_dir / "memo"
            recalled = recall(made, missing, memo, outlook.rows, outlook.rehearsal.claims)
        if rows is None:
            return {"model_calls": None, "memo_answers": recalled.answers}
        calls = math.ceil((rows - recalled.rows) * max(per_row, history.requests_per_row))
        return {
            "model_calls": calls,
            "memo_answers": recalled.answers,
            "tokens": history.tokens_for(calls),
            "cost_microusd": history.cost_for(calls),
        }

    def _why(
        self, step: StepPlan, changes: tuple[Change, ...], *, computing: bool, arrived: bool = False
    ) -> str:
        if self._hit or not computing:
            return ""
        outlook = self._outlook
        above = [edge.upstream for edge in step.edges if edge.upstream in self._running]
        own = [change for change in changes if not change.inherited]
        if own:
            return "; ".join(change.short for change in own)
        if outlook.store is None:
            return "the pipeline has not run yet"
        if not outlook.prepared.options.use_cache:
            return "use_cache=False"
        if step.reuse == "never":
            return "its results can't be told apart: it runs every time"
        if step.reuse == "own_run":
            return "use_cache=False here or above"
        if changes:
            return ", ".join(change.short for change in changes)
        if outlook.store.step_def(step.lineage) is None:
            return "no step like it is stored"
        if above and not arrived:
            return f"rows of {', '.join(above)} are to come"
        if step.kind == "generator" and step.data_identity is None:
            return "nothing tells what its data is: it runs every time"
        if not above and self._failed_before(step):
            return "rows that failed are tried again"
        return "these rows were not finished" if outlook.resumes else "these rows are new"

    def _failed_before(self, step: StepPlan) -> bool:
        store = self._outlook.store
        return store is not None and any(c.failures for _, c in store.commits(step.lineage))


def _calls(step: StepPlan, missing: int, pending: int | None) -> int | None:
    if step.kind == "row" or pending is None:
        return None
    if step.kind == "global":
        return 1 if missing or pending else 0
    return missing + math.ceil(pending / step.input_batch_size)


def _requests_per_row(step: BaseStep) -> int:
    """Requests that one row takes at least, for steps that ask a model."""
    if getattr(step, "llm", None) is None and getattr(step, "image_generation_model", None) is None:
        return 0
    generations = getattr(step, "num_generations", 1)
    return generations if isinstance(generations, int) else 1
