"""Which rows of a stored run are asked anew."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from asyncdistil.batch import Failure, Lsn, Row, StepName
from asyncdistil.errors import ParameterError
from asyncdistil.log.events import Commit
from asyncdistil.pipeline.condition import Condition
from asyncdistil.supervisor.stored_run import FailedInput, StoredRun

Ranges: TypeAlias = tuple[tuple[Lsn, int, int], ...]
_Found: TypeAlias = defaultdict[Lsn, set[int]]


def chosen_rows(
    stored: StoredRun, step: str, condition: Condition | None, *, anew: bool
) -> dict[StepName, Ranges]:
    """Input rows of stored commits, per step that has any.

    Args:
        stored: The run.
        step: Its rows only; of all steps if empty.
        condition: Which of them; all if ``None``.
        anew: Whether rows that did not fail count too.

    Raises:
        UnknownRun: The run has no such step.
        ParameterError: The step is a generator.
        ConditionError: No row has a column that the condition names.
    """
    if step and stored.step(step).kind == "generator":
        raise ParameterError(
            f"rows of {step!r} can't be asked anew: a generator makes them of nothing that is "
            "stored; run the pipeline with use_cache=False"
        )
    found: defaultdict[StepName, _Found] = defaultdict(lambda: defaultdict(set))
    columns: set[str] = set()
    for name, lsn, commit, at, row, failure in _candidates(stored, step, anew=anew):
        columns.update(map(str, row))
        if condition is None or condition(row, failure):
            found[name][lsn].update(_asked(stored, name, commit, at))
    if condition is not None and columns:
        condition.check_columns(columns)
    return {
        name: tuple(
            (lsn, start, stop)
            for lsn, places in sorted(each.items())
            for start, stop in _ranges(sorted(places))
        )
        for name, each in found.items()
    }


def _candidates(
    stored: StoredRun, step: str, *, anew: bool
) -> Iterator[tuple[StepName, Lsn, Commit, int, Row, Failure | None]]:
    """Rows with the commit that made them and the place of their input in it."""
    commits = {lsn: commit for each in stored.steps.values() for lsn, commit in each.commits}
    for failed in stored.failures():
        if not step or failed.step == step:
            row = failed_row(stored, failed)
            yield failed.step, failed.lsn, commits[failed.lsn], failed.at, row, failed.failure
    if not anew:
        return
    for part, lsn, commit, first in stored.parts(step):
        failures = {each.output_row for each in commit.failures}
        for output, row in enumerate(stored.read(part), first):
            if output not in failures:
                yield StepName(step), lsn, commit, _input_of(commit, output), row, None


def failed_row(stored: StoredRun, failed: FailedInput) -> Row:
    """Columns of a row that failed: of its input, and what readers see in its place."""
    row: Row = {}
    for part in (*failed.source, *failed.null):
        for each in stored.read(part):
            row |= each
    return row


def _input_of(commit: Commit, output: int) -> int:
    kind = commit.origins.kind
    if kind == "fresh":
        return 0
    return output if kind == "same" else commit.origins.index[output]


def _asked(stored: StoredRun, step: StepName, commit: Commit, at: int) -> Mapping[int, None]:
    """What has to be computed for a row: itself, or the batch that it hangs on."""
    if stored.step(step).kind == "row":
        return {at: None}
    return dict.fromkeys(range(sum(part.rows for part in commit.inputs[0])))


def _ranges(places: list[int]) -> Iterator[tuple[int, int]]:
    """Consecutive numbers as ranges."""
    start = stop = places[0]
    for place in places:
        if place > stop:
            yield start, stop
            start = place
        stop = place + 1
    yield start, stop
