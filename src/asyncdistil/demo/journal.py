"""What steps were really called with: a file that outlives any process that writes to it.

The counters of a run are kept by the program whose promise is to be shown. This file is not: every
step of the demonstration appends to it, at the start of each call, the keys of the rows it was
given.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import msgspec

from asyncdistil.batch import Row

JOURNAL_VARIABLE = "ASYNCDISTIL_DEMO_JOURNAL"
"""Environment variable with the path of the journal. It is in no key."""


def key_of(row: Row) -> str:
    """Name a row of the demonstration, the same in every step: module, and place in it."""
    name = row.get("name")
    return row["module"] if name is None else f"{row['module']}:{name}:{row['line']}"


def note(step: str, rows: Iterable[Row]) -> None:
    """Write down that a step was called with these rows."""
    path = os.environ.get(JOURNAL_VARIABLE)
    if path is None:
        return
    line = msgspec.json.encode([step, [key_of(row) for row in rows]]) + b"\n"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        # One write: lines of several processes don't mix, and a kill can't cut one.
        os.write(fd, line)
    finally:
        os.close(fd)


def calls(path: Path) -> dict[str, Counter[str]]:
    """How often each step was called with each row."""
    found: dict[str, Counter[str]] = {}
    if path.exists():
        for line in path.read_bytes().splitlines():
            step, keys = msgspec.json.decode(line, type=tuple[str, list[str]])
            found.setdefault(step, Counter()).update(keys)
    return found
