"""How far a run is: a live table on a terminal, lines in a pipe."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from asyncdistil.errors import ParameterError
from asyncdistil.pipeline.outcome import summary
from asyncdistil.pipeline.watch import Watcher

if TYPE_CHECKING:
    from asyncdistil.batch import StepName
    from asyncdistil.pipeline.options import RunOptions
    from asyncdistil.pipeline.pipeline import Pipeline
    from asyncdistil.pipeline.planning import PreparedRun
    from asyncdistil.pipeline.session import Finished
    from asyncdistil.supervisor.progress import Progress, StepProgress

_REFRESH_PER_SECOND = 5
_LINES_EVERY_SECONDS = 5.0
_LOOK_EVERY_SECONDS = 0.1


class ProgressDisplay(Watcher):
    """Shows every run of a command, and lays the command's overrides over its options.

    Args:
        console: Where to; a terminal gets the live table.
        parameters: Runtime parameters by step, laid over those of the script.
        use_cache: ``False`` overrides what the script says.

    Attributes:
        ended_runs: Figures of the runs that came to their end.
        started_runs: Runs that were started.
    """

    def __init__(
        self, console: Console, *, parameters: dict[str, dict[str, Any]], use_cache: bool = True
    ) -> None:
        self.ended_runs: list[dict[str, Any]] = []
        self.started_runs = 0
        self._console = console
        self._parameters = parameters
        self._use_cache = use_cache
        self._live: Live | None = None
        self._progress: Progress = {}
        self._started_seconds = 0.0
        self._looked_seconds = 0.0
        self._told_seconds = 0.0
        self._told: dict[StepName, tuple[int, int, int]] = {}
        self._told_done: set[StepName] = set()

    def options(self, pipeline: Pipeline, options: RunOptions) -> RunOptions:
        """Lay the command's parameters and ``--no-cache`` over the script's options.

        Raises:
            ParameterError: A parameter is for a step that is not there.
        """
        unknown = sorted(set(self._parameters) - set(pipeline.steps))
        if unknown:
            raise ParameterError(
                f"--param names the step {unknown[0]!r}, which pipeline {pipeline.name!r} does not"
                f" have: its steps are {', '.join(pipeline.steps)}"
            )
        if self._parameters:
            options = replace(options, parameters=self._parameters)
        return options if self._use_cache else replace(options, use_cache=False)

    def started(self, prepared: PreparedRun) -> None:
        """Begin to show a run."""
        self.started_runs += 1
        self.close()
        self._progress, self._told, self._told_done = {}, {}, set()
        self._started_seconds = self._told_seconds = time.monotonic()
        if self._console.is_terminal:
            self._live = Live(
                console=self._console,
                get_renderable=self._table,
                refresh_per_second=_REFRESH_PER_SECOND,
                transient=True,
                # What the script prints goes above the table, unless it goes elsewhere.
                redirect_stdout=sys.stdout.isatty(),
            )
            self._live.start()
        else:
            self._line(f"pipeline {prepared.name!r}: started")

    def turn(self, progress: Progress) -> None:
        """Note the counters; in a pipe, say what is done and, now and then, how far it is."""
        self._progress = progress
        if self._live is not None:
            return
        now = time.monotonic()
        if now - self._looked_seconds < _LOOK_EVERY_SECONDS:
            return
        self._looked_seconds = now
        self._tell_done()
        if now - self._told_seconds >= _LINES_EVERY_SECONDS:
            self._told_seconds = now
            for name, step in _steps(progress):
                counts = (step.rows_computed, step.rows_replayed, step.failed)
                if not step.done and self._told.get(name) != counts:
                    self._told[name] = counts
                    self._line(f"[{name}] {_counted(step)}")

    def ended(self, prepared: PreparedRun, finished: Finished) -> None:
        """Show how the run ended and keep its figures."""
        was_live = self._live is not None
        self.close()
        self._progress = finished.progress
        datasets = {emit.config: emit.rows for emit in finished.emits}
        self.ended_runs.append(
            {
                "pipeline": prepared.name,
                "store": str(finished.root),
                "datasets": datasets,
                **summary(finished),
            }
        )
        if was_live and finished.progress:
            self._console.print(self._table())
        elif finished.progress:
            self._tell_done()
        rows = ", ".join(f"{name}: {count:,} rows" for name, count in datasets.items())
        how = (
            "nothing changed, the stored dataset is served"
            if finished.hit
            else f"done in {finished.seconds:.1f} s"
        )
        failed = f"; {finished.failed_rows:,} rows failed" if finished.failed_rows else ""
        self._line(f"pipeline {prepared.name!r}: {how} ({rows}){failed}")

    def close(self) -> None:
        """Take the live table off the screen."""
        if self._live is not None:
            with suppress(Exception):
                self._live.stop()
            self._live = None

    def _tell_done(self) -> None:
        for name, step in _steps(self._progress):
            if step.done and name not in self._told_done:
                self._told_done.add(name)
                self._line(f"[{name}] done: {_counted(step)}")

    def _line(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True, highlight=False)

    def _table(self) -> Table:
        seconds = max(time.monotonic() - self._started_seconds, 0.001)
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("step")
        for heading in ("computed", "replayed", "failed", "in flight", "rows/s"):
            table.add_column(heading, justify="right")
        table.add_column("")
        for name, step in _steps(dict(self._progress)):
            table.add_row(
                Text(str(name)),
                f"{step.rows_computed:,}",
                Text(f"{step.rows_replayed:,}", style="cyan" if step.rows_replayed else "dim"),
                Text(f"{step.failed:,}", style="red" if step.failed else "dim"),
                f"{step.in_flight:,}",
                f"{step.rows_computed / seconds:,.0f}",
                Text("done", style="green") if step.done else Text(_model(step)),
            )
        return table


def _steps(progress: Progress) -> list[tuple[StepName, StepProgress]]:
    """Steps that users know of: not exporters and routers."""
    return [(name, step) for name, step in progress.items() if "/" not in name]


def _counted(step: StepProgress) -> str:
    text = (
        f"{step.rows_computed:,} rows computed, {step.rows_replayed:,} replayed, "
        f"{step.failed:,} failed"
    )
    return f"{text}; {_model(step)}" if step.usage.requests or step.usage.cached else text


def _model(step: StepProgress) -> str:
    usage = step.usage
    if not usage.requests and not usage.cached:
        return ""
    cost = f", ${usage.cost_microusd / 1e6:.2f}" if usage.cost_microusd else ""
    return f"{usage.requests:,} requests, {usage.cached:,} answered from the memo{cost}"
