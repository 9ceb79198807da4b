"""Which rows a killed run had committed, read from its log and not from its own figures."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from asyncdistil.batch import RowSlice
from asyncdistil.demo.journal import key_of
from asyncdistil.log import StoreReader
from asyncdistil.log.events import Commit


def committed_keys(cache_dir: Path, name: str) -> dict[str, set[str]]:
    """Keys of the rows whose work is committed, by step.

    For a generator those are the rows that it made, for any other step the rows that it was
    given.

    Raises:
        LogError: The store can't be read.
    """
    reader = StoreReader.open(cache_dir, name)
    found: dict[str, set[str]] = {}
    if reader is None:
        return found
    with closing(reader), closing(reader.reader()) as rows:
        for lineage, definition in reader.step_defs().items():
            keys = found.setdefault(definition.step, set())
            for _, commit in reader.commits(lineage):
                for part in _of_interest(commit):
                    keys.update(map(key_of, rows.rows(part)))
    return found


def _of_interest(commit: Commit) -> tuple[RowSlice, ...]:
    if commit.inputs:
        return commit.inputs[0]
    return tuple(RowSlice(ref, 0, ref.rows) for ref in commit.outputs)
