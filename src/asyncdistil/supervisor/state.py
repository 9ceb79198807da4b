"""What the parts of the machine share while one run is under way."""

from __future__ import annotations

from asyncdistil.batch import Lsn, RowFailure, RowId, RunId, StepName, Usage
from asyncdistil.errors import (
    AsyncDistilError,
    BudgetExhausted,
    FailureBudgetExceeded,
    StepError,
    UnencodableValue,
)
from asyncdistil.graph.plan import RunPlan, StepPlan
from asyncdistil.log.events import Event, Reuse
from asyncdistil.supervisor.claims import Claims
from asyncdistil.supervisor.commands import Command, Send, WorkerId
from asyncdistil.supervisor.governors import Governors
from asyncdistil.supervisor.progress import Progress, StepProgress
from asyncdistil.transport.messages import Result, ToWorker

_REUSE_RECORD_COMMITS = 1024
_WHOLE_FAILURES = 3
_ROWS_THAT_PROVE = 2
_FAILURES_SHOWN = 10
_BREACHES: dict[str, type[AsyncDistilError]] = {
    f"{kind.__module__}.{kind.__qualname__}": kind for kind in (StepError, UnencodableValue)
}
"""Failures that are the step's own doing: it gave something else than it promised."""


class RunState:
    """Numbers, outgoing commands and the stop request of one run.

    Args:
        plan: What runs.
        run: Its id.
    """

    def __init__(self, plan: RunPlan, run: RunId) -> None:
        self.plan = plan
        self.run = run
        self.now_seconds = 0.0
        self._began_seconds: float | None = None
        self.events: list[Event] = []
        self.commands: list[Command] = []
        self.claims = Claims()
        self.governors = Governors()
        self._spent_microusd = 0
        self._spent_tokens = 0
        self.warnings: list[str] = []
        self.progress: Progress = {}
        self.stop: AsyncDistilError | None = None
        self.draining = False
        self._tickets = 0
        self._next_worker = 1
        self._next_lease = 1
        self._replayed: dict[bytes, list[Lsn]] = {}
        self._whole_failures: dict[StepName, int] = {}

    def at(self, now_seconds: float) -> None:
        """Learn the time; the first one told is when the run began."""
        if self._began_seconds is None:
            self._began_seconds = now_seconds
        self.now_seconds = now_seconds

    @property
    def run_seconds(self) -> float:
        """Seconds since the run began."""
        began = self._began_seconds
        return 0.0 if began is None else self.now_seconds - began

    def append(self, event: Event) -> int:
        """Have an event appended to the log.

        Returns:
            Its ticket: 1 for the first event of the run, and so on. The log numbers records in
            its own way, with marks of its own between them.
        """
        self._tickets += 1
        self.events.append(event)
        return self._tickets

    def send(self, worker: WorkerId, message: ToWorker) -> None:
        """Have a message sent, after this turn's appends."""
        self.commands.append(Send(worker, message))

    def new_worker(self) -> WorkerId:
        """A number for the next spawn."""
        self._next_worker += 1
        return WorkerId(self._next_worker - 1)

    def new_lease(self) -> int:
        """A number for the next lease."""
        self._next_lease += 1
        return self._next_lease - 1

    def fail(self, error: AsyncDistilError) -> None:
        """Ask the run to stop; the first cause is the one that is reported.

        Nothing is handed out from here on, not even what a failure gave back.
        """
        if self.stop is None:
            self.stop = error
        self.draining = True
        self.governors.wind_down()

    def replayed(self, lineage: bytes, lsn: Lsn) -> None:
        """Note a replayed commit; the notes become REUSE records, which pin what they name."""
        noted = self._replayed.setdefault(lineage, [])
        # One commit is often replayed in several pieces, one after another.
        if not noted or noted[-1] != lsn:
            noted.append(lsn)
        if len(noted) >= _REUSE_RECORD_COMMITS:
            self.flush_replayed(lineage)

    def flush_replayed(self, lineage: bytes) -> None:
        """Write the REUSE record of a step."""
        noted = self._replayed.pop(lineage, None)
        if noted:
            self.append(Reuse(self.run, lineage, tuple(noted)))  # type: ignore[arg-type]

    def failures(
        self, step: StepPlan, failures: tuple[RowFailure, ...], first: RowId, *, whole: bool
    ) -> None:
        """Count failed rows of one commit, and stop a run that fails too much to be an accident.

        Args:
            step: Whose rows failed.
            failures: Of one commit, not empty.
            first: Id of the commit's first input row.
            whole: Whether every row of the commit failed.
        """
        counters: StepProgress = self.progress[step.name]
        counters.failed += len(failures)
        for failure in failures[: _FAILURES_SHOWN - len(counters.first_failures)]:
            row = (*first[:-1], first[-1] + failure.input_row) if first else (failure.input_row,)
            counters.first_failures.append((row, failure.failure))
        cause = failures[0].failure
        reason = f"{cause.kind}: {cause.message}"
        if self.plan.raise_on_failure:
            self.fail(
                FailureBudgetExceeded(
                    f"a row of step {step.name!r} failed and on_error='raise' was asked for: "
                    f"{reason}. Mend the cause and run again; finished work is kept."
                )
            )
        seen = self._whole_failures.get(step.name, 0)
        if seen >= 0:
            # Counted from the start of the step only: a step that ever worked is not broken.
            self._whole_failures[step.name] = seen + 1 if whole else -1
            breach = _BREACHES.get(cause.kind)
            if whole and breach is not None and all(f.failure.kind == cause.kind for f in failures):
                self.fail(
                    breach(
                        f"step {step.name!r} broke its contract with every row of a batch before "
                        f"it gave a good one: {cause.message}. Mend it and run again; finished "
                        "work is kept."
                    )
                )
            if whole and seen + 1 >= _WHOLE_FAILURES:
                self.fail(
                    FailureBudgetExceeded(
                        f"the first {_WHOLE_FAILURES} batches of step {step.name!r} failed whole, "
                        f"which looks like a bug and not like bad rows: {reason}. Mend it and run "
                        "again; finished work is kept."
                    )
                )
        limit = step.max_failures
        if limit is not None and counters.failed > limit:
            self.fail(
                FailureBudgetExceeded(
                    f"step {step.name!r} has {counters.failed} failed rows, more than its "
                    f"max_failures={limit}; the first: {counters.first_failures[0][1].kind}: "
                    f"{counters.first_failures[0][1].message}. Mend the cause or raise the limit "
                    "and run again; finished work is kept."
                )
            )

    def nothing_worked(self, step: StepPlan) -> None:
        """Stop a run whose step ended without a single good row; one row alone proves nothing."""
        counters = self.progress[step.name]
        tried = counters.inputs_computed
        if tried < _ROWS_THAT_PROVE or counters.inputs_replayed or counters.failed < tried:
            return
        if counters.rows_computed > counters.failed:
            return  # a row may become several, of which some are good
        cause = counters.first_failures[0][1]
        self.fail(
            FailureBudgetExceeded(
                f"all {tried} rows of step {step.name!r} failed, which looks like a bug and not "
                f"like bad rows: {cause.kind}: {cause.message}. Mend it and run again; finished "
                "work is kept."
            )
        )

    def spent(self, step: StepName, usage: Usage) -> None:
        """Book what the model calls of one batch took, and keep to the budget."""
        self.progress[step].add_usage(usage)
        self._spent_microusd += usage.cost_microusd
        self._spent_tokens += usage.input_tokens + usage.output_tokens
        dollars, tokens = self.plan.budget_microusd, self.plan.budget_tokens
        if dollars is not None and self._spent_microusd >= dollars:
            spent, limit = f"${self._spent_microusd / 1e6:.4f}", f"${dollars / 1e6:.4f}"
        elif tokens is not None and self._spent_tokens >= tokens:
            spent, limit = f"{self._spent_tokens:,} tokens", f"{tokens:,} tokens"
        else:
            return
        self.governors.close("the budget of the run is spent")
        self.fail(
            BudgetExhausted(
                f"the run has spent {spent} of its budget of {limit} and sends no more requests. "
                "Every answer that was paid for is kept: run again with a larger budget to go on."
            )
        )

    def account(
        self, step: StepPlan, first: RowId, inputs: int, result: Result, *, whole: bool
    ) -> None:
        """Count what a worker reports.

        Args:
            step: Whose rows they are.
            first: Id of the first input row covered.
            inputs: Input rows covered.
            result: The report.
            whole: Whether it covers all of its lease.
        """
        counters = self.progress[step.name]
        counters.batches += 1
        counters.inputs_computed += inputs
        counters.rows_computed += sum(ref.rows for ref in result.outputs)
        counters.filtered += result.filtered
        counters.seconds += result.seconds
        if result.usage is not None:
            self.spent(step.name, result.usage)
        if result.failures:
            rows = {failed.input_row for failed in result.failures}
            made = sum(ref.rows for ref in result.outputs)
            # Of a row that became several some may be good.
            all_failed = whole and len(rows) >= inputs and len(result.failures) >= made
            self.failures(step, result.failures, first, whole=all_failed)
        else:
            self.worked(step.name)

    def worked(self, step: StepName) -> None:
        """Note that a batch of a step had at least one good row."""
        self._whole_failures[step] = -1
