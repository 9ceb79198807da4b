"""`Pipeline.plan`: what a run would replay, compute and call, and why, before it costs anything.

The log is read without its lock and the supervisor's own machine is asked what it would do, so a
forecast can't disagree with the run. No model is loaded and nothing is written.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from asyncdistil.batch import StepName
from asyncdistil.graph.plan import StepKind, StepPlan
from asyncdistil.pipeline.changes import Change, changes_of
from asyncdistil.pipeline.finished import complete_hit
from asyncdistil.pipeline.history import History, Interval, history_of
from asyncdistil.pipeline.options import RunOptions
from asyncdistil.pipeline.planning import PreparedRun, build_plan
from asyncdistil.pipeline.prospect import Prospect, prospect_of
from asyncdistil.pipeline.recall import NOTHING, recall, stored_only_model
from asyncdistil.pipeline.retry import PreparedRetry, Wish, prepare_retry, retried_dataset
from asyncdistil.steps.base import BaseStep
from asyncdistil.supervisor.chunk import Chunk

if TYPE_CHECKING:
    from asyncdistil.pipeline.pipeline import Pipeline


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
    return _forecast(prepared, hit=complete_hit(prepared) is not None)


def forecast_retry(pipeline: Pipeline, options: RunOptions, wish: Wish) -> Forecast:
    """Say what a retry would do; starts and writes nothing.

    Raises:
        UserError: The run can't be mended so.
        LogError: What is stored can't be read.
    """
    prepared = prepare_retry(pipeline, options, wish)
    return _forecast(prepared, hit=retried_dataset(prepared) is not None)


def _forecast(prepared: PreparedRun, *, hit: bool) -> Forecast:
    with ExitStack() as opened:
        prospect = prospect_of(prepared, opened)
        steps = tuple(_Teller(prospect, hit=hit).tell())
    return Forecast(
        prepared.name,
        steps,
        hit=hit,
        resumes=prospect.resumes and not hit,
        refusal=prospect.rehearsal.refusal,
        warnings=prepared.warnings,
    )


@dataclass(slots=True)
class _Expected:
    """Output rows of a step: those stored, and all that are expected (``None``: unknown)."""

    total: int | None
    settled: bool


class _Teller:
    """Puts a rehearsal into numbers and words, step by step from the top."""

    def __init__(self, prospect: Prospect, *, hit: bool) -> None:
        self._prospect = prospect
        self._hit = hit
        self._out: dict[StepName, _Expected] = {}
        self._plans = {step.name: step for step in prospect.plan.steps}
        self._running: set[StepName] = set()

    def tell(self) -> Iterable[StepForecast]:
        """Every step, in topological order."""
        for step in self._prospect.plan.steps:
            made = self._source(step) if step.kind == "generator" else self._step(step)
            if made.runs:
                self._running.add(step.name)
            yield made

    def _source(self, step: StepPlan) -> StepForecast:
        rehearsal, store = self._prospect.rehearsal, self._prospect.store
        history = history_of(step, store)
        came = rehearsal.output(step.name).chunks
        stored = 0
        coming = self._prospect.generated.get(step.name)
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
        changes = changes_of(self._prospect, step)
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
        rehearsal, store = self._prospect.rehearsal, self._prospect.store
        history = history_of(step, store)
        missing = rehearsal.missing(step.name)
        compute = sum(chunk.rows for chunk in missing)
        replayed = rehearsal.inputs_replayed(step.name)
        pending = self._pending(step, replayed + compute)
        settled = pending == 0 and not compute
        fresh = None if pending is None else history.out_of(compute + pending)
        total = None if fresh is None else rehearsal.rows_replayed(step.name) + fresh
        self._out[step.name] = _Expected(total, settled=settled)
        changes = changes_of(self._prospect, step)
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
        rehearsal = self._prospect.rehearsal
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
        prospect = self._prospect
        made = prospect.prepared.step(step.name)
        per_row = _requests_per_row(made)
        if not per_row and not history.requests:
            return {}
        recalled = NOTHING
        if made.use_cache and not self._hit:
            memo = prospect.prepared.cache_dir / "memo"
            recalled = recall(made, missing, memo, prospect.rows, prospect.rehearsal.claims)
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
        prospect = self._prospect
        above = [edge.upstream for edge in step.edges if edge.upstream in self._running]
        own = [change for change in changes if not change.inherited]
        if own:
            return "; ".join(change.short for change in own)
        if prospect.store is None:
            return "the pipeline has not run yet"
        if isinstance(prospect.prepared, PreparedRetry) and prospect.prepared.rows.get(step.name):
            return "these rows are asked anew"
        if not prospect.prepared.options.use_cache:
            return "use_cache=False"
        if step.reuse == "never":
            return "its results can't be told apart: it runs every time"
        if step.reuse == "own_run":
            return "use_cache=False here or above"
        if changes:
            return ", ".join(change.short for change in changes)
        if prospect.store.step_def(step.lineage) is None:
            return "no step like it is stored"
        if above and not arrived:
            return f"rows of {', '.join(above)} are to come"
        if step.kind == "generator" and step.data_identity is None:
            return "nothing tells what its data is: it runs every time"
        if not above and self._failed_before(step):
            return "rows that failed are tried again"
        return "these rows were not finished" if prospect.resumes else "these rows are new"

    def _failed_before(self, step: StepPlan) -> bool:
        store = self._prospect.store
        return store is not None and any(c.failures for _, c in store.commits(step.lineage))


def _calls(step: StepPlan, missing: int, pending: int | None) -> int | None:
    if step.kind == "row" or pending is None:
        return None
    if step.kind == "global":
        return 1 if missing or pending else 0
    return missing + math.ceil(pending / step.input_batch_size)


def _requests_per_row(step: BaseStep) -> int:
    """Requests that one row takes at least, for steps that ask a model."""
    if stored_only_model(step, "embeddings") is not None:
        return 1  # at most: texts are sent together, and equal ones once
    if getattr(step, "llm", None) is None and getattr(step, "image_generation_model", None) is None:
        return 0
    generations = getattr(step, "num_generations", 1)
    return generations if isinstance(generations, int) else 1
