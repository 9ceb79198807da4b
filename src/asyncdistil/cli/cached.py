"""``asyncdistil cache ls``, ``show``, ``verify``: reading stores. Nothing is written or locked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer
from rich.text import Text

from asyncdistil.cli.ending import ExitCode, show_json
from asyncdistil.cli.stored import folder_of, names_in, unknown
from asyncdistil.cli.tables import show, size, table
from asyncdistil.errors import CorruptRecord, LogError
from asyncdistil.log import StoreReader, stores
from asyncdistil.log.events import Emit, RunBegin, RunEnd

_RUNS_SHOWN = 10


def show_all(cache_dir: Path | None, *, as_json: bool) -> None:
    """List the stores of a cache directory."""
    folder = folder_of(cache_dir)
    found = [_overview(folder, root, name) for root, name in stores(folder)]
    if as_json:
        show_json({"cache_dir": str(folder), "pipelines": found})
        return
    if not found:
        show(f"{folder} holds no pipeline yet")
        return
    shown = table("pipeline", "runs", "last run", "how it ended", "size", right=(1, 4))
    for one in found:
        shown.add_row(
            Text(one["pipeline"] or f"(unknown name, {one['directory']})"),
            str(one["runs"]),
            one["last_run"] or "",
            Text(one["ended"]),
            size(one["bytes"]),
        )
    show(shown)


def show_one(name: str, cache_dir: Path | None, *, as_json: bool) -> None:
    """Show the runs and the steps of one pipeline.

    Raises:
        UsageError: Nothing of this name is stored.
    """
    folder = folder_of(cache_dir)
    with _opened(folder, name) as reader:
        runs = [_run(begin, end) for begin, end in reader.runs()]
        steps = _steps(reader)
        datasets: list[dict[str, Any]] = [
            {"config": emit.config, "rows": emit.rows, "files": _files(reader.root, emit)}
            for emit in _newest(reader)
        ]
        warnings = list(reader.warnings)
        root = reader.root
    if as_json:
        show_json(
            {
                "pipeline": name,
                "store": str(root),
                "runs": runs,
                "steps": steps,
                "datasets": datasets,
                "warnings": warnings,
            }
        )
        return
    show(f"{name}: {root}")
    shown = table("run", "started", "seconds", "how it ended", right=(2,))
    for run in runs[-_RUNS_SHOWN:]:
        seconds = "" if run["seconds"] is None else f"{run['seconds']:.1f}"
        shown.add_row(run["run"][:8], run["started"], seconds, Text(run["ended"]))
    show(shown)
    shown = table("step", "definitions", "commits", "rows stored", "failed", right=(1, 2, 3, 4))
    for step in steps:
        numbers = (step[key] for key in ("definitions", "commits", "rows", "failed"))
        shown.add_row(Text(step["step"]), *(f"{number:,}" for number in numbers))
    show(shown)
    for dataset in datasets:
        show(f"dataset {dataset['config']}: {dataset['rows']:,} rows")
        for path in dataset["files"]:
            show(f"  {path}")
    for warning in warnings:
        show(f"warning: {warning}")


def verify(name: str | None, cache_dir: Path | None, *, as_json: bool) -> None:
    """Read every byte that counts and compare it with its checksums.

    Raises:
        UsageError: Nothing of this name is stored.
        CorruptRecord: Something is damaged; everything else was read nevertheless.
    """
    folder = folder_of(cache_dir)
    names = names_in(folder) if name is None else [name]
    checked: list[dict[str, Any]] = []
    for one in names:
        try:
            with _opened(folder, one) as reader:
                checked.append({"pipeline": one, **_verified(reader)})
        except LogError as error:
            checked.append({"pipeline": one, "records": 0, "files": 0, "damage": [str(error)]})
    if as_json:
        show_json({"cache_dir": str(folder), "pipelines": checked})
    else:
        for found in checked:
            damage = len(found["damage"])
            show(
                f"{found['pipeline']}: {found['records']:,} records and {found['files']:,} dataset "
                f"files read, {damage:,} damaged"
            )
            for text in found["damage"]:
                show(f"  {text}")
    damaged = sum(len(found["damage"]) for found in checked)
    if damaged and as_json:
        raise typer.Exit(int(ExitCode.STORAGE))  # all has been said, in one document
    if damaged:
        raise CorruptRecord(
            f"{damaged} damaged places were found: restore the files from a copy, or run "
            "`asyncdistil cache repair`; the next run then computes what they held anew"
        )


def _verified(reader: StoreReader) -> dict[str, Any]:
    from asyncdistil.distiset import Distiset

    records = files = 0
    damage: list[str] = []
    with closing(reader.reader()) as rows:
        for lineage in reader.step_defs():
            for _, commit in reader.commits(lineage):
                for ref in commit.outputs:
                    records += 1
                    try:
                        rows.verify(ref)
                    except (LogError, OSError) as error:
                        damage.append(str(error))
    for emit in _newest(reader):
        # Datasets are made of the records; one that is gone is made again.
        paths = _files(reader.root, emit)
        if all(map(os.path.exists, paths)):
            files += len(paths)
            try:
                Distiset.from_emits(reader.root, [emit]).table(emit.config)
            except LogError as error:
                damage.append(str(error))
    return {"records": records, "files": files, "damage": damage}


def _newest(reader: StoreReader) -> list[Emit]:
    """What the newest completed run emitted."""
    for begin, end in reversed(reader.runs()):
        if end is not None and end.completed:
            return [emit for emit in reader.emits(end.key) if emit.run == begin.run]
    return []


def _steps(reader: StoreReader) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for lineage, definition in reader.step_defs().items():
        if "/" in definition.step:
            continue
        empty = {"step": definition.step, "definitions": 0, "commits": 0, "rows": 0, "failed": 0}
        step = found.setdefault(definition.step, empty)
        step["definitions"] += 1
        for _, commit in reader.commits(lineage):
            step["commits"] += 1
            step["rows"] += sum(ref.rows for ref in commit.outputs)
            step["failed"] += len(commit.failures)
    return list(found.values())


def _overview(folder: Path, root: Path, name: str | None) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "pipeline": name,
        "directory": root.name,
        "bytes": sum(path.lstat().st_size for path in root.rglob("*") if path.is_file()),
        "runs": 0,
        "last_run": None,
        "ended": "unknown",
    }
    if name is None:
        return shown
    try:
        with _opened(folder, name) as reader:
            runs = reader.runs()
    except LogError as error:
        return shown | {"ended": f"can't be read: {error}"}
    if runs:
        last = _run(*runs[-1])
        shown |= {"runs": len({begin.run for begin, _ in runs}), "last_run": last["started"]}
        shown["ended"] = last["ended"]
    return shown


def _run(begin: RunBegin, end: RunEnd | None) -> dict[str, Any]:
    if end is None:
        ended = "did not end: it still runs, or is taken up by the next run"
    elif end.completed:
        ended = f"completed, {end.failed:,} rows failed" if end.failed else "completed"
    else:
        ended = f"stopped: {end.reason}"
    seconds = end.wall_seconds - begin.wall_seconds if end is not None else 0.0
    return {
        "run": str(begin.run),
        "started": datetime.fromtimestamp(begin.wall_seconds, UTC).isoformat(timespec="seconds"),
        # A clock that was set back meanwhile tells nothing.
        "seconds": None if end is None or seconds < 0 else round(seconds, 3),
        "resumed": begin.resumed,
        "ended": ended,
    }


@contextmanager
def _opened(folder: Path, name: str) -> Iterator[StoreReader]:
    reader = StoreReader.open(folder, name)
    if reader is None:
        raise unknown(folder, name)
    with closing(reader):
        yield reader


def _files(root: Path, emit: Emit) -> list[str]:
    return [os.fspath(root / path) for path, _ in emit.files]
