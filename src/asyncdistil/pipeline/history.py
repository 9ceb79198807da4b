"""What earlier batches of a step took, to estimate what more of them would take."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from asyncdistil.batch import Usage
from asyncdistil.graph.plan import StepPlan
from asyncdistil.log import StoreReader
from asyncdistil.log.events import Commit
from asyncdistil.pipeline.changes import nearest_lineage


class Interval(NamedTuple):
    """From ``low`` to ``high``, both included."""

    low: int
    high: int


@dataclass(slots=True)
class History:
    """What earlier batches of the nearest stored step took.

    Attributes:
        rows_in: Input rows of all of them.
        rows_out: Output rows, ``None`` if nothing is stored.
        seconds: In the step's code.
        requests: Answered by the service or by the memo.
        rates: Per batch that paid: requests, or rows if those are more; tokens; cost in millionths
            of a US dollar.
    """

    rows_in: int = 0
    rows_out: int | None = None
    seconds: float = 0.0
    requests: int = 0
    rates: list[tuple[int, int, int]] = field(default_factory=list)

    def add(self, commit: Commit) -> None:
        """Take in one batch."""
        made = sum(ref.rows for ref in commit.outputs)
        given = sum(part.rows for part in commit.inputs[0]) if commit.inputs else made
        self.rows_in += given
        self.rows_out = (self.rows_out or 0) + made
        self.seconds += commit.seconds
        usage: Usage | None = commit.usage
        if usage is not None:
            self.requests += usage.requests + usage.cached
            if usage.requests:
                tokens = usage.input_tokens + usage.output_tokens
                # Where rows are sent together, a row is what a request is elsewhere.
                paid = max(usage.requests, given - usage.cached)
                self.rates.append((paid, tokens, usage.cost_microusd))

    def out_of(self, rows: int) -> int:
        """Output rows that so many input rows give; as many, if nothing is stored."""
        if not self.rows_in or self.rows_out is None:
            return rows
        return round(rows * self.rows_out / self.rows_in)

    @property
    def requests_per_row(self) -> float:
        """Requests per input row."""
        return self.requests / self.rows_in if self.rows_in else 0.0

    def seconds_for(self, rows: int | None) -> float | None:
        """Time in the step's code for so many rows."""
        if rows is None or not self.rows_in:
            return None
        return self.seconds / self.rows_in * rows

    def tokens_for(self, calls: int) -> Interval | None:
        """Tokens of so many requests."""
        return self._interval(calls, 1)

    def cost_for(self, calls: int) -> Interval | None:
        """What so many requests cost."""
        return self._interval(calls, 2)

    def _interval(self, calls: int, place: int) -> Interval | None:
        if not self.rates:
            return None
        each = [rate[place] / rate[0] for rate in self.rates]
        return Interval(math.floor(calls * min(each)), math.ceil(calls * max(each)))


def history_of(step: StepPlan, store: StoreReader | None) -> History:
    """What the step, or the stored one nearest to it, took in the newest run that worked on it."""
    history = History()
    if store is None:
        return history
    commits = store.commits(step.lineage)
    if not commits:
        lineage = nearest_lineage(step, store)
        commits = store.commits(lineage) if lineage is not None else []
    newest = commits[-1][1].run if commits else None
    for _, commit in commits:
        # A generator's rows are those of its newest data; others are better known by all runs.
        if step.kind != "generator" or commit.run == newest:
            history.add(commit)
    return history
