"""``asyncdistil failures``: the rows that failed, each with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from asyncdistil.cli.ending import show_json
from asyncdistil.cli.plain import json_ready, printable
from asyncdistil.cli.stored import opened_run
from asyncdistil.supervisor.stored_run import FailedInput, StoredRun

_INDENT = "    "


def failures(
    wanted: str,
    cache_dir: Path | None,
    *,
    step: str | None,
    details: bool,
    with_rows: bool,
    as_json: bool,
) -> None:
    """Show the dead-letter table of a run.

    Raises:
        UsageError: Nothing of the name is stored.
        UserError: The run has no such step.
    """
    name, run = opened_run(wanted, cache_dir)
    with run:
        if step is not None:
            run.step(step)
        found = [each for each in run.failures() if step is None or each.step == step]
        if as_json:
            entries = [_entry(run, each) for each in found]
            told = {"pipeline": name, "run": run.begin.run, "failures": entries}
            show_json(json_ready(told))
            return
        if not found:
            typer.echo(f"{name}, run {run.begin.run[:8]}: no row failed")
            return
        for each in found:
            _show(run, each, details=details, with_rows=with_rows)
        typer.echo(f"{len(found):,} rows failed; the next run tries them again")


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
