"""``asyncdistil explain``: why a step of a script would run again, and where a row came from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from asyncdistil.cli.ending import show_json
from asyncdistil.cli.plain import json_ready, printable
from asyncdistil.cli.planned import reached_by


def explain(
    script: Path,
    step: str,
    arguments: Sequence[str],
    *,
    parameters: Sequence[str],
    pipeline_name: str | None,
    row: int | None,
    as_json: bool,
) -> None:
    """Print what changed in the key of a step, or the ancestry of a row of its last run.

    Raises:
        UserError: There is no such step or row.
    """
    from asyncdistil.pipeline import explain as explaining

    pipeline, options = reached_by(
        script, arguments, parameters=parameters, pipeline_name=pipeline_name
    )
    if row is not None:
        ancestor = explaining.why(pipeline.cache_dir, pipeline.name, step, row)
        if as_json:
            show_json(json_ready(ancestor.to_dict()))
        else:
            typer.echo(printable(str(ancestor)))
        return
    explanation = explaining.explain(pipeline, step, options)
    if as_json:
        show_json(json_ready(explanation.to_dict()))
    else:
        typer.echo(printable(str(explanation)))
