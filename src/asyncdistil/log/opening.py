"""Opening a store: recover, check what may not have reached the disk; for writing, quarantine."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from asyncdistil.errors import CorruptRecord, LogError, StorageError
from asyncdistil.log.events import Commit
from asyncdistil.log.failpoint import failpoint
from asyncdistil.log.files import Files, make_durable_dir, remedy, write_anew
from asyncdistil.log.log_reader import LogReader
from asyncdistil.log.names import MEMO_ENDING
from asyncdistil.log.record import STORE_ID_BYTES
from asyncdistil.log.recovery import Pending, Recovered, Remainder, recover
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


def open_recovered(root: Path, files: Files, *, memo: Path, recompute: bool) -> Opened:
    """Recover a store under its lock.

    Args:
        root: Store directory.
        files: The disk.
        memo: Directory of the memo that its commits took answers from.
        recompute: Give up damage instead of refusing.

    Raises:
        CorruptRecord: Acknowledged records are damaged or missing.
        StorageError: The disk refused.
    """
    recovered = recover_with_rows(root, files, exclusive=True, recompute=recompute)
    try:
        _quarantine(root, files, recovered)
        if _unsure(recovered):
            _sync_memo(memo, files)
    except OSError as error:
        recovered.close()
        raise _refused(root, error) from error
    # All that was walked came from the disk after a sync, so it is durable now.
    recovered.durable = recovered.tail.lsn
    store_id = recovered.store_id or os.urandom(STORE_ID_BYTES)
    return Opened(store_id, recovered, recompute)


def recover_with_rows(
    root: Path, files: Files, *, exclusive: bool, recompute: bool = False
) -> Recovered:
    """Recover a store; its log ends before the first commit whose rows did not reach the disk.

    Args:
        root: Store directory.
        files: The disk.
        exclusive: Whether we hold the lock; else nothing is synced, and what a running writer
            has not synced yet counts as far as it can be read.
        recompute: Give up damage instead of refusing.

    Raises:
        CorruptRecord: Acknowledged records are damaged or missing.
        FormatError: The files are of a newer format.
        StorageError: The disk refused.
    """
    recovered = recover(root, files, exclusive=exclusive, recompute=recompute)
    try:
        torn = _first_torn(root, files, recovered, exclusive=exclusive)
    except OSError as error:
        recovered.close()
        raise _refused(root, error) from error
    except LogError:
        recovered.close()
        raise
    if torn is None:
        return recovered
    recovered.close()
    return recover(root, files, exclusive=exclusive, recompute=recompute, stop=torn)


def _refused(root: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{root} can't be recovered ({error.strerror}); {remedy(error)}, then run again"
    )


def _unsure(recovered: Recovered) -> list[Pending]:
    """Commits that nothing but this recovery can vouch for."""
    return [item for item in recovered.pending if item.lsn > recovered.durable]


def _first_torn(
    root: Path, files: Files, recovered: Recovered, *, exclusive: bool
) -> Pending | None:
    """The first commit above the watermark whose rows did not reach the disk."""
    pending = _unsure(recovered)
    if not pending or recovered.store_id is None:
        return None
    log = LogReader(root, recovered.store_id, files)
    rows = SegmentReader(root, recovered.store_id, files)
    seen: set[int] = set()
    try:
        found = log.events([item.lsn for item in pending], [item.place for item in pending])
        for item, (_, event) in zip(pending, found, strict=True):
            assert isinstance(event, Commit)
            try:
                for ref in event.outputs:
                    if exclusive and ref.segment not in seen:
                        seen.add(ref.segment)
                        rows.read_from_disk(ref.segment)
                    rows.verify(ref)
            except (CorruptRecord, FileNotFoundError):
                return item
    finally:
        log.close()
        rows.close()
    return None


def _sync_memo(folder: Path, files: Files) -> None:
    """Make every answer durable that a commit of a dead process may have taken.

    A commit does not say which file of the memo its answers lie in; those that are clean cost
    next to nothing. Their names were synced when they were made.
    """
    for space in files.listdir(folder):
        with suppress(NotADirectoryError):
            for name in files.listdir(folder / space):
                if name.endswith(MEMO_ENDING):
                    _sync(folder / space / name, files)


def _sync(path: Path, files: Files) -> None:
    try:
        fd = files.open_read(path)
    except FileNotFoundError:
        return  # tidied up this moment: what it held was synced elsewhere before
    try:
        failpoint("recovery.memo_sync")
        files.fdatasync(fd)
    finally:
        files.close(fd)


def _quarantine(root: Path, files: Files, recovered: Recovered) -> None:
    """Copy bytes that don't count, with a note; the originals stay where they are."""
    for remainder in recovered.remainders:
        folder = root / "quarantine"
        make_durable_dir(files, folder)
        name = f"{remainder.path.stem}-{remainder.start}"
        recovered.warnings.append(
            f"{remainder.path}: {remainder.end - remainder.start} bytes from offset "
            f"{remainder.start} do not count (they were never acknowledged, or were given up); a "
            f"copy is in {folder / name}.bin"
        )
        if not files.exists(folder / f"{name}.txt"):
            _copy(files, remainder, folder / f"{name}.bin")
            note = f"{recovered.warnings[-1]}\n".encode()
            write_anew(files, folder / f"{name}.txt", [note])
            files.fsync_dir(folder)
        failpoint("recovery.after_quarantine")


def _copy(files: Files, remainder: Remainder, target: Path) -> None:
    fd = files.open_read(remainder.path)
    try:
        data = files.pread(fd, remainder.end - remainder.start, remainder.start)
    finally:
        files.close(fd)
    write_anew(files, target, [data])
