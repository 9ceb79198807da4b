"""The commit log without a run: how it is opened after a crash, and what one batch costs it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from workload import rows

from asyncdistil.batch import SAME_ORIGINS, Digest, RowSlice, RunId
from asyncdistil.codec import encode_rows
from asyncdistil.log import SegmentWriter, Store
from asyncdistil.log.events import Commit

_RUN = RunId("0" * 32)
_LINEAGE = Digest(bytes(16))


def crash(directory: str, commits: int, clean: bool) -> dict[str, Any]:
    """Leave a log of so many commits behind, sealed or as a crash would."""
    store = Store.open(Path(directory), "log", mode="durable" if clean else "process")
    segment, fd = store.create_segment(_LINEAGE)
    refs = SegmentWriter(fd, segment, store.id).append(encode_rows(rows(0, 50), step="s"))
    inputs = (tuple(RowSlice(ref, 0, ref.rows) for ref in refs),)
    commit = Commit(_RUN, _LINEAGE, inputs, (refs[0].digest,), refs, SAME_ORIGINS)
    store.start_syncing(lambda _lsn: None, lambda _error: None)
    for _ in range(commits):
        store.append([commit])
    if clean:
        store.close(clean=True)
    return {"commits": commits}


def recovery(directory: str, commits: int, clean: bool, turn: int = 0) -> dict[str, Any]:
    """Open such a log; it is left as it was found, so that the next sample opens it too."""
    if turn < 0:
        return crash(directory, commits, clean)
    started = time.perf_counter()
    store = Store.open(Path(directory), "log")
    seconds = time.perf_counter() - started
    found = len(store.commits(_LINEAGE))
    if clean:
        store.close(clean=True)
    return {"seconds": seconds, "commits": found}


def log_batches(directory: str, count: int, mode: str, turn: int = 0) -> dict[str, Any]:
    """Append the commits of so many batches, one by one, while the log syncs; CPU of all threads.

    The rows are in the segment already, as they are for a supervisor.
    """
    store = Store.open(Path(directory) / f"cache{turn}", "log", mode=mode)  # type: ignore[arg-type]
    segment, fd = store.create_segment(_LINEAGE)
    refs = SegmentWriter(fd, segment, store.id).append(encode_rows(rows(0, 50), step="s"))
    inputs = (tuple(RowSlice(ref, 0, ref.rows) for ref in refs),)
    commit = Commit(_RUN, _LINEAGE, inputs, (refs[0].digest,), refs, SAME_ORIGINS)
    store.start_syncing(lambda _lsn: None, lambda _error: None)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        store.append([commit])
    store.flush()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    store.close(clean=True)
    return {"cpu_microseconds": cpu * 1e6 / count, "wall_microseconds": wall * 1e6 / count}
