"""``asyncdistil retry``: rows of a stored run are asked anew."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from asyncdistil.cli.ending import UsageError, show_json
from asyncdistil.cli.planned import reached_by, show_forecast
from asyncdistil.cli.progress import ProgressDisplay
from asyncdistil.cli.script import FILES, nested
from asyncdistil.cli.stored import opened_run
from asyncdistil.cli.voice import Voice, listen, stop_listening

if TYPE_CHECKING:
    from asyncdistil.pipeline import Pipeline

_SCRIPTS = FILES | {".py"}


def retry(
    wanted: str,
    arguments: Sequence[str],
    cache_dir: Path | None,
    *,
    run: str,
    step: str,
    where: str,
    parameters: Sequence[str],
    pipeline_name: str | None,
    dry_run: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Ask rows anew and show progress, or only say what would be asked; as JSON if asked to.

    Raises:
        UsageError: Nothing of the name is stored, or its steps need a script.
        UserError: The run can't be mended so.
    """
    from asyncdistil.pipeline import again
    from asyncdistil.pipeline.options import RunOptions
    from asyncdistil.pipeline.retry import Wish
    from asyncdistil.pipeline.watch import WATCHER

    path = Path(wanted)
    if path.suffix in _SCRIPTS or path.is_file():
        if cache_dir is not None:
            # As the variable would say it: a script that names a directory itself has its way.
            os.environ["ASYNCDISTIL_CACHE_DIR"] = str(cache_dir.expanduser().absolute())
        pipeline, options = reached_by(path, arguments, parameters=(), pipeline_name=pipeline_name)
        # What the script says of a run in general holds: its dataset, its budget.
        options = replace(options, use_cache=True, retry_failed=True)
    else:
        (pipeline, run), options = _stored(wanted, cache_dir), RunOptions()
    wish = Wish(run, step, where, changed(parameters, step, pipeline))
    if dry_run:
        from asyncdistil.pipeline.forecast import forecast_retry

        show_forecast(forecast_retry(pipeline, options, wish), as_json=as_json)
        return
    console = Console(stderr=True)
    display = ProgressDisplay(console, parameters={})
    voice = Voice(console, verbose=verbose)
    listen(voice)
    token = WATCHER.set(display)
    try:
        again.retry(pipeline, options, wish)
    finally:
        WATCHER.reset(token)
        display.close()
        stop_listening(voice)
    if as_json:
        show_json({"runs": display.ended_runs})


def changed(
    given: Sequence[str], step: str, pipeline: Pipeline
) -> dict[str, dict[str, Any]] | None:
    """Parameters by step: ``key=value`` is one of the step that is retried.

    Raises:
        UsageError: A text has another form, or it is not clear whose parameter it is.
    """
    texts = []
    for text in given:
        name = text.partition("=")[0].partition(".")[0]
        if name not in pipeline and not step:
            raise UsageError(
                f"--with {text!r} names no step of the pipeline: write step.key=value, or say "
                "with --step whose parameter it is"
            )
        texts.append(text if name in pipeline else f"{step}.{text}")
    return nested(texts, option="--with") if texts else None


def _stored(wanted: str, cache_dir: Path | None) -> tuple[Pipeline, str]:
    """The pipeline of a stored run, built from what is kept of it."""
    from asyncdistil.errors import DataError
    from asyncdistil.pipeline.keepsake import kept_pipeline

    name, opened = opened_run(wanted, cache_dir)
    with opened:
        run = opened.begin.run
        try:
            pipeline = kept_pipeline(opened)
        except DataError as error:
            raise UsageError(
                f"the steps of {name!r} can't be built from what is stored ({error}): name the "
                f"script that made it, as in `asyncdistil retry SCRIPT --run {run[:8]}`"
            ) from None
    return pipeline, "" if wanted == name else run
