"""``asyncdistil plan``: run a script as far as its first run, and say what that would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from asyncdistil.cli.ending import UsageError, show_json
from asyncdistil.cli.plain import json_ready, printable
from asyncdistil.cli.script import parameters_of, run_script
from asyncdistil.cli.voice import Voice, listen, stop_listening
from asyncdistil.pipeline.watch import Watcher

if TYPE_CHECKING:
    from asyncdistil.pipeline.forecast import Forecast
    from asyncdistil.pipeline.options import RunOptions
    from asyncdistil.pipeline.pipeline import Pipeline


class Reached(BaseException):
    """A script came to its run. Not an `Exception`, so that the script doesn't catch it."""


class StopAtRun(Watcher):
    """Keeps the first pipeline that a script runs, and lets nothing start.

    Attributes:
        started_runs: As of a display of progress; 0 until a run was reached.
        reached: The pipeline and the options of the run, or ``None``.
    """

    def __init__(self, *, parameters: dict[str, dict[str, Any]], use_cache: bool = True) -> None:
        self.started_runs = 0
        self.reached: tuple[Pipeline, RunOptions] | None = None
        self._parameters = parameters
        self._use_cache = use_cache

    def options(self, pipeline: Pipeline, options: RunOptions) -> RunOptions:
        """Keep what was about to run, and go no further."""
        if self._parameters:
            pipeline.set_runtime_parameters(self._parameters)
        use_cache = options.use_cache and self._use_cache
        self.reached = pipeline, replace(options, use_cache=use_cache)
        self.started_runs = 1
        raise Reached


def reached_by(
    script: Path,
    arguments: Sequence[str],
    *,
    parameters: Sequence[str],
    pipeline_name: str | None,
    use_cache: bool = True,
) -> tuple[Pipeline, RunOptions]:
    """The pipeline that a script would run, and how.

    Raises:
        UsageError: The script can't be read, or it is not clear what it would run.
    """
    stop = StopAtRun(parameters=parameters_of(parameters), use_cache=use_cache)
    voice = Voice(Console(stderr=True), verbose=False)
    listen(voice)
    try:
        # What the script prints is not what was asked for.
        run_script(script, arguments, stop, pipeline_name=pipeline_name, as_json=True)
    except Reached:
        pass
    finally:
        stop_listening(voice)
    if stop.reached is None:
        raise UsageError(f"{script} ended without running a pipeline: call `run()` in it")
    return stop.reached


def plan(
    script: Path,
    arguments: Sequence[str],
    *,
    parameters: Sequence[str],
    pipeline_name: str | None,
    use_cache: bool,
    as_json: bool,
) -> None:
    """Print the forecast of a script's run."""
    from asyncdistil.pipeline.forecast import forecast

    pipeline, options = reached_by(
        script,
        arguments,
        parameters=parameters,
        pipeline_name=pipeline_name,
        use_cache=use_cache,
    )
    show_forecast(forecast(pipeline, options), as_json=as_json)


def show_forecast(made: Forecast, *, as_json: bool) -> None:
    """Print a forecast."""
    if as_json:
        show_json(json_ready(made.to_dict()))
    else:
        typer.echo(printable(str(made)))
