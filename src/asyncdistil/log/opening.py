"""Opening a store for writing: recover, check what may not have reached the disk, quarantine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from asyncdistil.errors import CorruptRecord, StorageError
from asyncdistil.log.events import Commit
from asyncdistil.log.failpoint import failpoint
from asyncdistil.log.files import Files, write_all
from asyncdistil.log.log_reader import LogReader
from asyncdistil.log.record import STORE_ID_BYTES
from asyncdistil.log.recovery import Recovered, Remainder, recover
from asyncdistil.log.segment import SegmentReader


class Opened(NamedTuple):
    """A store that may be written to.

    Attributes:
        store_id: Its id, new if it was made.
        recovered: What it holds; everything in it is on the disk.
        recompute: Whether damage is left out.
    """

    store_id: bytes
    recovered: Recovered
    recompute: bool


def open_recovered(root: Path, files: Files, *, recompute: bool) -> Opened:
    """Recover a store under its lock.

    Raises:
        CorruptRecord: Acknowledged records are damaged or missing.
        StorageError: The disk refused.
    """
    recovered = recover(root, files, exclusive=True, recompute=recompute)
    try:
        torn_lsn = _first_torn_payload(root, files, recovered)
        if torn_lsn is not None:
            if recovered.checkpoint is not None:
                recovered.checkpoint.close()
            recovered = recover(root, files, exclusive=True, recompute=recompute, stop_lsn=torn_lsn)
        _quarantine(root, files, recovered)
    except OSError as error:
        raise StorageError(
            f"{root} can't be recovered ({error.strerror}); see to the disk, then run again"
        ) from error
    # All that was walked came from the disk after a sync, so it is durable now.
    recovered.durable = recovered.tail.lsn
    store_id = recovered.store_id or os.urandom(STORE_ID_BYTES)
    return Opened(store_id, recovered, recompute)


def _first_torn_payload(root: Path, files: Files, recovered: Recovered) -> int | None:
    """LSN of the first commit above the watermark whose rows did not reach the disk."""
    pending = [item for item in recovered.pending if item.lsn > recovered.durable]
    if not pending or recovered.store_id is None:
        return None
    log = LogReader(root, recovered.store_id, files)
    rows = SegmentReader(root, recovered.store_id, files)
    seen: set[int] = set()
    try:
        places = [item.place for item in pending]
        for lsn, event in log.events([item.lsn for item in pending], places):
            assert isinstance(event, Commit)
            try:
                for ref in event.outputs:
                    if ref.segment not in seen:
                        seen.add(ref.segment)
                        rows.read_from_disk(ref.segment)
                    rows.verify(ref)
            except (CorruptRecord, FileNotFoundError):
                return lsn
    finally:
        log.close()
        rows.close()
    return None


def _quarantine(root: Path, files: Files, recovered: Recovered) -> None:
    """Copy bytes that don't count, with a note; the originals stay where they are."""
    for remainder in recovered.remainders:
        folder = root / "quarantine"
        if files.make_private_dir(folder):
            files.fsync_dir(root)
        name = f"{remainder.path.stem}-{remainder.start}"
        recovered.warnings.append(
            f"{remainder.path}: {remainder.end - remainder.start} bytes from offset "
            f"{remainder.start} do not count (they were never acknowledged, or were given up); a "
            f"copy is in {folder / name}.bin"
        )
        if not files.exists(folder / f"{name}.txt"):
            _copy(files, remainder, folder / f"{name}.bin")
            note = f"{recovered.warnings[-1]}\n".encode()
            _write_new(files, folder / f"{name}.txt", [note])
            files.fsync_dir(folder)
        failpoint("recovery.after_quarantine")


def _copy(files: Files, remainder: Remainder, target: Path) -> None:
    fd = files.open_read(remainder.path)
    try:
        data = files.pread(fd, remainder.end - remainder.start, remainder.start)
    finally:
        files.close(fd)
    _write_new(files, target, [data])


def _write_new(files: Files, path: Path, parts: list[bytes]) -> None:
    # An earlier recovery may have died in the middle of this.
    files.unlink(path)
    fd = files.create(path)
    try:
        for part in parts:
            write_all(files, fd, part)
        files.fdatasync(fd)
    finally:
        files.close(fd)
