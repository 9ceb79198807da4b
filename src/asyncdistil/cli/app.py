"""The commands and their options. Each imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asyncdistil import __version__
from asyncdistil.cli.ending import told
from asyncdistil.cli.keeping import cache
from asyncdistil.cli.menu import Menu
from asyncdistil.cli.options import (
    Arguments,
    CacheDir,
    Debug,
    DryRun,
    Json,
    Param,
    Script,
    Stored,
    Verbose,
    Which,
)

app = typer.Typer(
    name="asyncdistil",
    cls=Menu,
    help="Pipelines of synthetic data: no work is lost, paid twice or stale.",
    no_args_is_help=True,
    # Boxes would take the help past a screen, and the import of their library half a second.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cache, name="cache")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"asyncdistil {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    directory: Annotated[
        Path | None,
        typer.Option(help="An empty or new directory to work in.", show_default="a temporary one"),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Build a dataset, kill the run, resume it, count."""
    with told(debug=debug, as_json=as_json):
        from asyncdistil.cli import demonstration

        demonstration.demo(directory, as_json=as_json)


@app.command()
def run(
    script: Script,
    arguments: Arguments = None,
    param: Param = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Compute everything anew; results are kept.")
    ] = False,
    pipeline: Which = None,
    distilabel: Annotated[
        bool, typer.Option("--distilabel", help="The script imports distilabel: stand in for it.")
    ] = False,
    verbose: Verbose = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run the pipeline of a script or YAML file."""
    with told(debug=debug, as_json=as_json, hide=str(script)):
        from asyncdistil.cli import running

        if distilabel:
            from asyncdistil.compat import stand_in

            stand_in()
        running.run(
            script,
            arguments or (),
            parameters=param or (),
            use_cache=not no_cache,
            pipeline_name=pipeline,
            as_json=as_json,
            verbose=verbose,
        )


@app.command()
def plan(
    script: Script,
    arguments: Arguments = None,
    param: Param = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="As if everything were computed anew.")
    ] = False,
    pipeline: Which = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what a run would replay, compute and call; runs nothing."""
    with told(debug=debug, as_json=as_json, hide=str(script)):
        from asyncdistil.cli import planned

        planned.plan(
            script,
            arguments or (),
            parameters=param or (),
            pipeline_name=pipeline,
            use_cache=not no_cache,
            as_json=as_json,
        )


@app.command()
def explain(
    script: Script,
    step: Annotated[str, typer.Argument(help="Name of the step.")],
    arguments: Arguments = None,
    row: Annotated[
        int | None, typer.Option(help="Show where row N of the step's last output came from.")
    ] = None,
    param: Param = None,
    pipeline: Which = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what changed in a step since it was stored."""
    with told(debug=debug, as_json=as_json, hide=str(script)):
        from asyncdistil.cli import explained

        explained.explain(
            script,
            step,
            arguments or (),
            parameters=param or (),
            pipeline_name=pipeline,
            row=row,
            as_json=as_json,
        )


@app.command("inspect")
def inspect_run(
    run: Stored,
    step: Annotated[str | None, typer.Argument(help="Name of a step.")] = None,
    head: Annotated[int | None, typer.Option(min=1, help="Show the first N rows.")] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="Show N rows from all over.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Show columns and types.")] = False,
    where: Annotated[
        str | None, typer.Option(metavar="EXPR", help="Only rows like: score > 3.")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Write the rows to a .parquet file.")] = None,
    cache_dir: CacheDir = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show stored rows, while a run goes on too."""
    with told(debug=debug, as_json=as_json):
        from asyncdistil.cli import inspected

        inspected.inspect(
            run,
            step,
            cache_dir,
            head=head,
            sample=sample,
            schema=schema,
            where=where,
            to=to,
            as_json=as_json,
        )


@app.command()
def failures(
    run: Stored,
    step: Annotated[str | None, typer.Option(help="Of this step only.")] = None,
    where: Annotated[
        str | None, typer.Option(metavar="EXPR", help='Only like: failure.kind == "TimeoutError".')
    ] = None,
    details: Annotated[
        bool, typer.Option("--details", help="With traceback or raw reply.")
    ] = False,
    rows: Annotated[bool, typer.Option("--rows", help="With the input rows.")] = False,
    cache_dir: CacheDir = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the rows that failed, and why."""
    with told(debug=debug, as_json=as_json):
        from asyncdistil.cli import failed

        failed.failures(
            run,
            cache_dir,
            step=step,
            where=where,
            details=details,
            with_rows=rows,
            as_json=as_json,
        )


@app.command()
def retry(
    wanted: Annotated[
        str, typer.Argument(metavar="RUN", help="A script, a YAML file, or a stored run as NAME.")
    ],
    arguments: Arguments = None,
    step: Annotated[str, typer.Option(help="Rows of this step only.")] = "",
    where: Annotated[
        str, typer.Option(metavar="EXPR", help="Only such rows; with --step, good ones too.")
    ] = "",
    with_: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="PARAM=VALUE", help="A parameter for these rows alone."),
    ] = None,
    run: Annotated[str, typer.Option(help="Id of the run, if RUN is a script.")] = "",
    pipeline: Which = None,
    dry_run: DryRun = False,
    verbose: Verbose = False,
    cache_dir: CacheDir = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Ask failed rows of a stored run anew, nothing else."""
    with told(debug=debug, as_json=as_json, hide=wanted):
        from asyncdistil.cli import retried

        retried.retry(
            wanted,
            arguments or (),
            cache_dir,
            run=run,
            step=step,
            where=where,
            parameters=with_ or (),
            pipeline_name=pipeline,
            dry_run=dry_run,
            as_json=as_json,
            verbose=verbose,
        )


@app.command()
def report(
    run: Stored,
    to: Annotated[
        Path | None, typer.Option(help="File to write.", show_default="PIPELINE-report.html")
    ] = None,
    cache_dir: CacheDir = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a page about a run: graph, figures, failures, rows."""
    with told(debug=debug, as_json=as_json):
        from asyncdistil.cli import reported

        reported.report(run, to, cache_dir, as_json=as_json)


@app.command()
def ui(
    wanted: Annotated[
        str | None,
        typer.Argument(metavar="[RUN|DIR]", help="A run, or a cache directory; all without it."),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on.", show_default="a free one")
    ] = 0,
    browse: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    cache_dir: CacheDir = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show runs in a browser while they go on."""
    with told(debug=debug, as_json=as_json):
        from asyncdistil.cli import live

        live.serve(wanted, cache_dir, port=port, browse=browse, as_json=as_json)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("pipeline.py"),
    model: Annotated[
        bool, typer.Option("--model", help="With a step that asks a language model.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a small pipeline to start from."""
    with told(debug=debug, as_json=as_json):
        from asyncdistil.cli import starter
        from asyncdistil.cli.ending import show_json

        starter.write_starter(path, model=model)
        if as_json:
            show_json({"path": str(path)})
        else:
            typer.echo(f"{path} is written. Run it with: asyncdistil run {path}")
            if model:
                typer.echo("It asks the stand-in: asyncdistil model-server --port 8000")


@app.command(
    "model-server",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def model_server(context: typer.Context) -> None:
    """Serve a stand-in model, to rehearse for nothing."""
    from asyncdistil.testing import model_server as server

    server.main([*context.args])


def main() -> None:
    """The command ``asyncdistil``."""
    app()
