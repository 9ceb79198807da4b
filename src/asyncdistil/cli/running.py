"""``asyncdistil run``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from asyncdistil.cli.ending import show_json
from asyncdistil.cli.progress import ProgressDisplay
from asyncdistil.cli.script import parameters_of, run_script
from asyncdistil.cli.voice import Voice, listen, stop_listening


def run(
    script: Path,
    arguments: Sequence[str],
    *,
    parameters: Sequence[str],
    use_cache: bool,
    pipeline_name: str | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Run a script and show its progress; print the figures of its runs as JSON if asked to."""
    console = Console(stderr=True)
    display = ProgressDisplay(console, parameters=parameters_of(parameters), use_cache=use_cache)
    voice = Voice(console, verbose=verbose)
    listen(voice)
    try:
        run_script(script, arguments, display, pipeline_name=pipeline_name, as_json=as_json)
    finally:
        display.close()
        stop_listening(voice)
    if as_json:
        show_json({"runs": display.ended_runs})
