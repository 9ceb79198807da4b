"""``asyncdistil report``: one HTML page about a run."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from asyncdistil.cli.ending import UsageError, show_json
from asyncdistil.cli.stored import opened_run


def report(wanted: str, to: Path | None, cache_dir: Path | None, *, as_json: bool) -> None:
    """Write the page.

    Raises:
        UsageError: Nothing of the name is stored, or the file can't be written.
    """
    from asyncdistil.report import page_of

    name, run = opened_run(wanted, cache_dir)
    with run:
        page = page_of(name, run)
    path = to or Path(f"{_file_name(name)}-report.html")
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} can't be written ({error.strerror}): name another --to") from None
    if as_json:
        show_json({"path": str(path), "run": run.begin.run})
    else:
        typer.echo(f"{path} is written; open it in a browser")


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "pipeline"
