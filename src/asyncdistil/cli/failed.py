"""``asyncdistil failures``: the rows that failed, each with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from asyncdistil.cli.ending import show_json
from asyncdistil.cli.plain import json_ready, printable
from asyncdistil.cli.stored import condition_of, opened_run
from asyncdistil.supervisor.stored_run import FailedInput, StoredRun

if TYPE_CHECKING:
    from asyncdistil.pipeline.condition import Condition

_INDENT = "    "


def failures(
    wanted: str,
    cache_dir: Path | None,
    *,
    step: str | None,
    where: str | None,
    details: bool,
    with_rows: bool,
    as_json: bool,
) -> None:
    """Show the dead-letter table of a run.

    Raises:
        UsageError: Nothing of the name is stored, or the condition can't be read.
        UserError: The run has no such step, or its rows no such column.
    """
    condition = condition_of(where) if where else None
    name, run = opened_run(wanted, cache_dir)
    with run:
        if step is not None:
            run.step(step)
        found = [each for each in run.failures() if step is None or each.step == step]
        if condition is not None:
            found = _matching(run, found, condition)
        if as_json:
            entries = [_entry(run, each) for each in found]
            told = {"pipeline": name, "run": run.begin.run, "failures": entries}
            show_json(json_ready(told))
            return
        if not found:
            such = "such row" if condition is not None else "row"
            typer.echo(f"{name}, run {run.begin.run[:8]}: no {such} failed")
            return
        for each in found:
            _show(run, each, details=details, with_rows=with_rows)
        typer.echo(f"{len(found):,} rows failed; the next run, or a retry, tries them again")


def _matching(run: StoredRun, found: list[FailedInput], condition: Condition) -> list[FailedInput]:
    from asyncdistil.pipeline.choice import failed_row

    columns: set[str] = set()
    kept = []
    for each in found:
        row = failed_row(run, each)
        columns.update(map(str, row))
        if condition(row, each.failure):
            kept.append(each)
    if columns:
        condition.check_columns(columns)
    return kept


def _show(run: StoredRun, each: FailedInput, *, details: bool, with_rows: bool) -> None:
    failure = each.failure
    tries = f", {failure.attempts} attempts" if failure.attempts > 1 else ""
    number = "" if each.row is None else f" row {'.'.join(map(str, each.row))}"
    message = printable(failure.message)
    typer.echo(f"{each.step}{number}: {printable(failure.kind)}{tries}: {message}")
    if with_rows:
        for row in _inputs(run, each):
            typer.echo(_indented(repr(row)))
    if details and failure.detail:
        typer.echo(_indented(failure.detail))


def _indented(text: str) -> str:
    return "\n".join(_INDENT + line for line in printable(text).splitlines())


def _inputs(run: StoredRun, each: FailedInput) -> list[dict[str, Any]]:
    return [row for part in each.source for row in run.read(part)]


def _entry(run: StoredRun, each: FailedInput) -> dict[str, Any]:
    return {
        "step": each.step,
        "row": None if each.row is None else list(each.row),
        "class": each.failure.kind,
        "message": each.failure.message,
        "attempts": each.failure.attempts,
        "detail": each.failure.detail,
        "run": each.wrote,
        "inputs": _inputs(run, each),
    }
