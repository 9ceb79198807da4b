"""How much of a run is ahead, by what is known of its sources and seen of its steps. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from asyncdistil.batch import StepName
from asyncdistil.graph.plan import RunPlan, StepPlan
from asyncdistil.supervisor.progress import Progress, StepProgress

_WINDOW_SECONDS = 20.0
_SAMPLE_SECONDS = 1.0


class Rate(NamedTuple):
    """What a step did of late.

    Attributes:
        rows: Input rows computed or replayed per second; of a generator, its own rows.
        tokens: Paid tokens per second.
    """

    rows: float
    tokens: float


class Remaining(NamedTuple):
    """How long a run will still take.

    Attributes:
        seconds: By the slowest step at its present rate.
        at_least: Whether some step can't be judged yet.
    """

    seconds: float
    at_least: bool


def rows_done(step: StepPlan, counters: StepProgress) -> int:
    """Input rows that a step is done with; of a generator, rows that it made."""
    if not step.edges:
        return counters.rows_computed + counters.rows_replayed
    return counters.inputs_computed + counters.inputs_replayed


@dataclass
class Outlook:
    """Totals and rates of one run.

    Attributes:
        plan: What runs.
        sources: Rows that generators are expected to make, where that is known.
    """

    plan: RunPlan
    sources: Mapping[StepName, int]
    _seen: deque[tuple[float, dict[StepName, tuple[int, int]]]] = field(default_factory=deque)

    def totals(self, progress: Progress) -> dict[StepName, int | None]:
        """Input rows that each step will have had at the end, as far as can be told now.

        A step that makes several rows of one, or drops some, is taken to go on as it began.
        ``None`` where nothing tells: below a global step that has not ended, or behind a router.
        """
        totals: dict[StepName, int | None] = {}
        outputs: dict[StepName, int | None] = {}
        for step in self.plan.steps:
            counters = progress.get(step.name) or StepProgress()
            done = rows_done(step, counters)
            total = self._total(step, outputs)
            if counters.done:
                total = done
            elif total is not None:
                total = max(total, done)
            totals[step.name] = total
            outputs[step.name] = _output(step, counters, done, total)
        return totals

    def _total(self, step: StepPlan, outputs: Mapping[StepName, int | None]) -> int | None:
        if not step.edges:
            return self.sources.get(step.name)
        if any(edge.routed for edge in step.edges):
            return None
        above = [outputs.get(edge.upstream) for edge in step.edges]
        known = [rows for rows in above if rows is not None]
        return max(known) if len(known) == len(above) else None

    def look(self, progress: Progress, now_seconds: float) -> None:
        """Note how far every step is; cheap, and does nothing if called again at once."""
        seen = self._seen
        if seen and now_seconds - seen[-1][0] < _SAMPLE_SECONDS:
            return
        counts = {}
        for step in self.plan.steps:
            counters = progress.get(step.name)
            if counters is not None:
                usage = counters.usage
                tokens = usage.input_tokens + usage.output_tokens
                counts[step.name] = rows_done(step, counters), tokens
        seen.append((now_seconds, counts))
        while len(seen) > 2 and now_seconds - seen[0][0] > _WINDOW_SECONDS:
            seen.popleft()

    def rates(self) -> dict[StepName, Rate]:
        """What the steps did over the last seconds."""
        if len(self._seen) < 2:
            return {}
        (began, first), (ended, last) = self._seen[0], self._seen[-1]
        span = ended - began
        nothing = 0, 0
        return {
            name: Rate(
                (rows - first.get(name, nothing)[0]) / span,
                (tokens - first.get(name, nothing)[1]) / span,
            )
            for name, (rows, tokens) in last.items()
        }

    def remaining(self, progress: Progress) -> Remaining | None:
        """How long the run will still take, ``None`` as long as nothing tells."""
        rates = self.rates()
        longest: float | None = None
        at_least = False
        totals = self.totals(progress)
        for step in self.plan.steps:
            counters = progress.get(step.name)
            if counters is None or counters.done:
                continue
            total, rate = totals[step.name], rates.get(step.name)
            done = rows_done(step, counters)
            if total is None or rate is None or rate.rows <= 0:
                at_least = at_least or total is None or total > done
                continue
            longest = max(longest or 0.0, (total - done) / rate.rows)
        return None if longest is None else Remaining(longest, at_least)


def _output(step: StepPlan, counters: StepProgress, done: int, total: int | None) -> int | None:
    """Rows that a step will have made at the end."""
    made = counters.rows_computed + counters.rows_replayed
    if counters.done:
        return made
    if total is None or step.kind == "global":
        return None
    if not step.edges or not done:
        return total
    return round(made * total / done)
