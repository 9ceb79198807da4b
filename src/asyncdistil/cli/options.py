"""Arguments and options that commands share."""

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
Script = Annotated[
    Path,
    typer.Argument(
        metavar="SCRIPT_OR_YAML", help="A Python script, or a YAML file with a pipeline."
    ),
]
Arguments = Annotated[list[str] | None, typer.Argument(metavar="[-- ARGS]", help="For the script.")]
Param = Annotated[
    list[str] | None,
    typer.Option(metavar="STEP.KEY=VALUE", help="Set a runtime parameter; may be repeated."),
]
Which = Annotated[
    str | None,
    typer.Option("--pipeline", metavar="NAME", help="Which pipeline, if there are several."),
]
Stored = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A pipeline's name, a run's id, or NAME@ID.",
        autocompletion=stored_names,
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print all that the library logs.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
