"""``asyncdistil cache repair``: giving up what is damaged."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from rich.text import Text

from asyncdistil.cli.ending import show_json
from asyncdistil.cli.stored import folder_of, refuse_unknown
from asyncdistil.cli.tables import show, table
from asyncdistil.errors import StorageError
from asyncdistil.log import LocalFiles, store_root, stores
from asyncdistil.log.repair import Findings, examine
from asyncdistil.log.repair import repair as repair_store
from asyncdistil.memo.repair import DamagedSegment, examine_memo, repair_memo


def repair(name: str | None, cache_dir: Path | None, *, dry_run: bool, as_json: bool) -> None:
    """Say what is damaged and give it up.

    Raises:
        UsageError: Nothing of this name is stored.
        LogError: A run goes on, or the disk refused.
    """
    folder, files = folder_of(cache_dir), LocalFiles()
    if name is not None:
        refuse_unknown(folder, name)
    names = [name] if name is not None else [n for _, n in stores(folder) if n is not None]
    found: dict[str, Findings] = {}
    for one in names:
        root = store_root(folder, one)
        if files.listdir(root / "commits"):
            found[one] = examine(root, files) if dry_run else repair_store(folder, one, files)
    answers: list[DamagedSegment] = []
    if name is None:
        try:
            answers = examine_memo(folder, files) if dry_run else repair_memo(folder, files)
        except OSError as error:
            raise StorageError(
                f"the memo in {folder} can't be read ({error.strerror}): see to the disk"
            ) from error
    if as_json:
        show_json(
            {
                "cache_dir": str(folder),
                "dry_run": dry_run,
                "pipelines": [_as_data(one, findings) for one, findings in found.items()],
                "memo": [
                    {
                        "file": str(one.path),
                        "damaged_bytes": one.damaged_bytes,
                        "offset": one.where,
                    }
                    for one in answers
                ],
            }
        )
        return
    for one, findings in found.items():
        _tell(one, findings, dry_run=dry_run)
    for segment in answers:
        show(
            f"memo: {segment.path}: {segment.damaged_bytes:,} bytes from offset {segment.where} "
            f"are damaged; answers in them are asked for again{_end(dry_run)}"
        )


def _end(dry_run: bool) -> str:
    return "" if dry_run else "; the file is in quarantine, what is good of it was kept"


def _tell(name: str, found: Findings, *, dry_run: bool) -> None:
    if found.sound:
        show(f"{name}: nothing is damaged")
        return
    for text in found.log:
        show(f"{name}: {text}")
    if found.records:
        show(f"{name}: {found.records:,} records of the commit log are lost")
    for batch in found.batches:
        show(f"{name}: {batch.reason}")
    if found.batches:
        shown = table("step", "batches lost", "rows to compute again", right=(1, 2))
        for step, (batches, rows) in _by_step(found).items():
            shown.add_row(Text(step), f"{batches:,}", f"{rows:,}")
        show(shown)
    for path in found.datasets:
        show(f"{name}: {path} is not what was written; it is made anew from the stored rows")
    if found.checkpoint:
        show(f"{name}: the checkpoint is damaged; it only saved time")
    if not dry_run:
        show(
            f"{name}: repaired. The next run computes what was lost and nothing else; damaged "
            f"bytes are in {found.root / 'quarantine'}"
        )


def _by_step(found: Findings) -> dict[str, tuple[int, int]]:
    counted: defaultdict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for batch in found.batches:
        batches, rows = counted[batch.step]
        counted[batch.step] = batches + 1, rows + batch.rows
    return dict(counted)


def _as_data(name: str, found: Findings) -> dict[str, Any]:
    return {
        "pipeline": name,
        "store": str(found.root),
        "sound": found.sound,
        "log_damage": found.log,
        "log_records_lost": found.records,
        "batches_lost": [
            {
                "step": batch.step,
                "run": batch.run,
                "lsn": batch.lsn,
                "rows": batch.rows,
                "reason": batch.reason,
            }
            for batch in found.batches
        ],
        "datasets_made_anew": [str(path) for path in found.datasets],
        "checkpoint_damaged": found.checkpoint,
    }
