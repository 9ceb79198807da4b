"""Finding a stored run by what a user calls it: the name of its pipeline, or its id."""

from __future__ import annotations

from contextlib import closing
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from asyncdistil.cli.ending import UsageError
from asyncdistil.errors import ConditionError
from asyncdistil.log import StoreReader, stores
from asyncdistil.supervisor.stored_run import StoredRun

if TYPE_CHECKING:
    from asyncdistil.pipeline.condition import Condition

SHORTEST_ID = 4
"""Digits of a run's id that say which run it is."""


def folder_of(cache_dir: Path | None) -> Path:
    """The cache directory that was named, or the usual one."""
    if cache_dir is not None:
        return cache_dir.expanduser().absolute()
    from asyncdistil.pipeline import Pipeline

    return Pipeline("any").cache_dir


def names_in(folder: Path) -> list[str]:
    """Names of the pipelines that are stored in a cache directory."""
    return [label for _, label in stores(folder) if label is not None]


def refuse_unknown(folder: Path, name: str) -> None:
    """Make sure that something is stored under a name.

    Raises:
        UsageError: Nothing is.
    """
    if name not in names_in(folder):
        raise unknown(folder, name)


def unknown(folder: Path, name: str) -> UsageError:
    """The error that nothing is stored under a name, with a hint."""
    close = get_close_matches(name, names_in(folder), n=1)
    hint = f"did you mean {close[0]!r}?" if close else "`asyncdistil cache ls` lists them"
    return UsageError(f"nothing is stored under the name {name!r} in {folder}: {hint}")


def opened_run(wanted: str, cache_dir: Path | None) -> tuple[str, StoredRun]:
    """Open the newest run of a pipeline, or a run by how its id begins.

    Args:
        wanted: Name of a pipeline, the first digits of a run's id, or ``NAME@ID``.
        cache_dir: Where to look.

    Returns:
        The name of the pipeline, and the run; close it.

    Raises:
        UsageError: Nothing is stored under that name.
        UnknownRun: The pipeline has no such run.
    """
    folder = folder_of(cache_dir)
    names = names_in(folder)
    name, at, run = wanted.rpartition("@")
    if wanted in names or not at:
        name, run = wanted, ""
    found = StoredRun.open(folder, name, run)
    if found is not None:
        return name, found
    if not at and len(wanted) >= SHORTEST_ID:
        for candidate in names:
            if _has_run(folder, candidate, wanted):
                found = StoredRun.open(folder, candidate, wanted)
                assert found is not None
                return candidate, found
    raise unknown(folder, name)


def condition_of(text: str) -> Condition:
    """Read a condition on rows.

    Raises:
        UsageError: It can't be read.
    """
    from asyncdistil.pipeline.condition import Condition

    try:
        return Condition(text)
    except ConditionError as error:
        raise UsageError(str(error)) from None


def _has_run(folder: Path, name: str, run: str) -> bool:
    reader = StoreReader.open(folder, name)
    if reader is None:
        return False
    with closing(reader):
        return any(begin.run.startswith(run) for begin, _ in reader.runs())
