"""Damage of a store: found, told, given up for good. Bytes are set aside, never thrown away.

What a run under ``on_corruption="recompute"`` does on its way, without the run: the next one is not
refused, and computes what was lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from xxhash import xxh3_128

from asyncdistil.batch import BatchRef, Digest, Lsn, RunId, StepName
from asyncdistil.errors import CorruptRecord, StorageError
from asyncdistil.log.checkpoint import Checkpoint, checkpoint_path
from asyncdistil.log.events import Commit, Emit, Event
from asyncdistil.log.failpoint import failpoint
from asyncdistil.log.files import Files, make_durable_dir, write_anew
from asyncdistil.log.index import decode_event
from asyncdistil.log.names import store_root
from asyncdistil.log.record import Header, RecordType
from asyncdistil.log.recovery import recover
from asyncdistil.log.segment import SegmentReader
from asyncdistil.log.store import Store

_PIECE_BYTES = 1 << 20


class LostBatch(NamedTuple):
    """A commit whose rows are damaged.

    Attributes:
        step: That made it, or what its lineage begins with if its definition is lost.
        run: That wrote it.
        lsn: Of the commit.
        rows: That it made, and that will be computed again.
        refs: Its damaged records.
        reason: What is wrong with the first of them.
    """

    step: StepName
    run: RunId
    lsn: Lsn
    rows: int
    refs: tuple[BatchRef, ...]
    reason: str


@dataclass(slots=True)
class Findings:
    """What is wrong with a store.

    Attributes:
        root: Its directory.
        log: Damaged places of the commit log, in words.
        records: Records of the log that are lost with them, as far as LSNs tell.
        batches: Commits whose rows are damaged.
        datasets: Dataset files that are not what was written; made anew from the rows.
        checkpoint: Whether the checkpoint is damaged, which costs only time.
        short: Whether the log ends before an intact checkpoint.
        lineages: Of all commits that are left.
    """

    root: Path
    log: list[str] = field(default_factory=list)
    records: int = 0
    batches: list[LostBatch] = field(default_factory=list)
    datasets: list[Path] = field(default_factory=list)
    checkpoint: bool = False
    short: bool = False
    lineages: set[Digest] = field(default_factory=set)

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.log or self.batches or self.datasets or self.checkpoint)


def examine(root: Path, files: Files) -> Findings:
    """Read every byte of a store that counts. Takes no lock and writes nothing.

    Raises:
        FormatError: It was written by a newer format.
        StorageError: The disk refused.
    """
    examined = _Examination(root, files)
    examined.run()
    return examined.findings


class _Examination:
    def __init__(self, root: Path, files: Files) -> None:
        self.findings = Findings(root)
        self._files = files
        self._commits: list[tuple[Lsn, Commit]] = []
        self._emits: dict[tuple[RunId, StepName], Emit] = {}
        self._expected = 0

    def run(self) -> None:
        found, files = self.findings, self._files
        recovered = recover(
            found.root, files, exclusive=False, recompute=True, on_record=self._take
        )
        found.log = [
            warning.removesuffix("; what is lost is recomputed") for warning in recovered.warnings
        ]
        self._checkpoint(recovered.tail.lsn)
        if recovered.store_id is None:
            return
        index = recovered.index
        names = {lineage: defined.step for lineage, defined in index.step_defs.items()}
        rows = SegmentReader(found.root, recovered.store_id, files)
        try:
            for lsn, commit in self._commits:
                # Above the watermark nobody was told that it counts: the next open judges it.
                if lsn not in index.tombstones and lsn <= recovered.durable:
                    found.lineages.add(commit.lineage)
                    now = map(index.current, commit.outputs)
                    self._batch(rows, lsn, commit, now, names)
        finally:
            rows.close()
        for emit in self._emits.values():
            self._datasets(emit)

    def _take(self, lsn: Lsn, _place: int, header: Header, payload: memoryview) -> None:
        if self._expected:
            self.findings.records += lsn - self._expected
        self._expected = lsn + 1
        if header.type >= RecordType.FILE:
            return
        body = payload[header.meta_bytes : header.meta_bytes + header.body_bytes]
        event: Event = decode_event(body, header.type)
        if isinstance(event, Commit):
            self._commits.append((lsn, event))
        elif isinstance(event, Emit):
            self._emits[event.run, event.leaf] = event

    def _batch(
        self,
        reader: SegmentReader,
        lsn: Lsn,
        commit: Commit,
        refs: Iterable[BatchRef],
        names: dict[Digest, StepName],
    ) -> None:
        damaged, reason = [], ""
        for ref in refs:
            try:
                reader.verify(ref)
            except CorruptRecord as error:
                damaged.append(ref)
                reason = reason or str(error).partition(". Its ")[0]
        if damaged:
            step = names.get(commit.lineage, StepName(commit.lineage.hex()[:8]))
            rows = sum(ref.rows for ref in commit.outputs)
            self.findings.batches.append(
                LostBatch(step, commit.run, lsn, rows, tuple(damaged), reason)
            )

    def _datasets(self, emit: Emit) -> None:
        for relative, expected in emit.files:
            path = self.findings.root / relative
            # One that is gone is made anew by the next run anyway.
            with suppress(FileNotFoundError):
                if _digest(self._files, path) != expected:
                    self.findings.datasets.append(path)

    def _checkpoint(self, last: int) -> None:
        found = self.findings
        path = checkpoint_path(found.root)
        try:
            checkpoint = Checkpoint(path, self._files)
        except FileNotFoundError:
            return
        except CorruptRecord:
            found.checkpoint = True
            return
        try:
            for lineage in checkpoint.lineages():
                checkpoint.table(lineage)
        except CorruptRecord:
            found.checkpoint = True
        finally:
            checkpoint.close()
        if last < checkpoint.tail.lsn and not found.checkpoint:
            found.short = True
            found.records += checkpoint.tail.lsn - last
            found.log.append(
                f"{found.root / 'commits'}: the log ends with LSN {last}, its checkpoint speaks of "
                f"LSN {checkpoint.tail.lsn}"
            )


def repair(cache_dir: Path, name: str, files: Files) -> Findings:
    """Give up what is damaged in a store, so that it opens and the next run computes just that.

    Returns:
        What was wrong.

    Raises:
        StoreLocked: A run of that name goes on.
        FormatError: It was written by a newer format.
        StorageError: The disk refused; doing it again finishes it.
    """
    root = store_root(cache_dir, name)
    found = examine(root, files)
    if found.sound:
        return found
    try:
        _set_aside(found, files)
        store = Store.open(cache_dir, name, files=files, on_corruption="recompute")
        clean = False
        try:
            # Reads every row again, and writes down which commits are given up.
            for lineage in found.lineages:
                store.commits(lineage)
            failpoint("repair.before_close")
            clean = True
        finally:
            store.close(clean=clean)
    except OSError as error:
        raise StorageError(
            f"{root} can't be repaired ({error.strerror}); nothing more is lost: see to the disk, "
            "then repair again"
        ) from error
    _make_sure(root, files)
    return found


def _make_sure(root: Path, files: Files) -> None:
    left = examine(root, files)
    if left.log or left.batches:
        raise CorruptRecord(
            f"{root} is still damaged after its repair: {(*left.log, *left.batches)[0]}. The disk "
            "may be failing: copy the cache directory to another one, then repair that",
            path=str(root),
        )


def _set_aside(found: Findings, files: Files) -> None:
    """Copy damaged rows to quarantine; move files there that are made anew."""
    folder = found.root / "quarantine"
    make_durable_dir(files, folder)
    reader = _Bytes(found.root, files)
    for batch in found.batches:
        for ref in batch.refs:
            stem = f"{ref.segment:010d}-{ref.offset}"
            data = reader.of(ref)
            note = (
                f"{batch.reason}: {ref.rows} rows of step {batch.step!r}, committed by run "
                f"{batch.run} with LSN {batch.lsn}; they are computed again\n"
            )
            write_anew(files, folder / f"{stem}.bin", [data])
            write_anew(files, folder / f"{stem}.txt", [note.encode()])
            failpoint("repair.after_copy")
    if found.checkpoint or (found.log and not found.short):
        # It would spare the reading of what has to be read: the places that are damaged. Where
        # the log is too short it is the only one that knows which numbers were used.
        path = checkpoint_path(found.root)
        if files.exists(path):
            files.replace(path, folder / "checkpoint.bin")
            files.fsync_dir(found.root)
    for path in found.datasets:
        files.replace(path, path.with_name(f"{path.name}.damaged"))
    files.fsync_dir(folder)


class _Bytes:
    """Reads what is left of damaged records."""

    def __init__(self, root: Path, files: Files) -> None:
        self._reader = SegmentReader(root, b"", files)
        self._files = files

    def of(self, ref: BatchRef) -> bytes:
        """Bytes of a record, as many as there are."""
        try:
            fd = self._files.open_read(self._reader.path(ref.segment))
        except OSError:
            return b""
        try:
            return self._files.pread(fd, ref.length, ref.offset)
        except OSError:
            return b""
        finally:
            self._files.close(fd)


def _digest(files: Files, path: Path) -> bytes:
    whole, at = xxh3_128(), 0
    fd = files.open_read(path)
    try:
        while piece := files.pread(fd, _PIECE_BYTES, at):
            whole.update(piece)
            at += len(piece)
    finally:
        files.close(fd)
    return whole.digest()
