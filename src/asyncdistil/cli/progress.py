"""How far a run is: live bars on a terminal and in a notebook, lines in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from asyncdistil.cli.bars import frame
from asyncdistil.errors import ParameterError
from asyncdistil.pipeline.outcome import summary, why_served
from asyncdistil.pipeline.outlook import Outlook, rows_done
from asyncdistil.pipeline.watch import WATCHER, Watcher

if TYPE_CHECKING:
    from asyncdistil.batch import StepName
    from asyncdistil.cli.notebook import NotebookOutput
    from asyncdistil.pipeline.finished import Finished
    from asyncdistil.pipeline.options import RunOptions
    from asyncdistil.pipeline.pipeline import Pipeline
    from asyncdistil.pipeline.planning import PreparedRun
    from asyncdistil.supervisor.progress import Progress, StepProgress

_REFRESH_PER_SECOND = 4
_MANY_STEPS = 100
_LINES_EVERY_SECONDS = 5.0
_LINES_SLOWEST_SECONDS = 60.0
_LOOK_EVERY_SECONDS = 0.1


class ProgressDisplay(Watcher):
    """Shows every run of a command, and lays the command's overrides over its options.

    Args:
        console: Where to; a terminal gets live bars, a notebook an output that is kept up to date.
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
        self._live: Live | NotebookOutput | None = None
        self._progress: Progress = {}
        self._outlook: Outlook | None = None
        self._started_seconds = 0.0
        self._looked_seconds = 0.0
        self._told_seconds = 0.0
        self._tell_every_seconds = _LINES_EVERY_SECONDS
        self._told: dict[StepName, tuple[int, int, int]] = {}
        self._told_done: set[StepName] = set()
        self._told_restarts: dict[StepName, int] = {}

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
        self._told_restarts = {}
        self._tell_every_seconds = _LINES_EVERY_SECONDS
        self._started_seconds = self._told_seconds = time.monotonic()
        self._outlook = Outlook(prepared.outline, _sources(prepared))
        if self._console.is_jupyter:
            from asyncdistil.cli.notebook import NotebookOutput

            self._live = NotebookOutput(self._frame)
        elif self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(
                console=self._console,
                get_renderable=self._whole_frame,
                # Looking at a thousand steps takes some milliseconds.
                refresh_per_second=1
                if len(self._outlook.plan.steps) > _MANY_STEPS
                else _REFRESH_PER_SECOND,
                transient=True,
                # What the script prints goes above the bars, unless it goes elsewhere.
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
        self._tell_events()
        assert self._outlook is not None, "a run begins with `started`"
        self._outlook.look(progress, now)
        if now - self._told_seconds >= self._tell_every_seconds:
            self._told_seconds = now
            # A run of hours wants fewer lines than one of minutes.
            self._tell_every_seconds = min(self._tell_every_seconds * 1.5, _LINES_SLOWEST_SECONDS)
            self._tell_moved(self._outlook)

    def ended(self, prepared: PreparedRun, finished: Finished) -> None:
        """Show how the run ended and keep its figures."""
        was_live = self._live is not None
        self._progress = finished.progress
        in_notebook = self._console.is_jupyter
        self.close()
        datasets = {emit.config: emit.rows for emit in finished.emits}
        self.ended_runs.append(
            {
                "pipeline": prepared.name,
                "store": str(finished.root),
                "datasets": datasets,
                **summary(finished),
            }
        )
        if was_live and finished.progress and not in_notebook:
            self._console.print(self._whole_frame())
        elif finished.progress and not in_notebook:
            self._tell_events()
        rows = ", ".join(f"{name}: {count:,} rows" for name, count in datasets.items())
        how = (
            f"{why_served(prepared)}, the stored dataset is served"
            if finished.hit
            else f"done in {finished.seconds:.1f} s"
        )
        failed = f"; {finished.failed_rows:,} rows failed" if finished.failed_rows else ""
        if finished.resumed:
            how = f"{how}, taken up where the last run stopped"
        self._line(f"pipeline {prepared.name!r}: {how} ({rows}){failed}")

    def close(self) -> None:
        """Take the live bars off the screen; those of a notebook stay as they are."""
        if self._live is not None:
            with suppress(Exception):
                self._live.stop()
            self._live = None

    # --- lines -------------------------------------------------------------------------------

    def _tell_events(self) -> None:
        for name, step in _steps(self._progress):
            if step.restarts > self._told_restarts.get(name, 0):
                self._told_restarts[name] = step.restarts
                self._line(f"[{name}] a worker was started again, {step.restarts:,} so far")
            if step.done and name not in self._told_done:
                self._told_done.add(name)
                self._line(f"[{name}] done: {_counted(step)}")

    def _tell_moved(self, outlook: Outlook) -> None:
        totals, rates = outlook.totals(self._progress), outlook.rates()
        for plan in outlook.plan.steps:
            step = self._progress.get(plan.name)
            if step is None or step.done:
                continue
            counts = (step.rows_computed, step.rows_replayed, step.failed)
            if self._told.get(plan.name) == counts:
                continue
            self._told[plan.name] = counts
            total, rate = totals[plan.name], rates.get(plan.name)
            far = f"{100 * rows_done(plan, step) // total} % of {total:,}: " if total else ""
            fast = f"; {rate.rows:,.1f} rows/s" if rate is not None else ""
            self._line(f"[{plan.name}] {far}{_counted(step)}{fast}")
        remaining = outlook.remaining(self._progress)
        if remaining is not None and remaining.seconds >= 1:
            about = "at least" if remaining.at_least else "about"
            self._line(f"{about} {remaining.seconds:,.0f} s to go")

    def _line(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True, highlight=False)

    # --- bars --------------------------------------------------------------------------------

    def _whole_frame(self) -> Text:
        size = self._console.size
        return self._frame(size.width, size.height)

    def _frame(self, width: int, height: int) -> Text:
        if self._outlook is None:
            return Text()
        now = time.monotonic()
        # The supervisor's thread adds to it, but never takes a step away.
        progress = dict(self._progress)
        self._outlook.look(progress, now)
        seconds = now - self._started_seconds
        return frame(self._outlook, progress, seconds=seconds, width=width, height=height)


@contextmanager
def show_progress(console: Console | None = None) -> Iterator[ProgressDisplay]:
    """Show the progress of every run that is started inside the ``with`` block.

    For scripts and notebooks; ``asyncdistil run`` does it by itself.

    Args:
        console: Where to; standard error, or the cell's output in a notebook.

    Yields:
        The display, which has the figures of the runs that ended.
    """
    display = ProgressDisplay(console or Console(stderr=True), parameters={})
    token = WATCHER.set(display)
    try:
        yield display
    finally:
        display.close()
        WATCHER.reset(token)


def _sources(prepared: PreparedRun) -> dict[StepName, int]:
    """Rows that generators will make, as far as they know."""
    from asyncdistil.steps.generator import GeneratorStep

    known = {}
    for plan in prepared.outline.steps:
        step = prepared.step(plan.name)
        rows = None
        if isinstance(step, GeneratorStep):
            # It is for show, so an error in a user's own method is no reason to stop.
            with suppress(Exception):
                rows = step.expected_rows()
        if rows is not None:
            limit = prepared.options.dry_rows
            known[plan.name] = min(rows, limit) if limit else rows
    return known


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
