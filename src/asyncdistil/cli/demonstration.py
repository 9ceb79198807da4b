"""``asyncdistil demo``: what the demonstration found, as a table."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from asyncdistil.cli.ending import show_json
from asyncdistil.demo.report import ModelFigures, Report
from asyncdistil.demo.show import demonstrate

_NAMES = {
    "killed": "killed half-way",
    "resumed": "resumed",
    "again": "run again",
}


def demo(directory: Path | None, *, as_json: bool) -> None:
    """Run the demonstration and show its report."""
    if directory is None:
        directory = Path(tempfile.mkdtemp(prefix="asyncdistil-demo-"))
    told = Console(stderr=True)
    report = demonstrate(
        directory.absolute(), say=lambda text: told.print(text, highlight=False, soft_wrap=True)
    )
    if as_json:
        show_json(report)
    else:
        _show(report, Console(file=sys.stdout))


def _show(report: Report, console: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("run")
    for heading in ("seconds", "rows computed", "replayed", "computed twice", "cut off"):
        table.add_column(heading, justify="right")
    for run in report.runs:
        name = _NAMES[run.run]
        if run.run == "killed" and not report.killed:
            name = "not killed"
        table.add_row(
            name,
            f"{run.seconds:.1f}",
            f"{run.rows_computed:,}",
            f"{run.rows_replayed:,}",
            Text(str(run.computed_twice), style="bold red" if run.computed_twice else "green"),
            f"{run.cut_off:,}",
        )
    console.print()
    console.print(table)
    console.print()
    _say(
        console,
        "Rows computed are counted from what the steps wrote down when they were called. Computed "
        "twice: their work was committed when the run was killed, and was done again all the same."
        " Cut off: in the hands of a worker when the kill came.",
    )
    if report.model is not None:
        _show_model(report.model, console)
    _say(console, f"The dataset: {report.rows:,} rows in {report.dataset}", space=True)
    for row in report.samples:
        _say(console, f"Q: {row['question']}", space=True)
        _say(console, f"A: {' '.join(row['answer'].split())}")


def _show_model(model: ModelFigures, console: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("model calls")
    for heading in ("seconds", "requests"):
        table.add_column(heading, justify="right")
    for name, seconds, requests in zip(_NAMES.values(), model.seconds, model.requests, strict=True):
        table.add_row(name, f"{seconds:.1f}", f"{requests:,}")
    console.print()
    console.print(table)
    console.print()
    _say(
        console,
        f"{model.rows:,} rows, one request each. The server saw {model.asked_twice:,} of them "
        f"twice: their answers had not reached the log when the kill came. Up to "
        f"{model.peak_in_flight:,} were under way at once.",
    )


def _say(console: Console, text: str, *, space: bool = False) -> None:
    if space:
        console.print()
    console.print(Text(text), soft_wrap=not console.is_terminal)
