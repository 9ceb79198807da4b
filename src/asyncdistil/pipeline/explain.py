"""`Pipeline.explain`: which component of a step's key changed, and where a stored row came from."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncdistil.batch import Digest, Failure, Row, RowId, RowSlice, RunId, StepName, Usage
from asyncdistil.errors import GraphError
from asyncdistil.graph.plan import StepPlan
from asyncdistil.pipeline.changes import Change, changes_of, component_changes, nearest_lineage
from asyncdistil.pipeline.options import RunOptions
from asyncdistil.pipeline.planning import build_plan
from asyncdistil.pipeline.prospect import Prospect, prospect_of
from asyncdistil.signature import read_definition
from asyncdistil.supervisor.stored_run import StoredRun, Traced, UnknownRun

if TYPE_CHECKING:
    from asyncdistil.pipeline.pipeline import Pipeline

_MOST_INPUTS = 20


@dataclass(frozen=True, slots=True)
class Retrial:
    """How a row came to be asked anew.

    Attributes:
        mended: Run whose row it took the place of.
        wall_seconds: When the retry began, in Unix time.
        step: Which step the retry named, or empty.
        where: Its condition, or empty.
        changes: What was changed for the rows that it asked.
    """

    mended: RunId
    wall_seconds: float
    step: str
    where: str
    changes: tuple[Change, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        made = {name: getattr(self, name) for name in type(self).__slots__}
        return made | {"changes": [change.to_dict() for change in self.changes]}

    def __str__(self) -> str:
        when = datetime.fromtimestamp(self.wall_seconds).astimezone().isoformat(" ", "seconds")
        chosen = f" for {self.where!r}" if self.where else ""
        changed = ", ".join(change.short for change in self.changes)
        text = f"asked anew{chosen}" + (f" with {changed}" if changed else "")
        return f"{text} at {when}, in place of a row of run {self.mended[:8]}"


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A stored row, the call that made it, and the rows that it was made of.

    Attributes:
        step: Which step made it.
        row_id: Its id in the run: source ordinal, then child ordinals; ``None`` if the run used
            an equal row of another call in its place.
        position: Its place in the step's output, from 0, or ``None``.
        row: The row itself.
        run: Id of the run that made it.
        replayed: Whether that is an earlier run.
        attempts: Tries that the call took, or the row if it failed.
        seconds: Time in the step's code, for the whole call.
        batch_rows: Input rows of the call.
        usage: What the model calls of the call took, or ``None``.
        failure: Why the row failed, if it did.
        inputs: The rows that it was made of; of a step whose rows hang on all of a batch, the
            first 20 of them.
        inputs_count: How many there are.
        retried: If the row was asked anew by a retry: by which, when, and what was changed for it.
    """

    step: str
    row_id: RowId | None
    position: int | None
    row: Row = field(repr=False)
    run: RunId
    replayed: bool
    attempts: int
    seconds: float
    batch_rows: int
    usage: Usage | None
    failure: Failure | None
    inputs: tuple[Ancestor, ...] = field(default=(), repr=False)
    inputs_count: int = 0
    retried: Retrial | None = None

    def line(self) -> list[Ancestor]:
        """The row, what it was made of, and so on up to a generator; the first port of each."""
        return [self, *(self.inputs[0].line() if self.inputs else ())]

    def to_dict(self) -> dict[str, Any]:
        """Plain data; the row's values as they are."""
        made = {name: getattr(self, name) for name in type(self).__slots__}
        made["row_id"] = None if self.row_id is None else list(self.row_id)
        for name in ("usage", "failure"):
            value = made[name]
            made[name] = value and {key: getattr(value, key) for key in value.__struct_fields__}
        made["inputs"] = [parent.to_dict() for parent in self.inputs]
        made["retried"] = None if self.retried is None else self.retried.to_dict()
        return made

    def __str__(self) -> str:
        return "\n".join(self._lines(0))

    def _lines(self, depth: int) -> Iterator[str]:
        number = "" if self.row_id is None else " row " + ".".join(map(str, self.row_id))
        how = "replayed from" if self.replayed else "computed in"
        text = f"{'  ' * depth}{self.step}{number}: {how} run {self.run[:8]}"
        text += f", call of {self.batch_rows} rows, {self.seconds:.3f} s"
        if self.attempts > 1:
            text += f", {self.attempts} attempts"
        if self.usage is not None:
            text += f", {self.usage.requests} requests, {self.usage.cached} from the memo"
            text += f", {self.usage.input_tokens + self.usage.output_tokens} tokens"
            if self.usage.cost_microusd:
                text += f", ${self.usage.cost_microusd / 1e6:.6f}"
        if self.failure is not None:
            text += f"; FAILED: {self.failure.kind}: {self.failure.message}"
        if self.retried is not None:
            text += f"; {self.retried}"
        yield text
        for parent in self.inputs:
            yield from parent._lines(depth + 1)
        if self.inputs_count > len(self.inputs):
            yield f"{'  ' * (depth + 1)}and {self.inputs_count - len(self.inputs)} rows more"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the key of a step is made of, and what of it changed since something was stored.

    Attributes:
        step: Its name.
        lineage: Name of the step together with everything above it, 32 hex digits.
        stored: Whether the log knows this very lineage.
        nearest: Lineage of the stored step that is most like it, or ``None``.
        changes: Components that differ from that one; empty if none does.
        causes: Changes of steps above that it inherits, by step.
        components: Of the key, by name.
    """

    step: str
    lineage: str
    stored: bool
    nearest: str | None
    changes: tuple[Change, ...]
    causes: Mapping[str, tuple[Change, ...]]
    components: Mapping[str, Any] = field(repr=False)
    _store: tuple[Path, str] = field(repr=False, default=(Path(), ""))

    def why(self, row: int, *, run: str = "") -> Ancestor:
        """Say where a row of the last run came from.

        Args:
            row: Its place in the step's output, from 0, in source order; negative ones count
                from the end. For the last step that is its place in the dataset.
            run: Id of another run, or how it begins.

        Raises:
            UnknownRun: There is no such run or row.
            LogError: It can't be read.
        """
        return why(*self._store, self.step, row, run=run)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "step": self.step,
            "lineage": self.lineage,
            "stored": self.stored,
            "nearest": self.nearest,
            "changes": [change.to_dict() for change in self.changes],
            "causes": {
                name: [change.to_dict() for change in changes]
                for name, changes in self.causes.items()
            },
            "components": {name: _plain(value) for name, value in self.components.items()},
        }

    @property
    def summary(self) -> str:
        """One sentence."""
        if self.nearest is None:
            return "no step like it is stored: it runs for the first time"
        if not self.changes:
            return "nothing changed: its key is stored"
        named = ", ".join(change.component for change in self.changes)
        return f"{named} changed"

    def __str__(self) -> str:
        lines = [f"{self.step}: {self.summary}"]
        lines += [str(change) for change in self.changes]
        for name, changes in self.causes.items():
            lines += [f"above, in {name}:", *(str(change) for change in changes)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """For notebooks."""
        return f"<pre>{html.escape(str(self))}</pre>"


def explain(pipeline: Pipeline, step: str, options: RunOptions) -> Explanation:
    """Compare the key of a step with the nearest stored one.

    Raises:
        GraphError: There is no such step.
        UserError: The pipeline could not run.
        LogError: What is stored can't be read.
    """
    prepared = build_plan(pipeline, options)
    with ExitStack() as opened:
        prospect = prospect_of(prepared, opened)
        plans = {plan.name: plan for plan in prospect.plan.steps}
        plan = plans.get(StepName(step))
        if plan is None:
            raise GraphError(f"there is no step {step!r} to explain: there are {', '.join(plans)}")
        key, _ = read_definition(plan.definition)
        nearest = None if prospect.store is None else nearest_lineage(plan, prospect.store)
        return Explanation(
            step=step,
            lineage=plan.lineage.hex(),
            stored=nearest == plan.lineage,
            nearest=None if nearest is None else nearest.hex(),
            changes=changes_of(prospect, plan),
            causes=dict(_causes(prospect, plan, plans)),
            components=key["step"],
            _store=(prepared.cache_dir, prepared.name),
        )


def _causes(
    prospect: Prospect, step: StepPlan, plans: Mapping[StepName, StepPlan]
) -> Iterator[tuple[str, tuple[Change, ...]]]:
    """Own changes of every step above, from the top."""
    above: set[StepName] = set()
    open_steps = [step]
    while open_steps:
        for edge in open_steps.pop().edges:
            if edge.upstream not in above:
                above.add(edge.upstream)
                open_steps.append(plans[edge.upstream])
    for name, plan in plans.items():
        if name in above:
            own = tuple(c for c in changes_of(prospect, plan) if not c.inherited)
            if own:
                yield name, own


def why(cache_dir: Path, name: str, step: str, row: int, *, run: str = "") -> Ancestor:
    """Say where a stored row came from.

    Args:
        cache_dir: Where results are kept.
        name: Of the pipeline.
        step: Whose output.
        row: Place in it, from 0; negative ones count from the end.
        run: Id of the run, or how it begins; the newest one without it.

    Raises:
        UnknownRun: There is no such run, step or row.
        LogError: It can't be read.
    """
    opened = StoredRun.open(cache_dir, name, run)
    if opened is None:
        raise UnknownRun(f"nothing is stored under the name {name!r} in {cache_dir}: run it first")
    with opened as stored:
        traced = stored.trace(stored.locate(step, row))
        assert traced is not None, "a row of a run has the commit that it was found by"
        return _ancestor(stored, traced)


def _ancestor(run: StoredRun, traced: Traced) -> Ancestor:
    commit = traced.commit
    singles = [
        RowSlice(part.ref, at, at + 1)
        for part in traced.inputs
        for at in range(part.start, part.stop)
    ]
    parents = [run.trace(part) for part in singles[:_MOST_INPUTS]]
    (row,) = run.read(traced.part)
    rows = max((sum(part.rows for part in port) for port in commit.inputs), default=0)
    return Ancestor(
        step=traced.step,
        row_id=traced.row,
        position=traced.position,
        row=row,
        run=commit.run,
        replayed=traced.replayed,
        attempts=traced.failure.attempts if traced.failure is not None else commit.attempt,
        seconds=commit.seconds,
        batch_rows=rows or sum(ref.rows for ref in commit.outputs),
        usage=commit.usage,
        failure=traced.failure,
        inputs=tuple(_ancestor(run, parent) for parent in parents if parent is not None),
        inputs_count=len(singles),
        retried=_retrial(run, traced),
    )


def _retrial(run: StoredRun, traced: Traced) -> Retrial | None:
    """What a retry had to do with a row; ``None`` if it is of another run, or only came along."""
    wrote = traced.commit.run
    begins = [begin for begin, _ in run.store.runs() if begin.run == wrote]
    retry = begins[0].retry if begins else None
    asked = next((s for s in retry.steps if s.step == traced.step), None) if retry else None
    if retry is None or asked is None or not (asked.rows or asked.again != asked.lineage):
        return None
    changes: list[Change] = []
    if asked.again != asked.lineage:
        old, new = run.store.step_def(asked.lineage), run.store.step_def(asked.again)
        changes = component_changes(old, new) if old and new else []
    return Retrial(
        mended=retry.base,
        wall_seconds=begins[-1].wall_seconds,
        step=retry.step,
        where=retry.where,
        changes=tuple(changes),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return Digest(value).hex()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else repr(value)
