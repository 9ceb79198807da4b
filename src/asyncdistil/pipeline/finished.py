"""What a run left behind, or an equal one before it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from asyncdistil.batch import StepName
from asyncdistil.distiset.tables import exports_in_place
from asyncdistil.log import StoreReader
from asyncdistil.log.events import Emit

if TYPE_CHECKING:
    from asyncdistil.pipeline.planning import PreparedRun
    from asyncdistil.supervisor.progress import Progress


@dataclass
class Finished:
    """What a run left behind.

    Attributes:
        root: Directory of its store.
        emits: One per leaf.
        progress: Counters per step; empty for a complete hit.
        failed_rows: Rows that failed anywhere.
        run: Run id; empty for a complete hit.
        resumed: Whether an unfinished run was taken up.
        lost_in_flight: Rows per step that workers held when that run died.
        hit: Whether the stored dataset served without any work.
        seconds: Wall time.
    """

    root: Path
    emits: list[Emit]
    progress: Progress = field(default_factory=dict)
    failed_rows: int = 0
    run: str = ""
    resumed: bool = False
    lost_in_flight: dict[StepName, int] = field(default_factory=dict)
    hit: bool = False
    seconds: float = 0.0


def complete_hit(prepared: PreparedRun) -> Finished | None:
    """The stored dataset of an unchanged pipeline, if there is one; takes no lock."""
    if not prepared.hit_allowed:
        return None
    reader = StoreReader.open(prepared.cache_dir, prepared.name)
    if reader is None:
        return None
    try:
        emits, failed = _newest_dataset(prepared, reader)
        if not emits or (failed and prepared.options.retry_failed):
            return None
        if not all(exports_in_place(reader.root, emit.files) for emit in emits):
            return None
        return Finished(reader.root, emits, hit=True, failed_rows=failed)
    finally:
        reader.close()


def _newest_dataset(prepared: PreparedRun, reader: StoreReader) -> tuple[list[Emit], int]:
    """What the newest completed run of this pipeline emitted, and how many rows failed in it.

    A run that stopped may have emitted some of its leaves: it does not count.
    """
    key = prepared.complete_key
    for begin, end in reversed(reader.runs()):
        if end is not None and end.completed and end.key == key:
            made = {emit.leaf: emit for emit in reader.emits(key) if emit.run == begin.run}
            return [made[leaf] for leaf in prepared.leaves], end.failed
    return [], 0
