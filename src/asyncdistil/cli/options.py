"""Options that the `cache` commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asyncdistil.cli.completion import stored_names

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir",
        envvar="ASYNCDISTIL_CACHE_DIR",
        help="Cache directory.",
        show_default="~/.cache/asyncdistil",
    ),
]
Name = Annotated[
    str,
    typer.Argument(metavar="PIPELINE", help="Name of the pipeline.", autocompletion=stored_names),
]
OneOrAll = Annotated[
    str | None, typer.Argument(metavar="[PIPELINE]", help="One pipeline; all without it.")
]
Pinnable = Annotated[
    str, typer.Argument(metavar="NAME|RUN", help="A pipeline, a run's id, or NAME@ID.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
