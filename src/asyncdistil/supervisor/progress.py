"""What a run has done so far, in numbers. Kept by the machine, read by anyone."""

from __future__ import annotations

from dataclasses import dataclass, field

from asyncdistil.batch import Failure, RowId, StepName, Usage


@dataclass(slots=True)
class StepProgress:
    """Counters of one step. Rows are output rows unless said otherwise.

    Attributes:
        rows_computed: Rows committed by this run.
        rows_replayed: Rows taken from stored commits.
        inputs_computed: Input rows whose work was done in this run.
        inputs_replayed: Input rows whose work was found stored.
        failed: Rows that failed, replayed failures included.
        filtered: Input rows dropped on purpose.
        in_flight: Input rows that workers hold now.
        waiting: Input rows that arrived and wait for a worker; counted now and then.
        in_flight_peak: Most input rows that workers held at once.
        batches: Commits written.
        seconds: Time in the step's code, over all workers.
        restarts: Workers started again after a death.
        usage: Model calls of this run.
        done: Whether the step has ended.
        first_failures: The first ten, with the id of the row.
    """

    rows_computed: int = 0
    rows_replayed: int = 0
    inputs_computed: int = 0
    inputs_replayed: int = 0
    failed: int = 0
    filtered: int = 0
    in_flight: int = 0
    waiting: int = 0
    in_flight_peak: int = 0
    batches: int = 0
    seconds: float = 0.0
    restarts: int = 0
    usage: Usage = field(default_factory=Usage)
    done: bool = False
    first_failures: list[tuple[RowId, Failure]] = field(default_factory=list)

    def add_usage(self, usage: Usage) -> None:
        """Add what one batch took."""
        old = self.usage
        self.usage = Usage(
            old.requests + usage.requests,
            old.cached + usage.cached,
            old.input_tokens + usage.input_tokens,
            old.output_tokens + usage.output_tokens,
            old.cost_microusd + usage.cost_microusd,
            old.cached_cost_microusd + usage.cached_cost_microusd,
        )


Progress = dict[StepName, StepProgress]
