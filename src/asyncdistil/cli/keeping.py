"""The commands of `asyncdistil cache`. Each imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asyncdistil.cli.ending import told
from asyncdistil.cli.options import CacheDir, Debug, DryRun, Json, Name, OneOrAll, Pinnable

cache = typer.Typer(
    help="List, check, mend, collect, carry away what is stored.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@cache.command("ls")
def cache_ls(
    name: OneOrAll = None, cache_dir: CacheDir = None, as_json: Json = False, debug: Debug = False
) -> None:
    """List what is stored: pipelines, or the runs of one."""
    with told(debug=debug, as_json=as_json):
        from asyncdistil.cli import cached, collected

        if name is None:
            cached.show_all(cache_dir, as_json=as_json)
        else:
            collected.show_runs(name, cache_dir, as_json=as_json)


@cache.command("show")
def cache_show(
    name: Name, cache_dir: CacheDir = None, as_json: Json = False, debug: Debug = False
) -> None:
    """Show the runs of a pipeline, and what is stored of each step."""
    with told(debug=debug, as_json=as_json):
        from asyncdistil.cli import cached

        cached.show_one(name, cache_dir, as_json=as_json)


@cache.command("verify")
def cache_verify(
    name: OneOrAll = None, cache_dir: CacheDir = None, as_json: Json = False, debug: Debug = False
) -> None:
    """Read every stored byte and compare it with its checksum."""
    with told(debug=debug, as_json=as_json):
        from asyncdistil.cli import cached

        cached.verify(name, cache_dir, as_json=as_json)


@cache.command("gc")
def cache_gc(
    name: OneOrAll = None,
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Drop runs that ended so long ago: 30d, 12h.")
    ] = "",
    max_size: Annotated[
        str, typer.Option(metavar="SIZE", help="Drop the oldest until it fits: 20GB, 500MB.")
    ] = "",
    dry_run: DryRun = False,
    cache_dir: CacheDir = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Drop old runs, and all that no other run needs."""
    with told(debug=debug, as_json=as_json):
        from asyncdistil.cli import collected

        collected.gc(
            name,
            cache_dir,
            older_than=older_than,
            max_size=max_size,
            dry_run=dry_run,
            as_json=as_json,
        )


@cache.command("pin")
def cache_pin(
    wanted: Pinnable, cache_dir: CacheDir = None, as_json: Json = False, debug: Debug = False
) -> None:
    """Keep a pipeline or a run from gc."""
    with told(debug=debug, as_json=as_json):
        from asyncdistil.cli import collected

        collected.pin(wanted, cache_dir, pinned=True, as_json=as_json)


@cache.command("unpin")
def cache_unpin(
    wanted: Pinnable, cache_dir: CacheDir = None, as_json: Json = False, debug: Debug = False
) -> None:
    """Let gc have it again."""
    with told(debug=debug, as_json=as_json):
        from asyncdistil.cli import collected

        collected.pin(wanted, cache_dir, pinned=False, as_json=as_json)


@cache.command("repair")
def cache_repair(
    name: OneOrAll = None,
    dry_run: DryRun = False,
    cache_dir: CacheDir = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Give up what is damaged; the next run recomputes just that."""
    with told(debug=debug, as_json=as_json):
        from asyncdistil.cli import repaired

        repaired.repair(name, cache_dir, dry_run=dry_run, as_json=as_json)


@cache.command("export")
def cache_export(
    name: Name,
    run: Annotated[
        str, typer.Argument(metavar="[RUN]", help="Id of a run; the newest without it.")
    ] = "",
    to: Annotated[
        Path | None, typer.Option(help="File to write.", show_default="PIPELINE.adpack")
    ] = None,
    cache_dir: CacheDir = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Pack a dataset with all that it was made of into one file."""
    with told(debug=debug, as_json=as_json):
        from asyncdistil.cli import packed

        packed.export_run(name, run, to, cache_dir, as_json=as_json)


@cache.command("import")
def cache_import(
    pack: Annotated[Path, typer.Argument(metavar="FILE", help="What export wrote.")],
    sha256: Annotated[
        str, typer.Option(metavar="HEX", help="Refuse a file that has another SHA-256.")
    ] = "",
    cache_dir: CacheDir = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Take in a packed dataset: its script then has nothing to do here."""
    with told(debug=debug, as_json=as_json):
        from asyncdistil.cli import packed

        packed.import_pack(pack, cache_dir, sha256=sha256, as_json=as_json)
