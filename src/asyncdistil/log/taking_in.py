"""What a pack holds for a store, put into the store of this machine.

Nothing of the store is overwritten: rows are written anew into segments of its own, commits and
records are appended as a run would append them. The run counts only from its last group of records
on, which is appended when all else is durable; killed before that, what is there is work that may
be reused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from xxhash import xxh3_128

from asyncdistil.batch import BatchRef, Digest, Lsn, RowSlice, SegmentId
from asyncdistil.errors import StorageError
from asyncdistil.log.checking import Checked, Packed
from asyncdistil.log.events import Commit, Event, RunBegin
from asyncdistil.log.failpoint import failpoint
from asyncdistil.log.files import Files, make_durable_dir, write_all
from asyncdistil.log.history import Place
from asyncdistil.log.names import label_store
from asyncdistil.log.pack import PackReader
from asyncdistil.log.record import (
    FILE_HEADER_BYTES,
    FileKind,
    RecordType,
    encode_record,
    file_seed,
)
from asyncdistil.log.saved import take_in_saved
from asyncdistil.log.store import Store

_AT_ONCE = 2000
_PIECE_BYTES = 1 << 20


class TakenIn(NamedTuple):
    """What was put into a store.

    Attributes:
        root: Directory of the store.
        known: Whether the run was there already, whole.
        commits: Commits written.
        rows: Rows of those.
        datasets: Dataset files written.
        artifacts: Artifacts written.
        unfinished: Run of this pipeline that did not end and will not be taken up any more, though
            its finished work is still used; empty if there is none.
    """

    root: Path
    known: bool
    commits: int
    rows: int
    datasets: int
    artifacts: int
    unfinished: str


def take_in(checked: Checked, pack: PackReader, cache_dir: Path, files: Files) -> TakenIn:
    """Put a checked run into the store of its pipeline, made if it is missing.

    Raises:
        StoreLocked: A run of that pipeline goes on.
        CorruptRecord: The store here is damaged.
        StorageError: The disk refused; what was there before is as it was.
    """
    store = Store.open(cache_dir, checked.pipeline, files=files)
    clean = False
    try:
        label_store(store.root, checked.pipeline)
        taken = _TakingIn(checked, pack, store, files).run()
        clean = True
    except OSError as error:
        raise StorageError(
            f"{store.root} can't take in {pack.path} ({error.strerror}); what was there is as it "
            "was: see to the disk or make room on it, then import again"
        ) from error
    finally:
        store.close(clean=clean)
    return taken


class _TakingIn:
    """One run on its way into a store."""

    def __init__(self, checked: Checked, pack: PackReader, store: Store, files: Files) -> None:
        self._checked = checked
        self._pack = pack
        self._store = store
        self._files = files
        self._refs: dict[Place, BatchRef] = {}
        self._lsns: dict[Lsn, Lsn] = {}

    def run(self) -> TakenIn:
        checked, store = self._checked, self._store
        known = self._known()
        commits = [] if known else self._missing_commits()
        # First, because from its commits on, work that is reused brings its artifacts along.
        artifacts = take_in_saved(checked.saved, self._pack, store.root, self._files)
        if not known:
            self._write_rows(commits)
            self._append_work(commits)
        datasets = self._write_datasets()
        last = store.last_run()
        unfinished = ""
        if not known:
            if last is not None and last[1] is None and last[0].run != checked.run:
                unfinished = last[0].run
            store.append(self._endings())
            store.flush()
        rows = sum(ref.rows for _, commit in commits for ref in commit.outputs)
        return TakenIn(store.root, known, len(commits), rows, datasets, artifacts, unfinished)

    def _known(self) -> bool:
        """Whether the store has the run as the pack has it."""
        ends = {begin.run: end for begin, end in self._store.runs()}
        end = ends.get(self._checked.run)
        if end is None or not end.completed:
            return False
        return not self._missing_commits()

    # --- work --------------------------------------------------------------------------------

    def _missing_commits(self) -> list[tuple[Lsn, Commit]]:
        """Commits that the store lacks; of the others it is noted where they and their rows are."""
        here: dict[Digest, defaultdict[tuple[object, ...], list[tuple[Lsn, Commit]]]] = {}
        missing = []
        for lsn, commit in self._checked.commits:
            stored = here.get(commit.lineage)
            if stored is None:
                stored = here[commit.lineage] = defaultdict(list)
                for mine in reversed(self._store.commits(commit.lineage)):
                    stored[_content(mine[1])].append(mine)
            same = stored[_content(commit)]
            if not same:
                missing.append((lsn, commit))
                continue
            self._lsns[lsn], mine_too = same.pop()
            for old, new in zip(commit.outputs, mine_too.outputs, strict=True):
                self._refs[old.segment, old.offset] = new
        return missing

    def _write_rows(self, commits: Sequence[tuple[Lsn, Commit]]) -> None:
        """Write the records that these commits name, a segment for each of the pack's."""
        wanted: defaultdict[int, set[int]] = defaultdict(set)
        for _, commit in commits:
            refs = [*commit.outputs, *(part.ref for port in commit.inputs for part in port)]
            for ref in refs:
                if (ref.segment, ref.offset) not in self._refs:
                    wanted[ref.segment].add(ref.offset)
        for number, offsets in sorted(wanted.items()):
            segment, fd = self._store.create_segment(self._checked.lineages[number])
            seed = file_seed(self._store.id, FileKind.SEGMENT, segment)
            end = FILE_HEADER_BYTES
            for offset in sorted(offsets):
                packed = self._checked.records[number, offset]
                end += self._write_record(packed, segment, fd, seed, end)
            # Not left to the group: it syncs only what commits name as their output.
            self._files.fdatasync(fd)

    def _write_record(self, packed: Packed, segment: SegmentId, fd: int, seed: int, at: int) -> int:
        content = self._pack.part(packed.member, packed.at, packed.meta_bytes + packed.body_bytes)
        head, payload, _, checksum = encode_record(
            seed,
            RecordType.ROWS,
            at,
            content[packed.meta_bytes :],
            meta=content[: packed.meta_bytes],
        )
        size = write_all(self._files, fd, head + payload)
        old = packed.ref
        self._refs[old.segment, old.offset] = BatchRef(
            segment, at, size, old.rows, checksum, old.digest
        )
        failpoint("import.after_record")
        return size

    def _append_work(self, commits: Sequence[tuple[Lsn, Commit]]) -> None:
        """Append everything but what makes it a run."""
        checked, store = self._checked, self._store
        defined = store.step_defs()
        store.append([one for one in checked.definitions if one.lineage not in defined])
        for start in range(0, len(commits), _AT_ONCE):
            part = commits[start : start + _AT_ONCE]
            lsns = store.append([self._here(commit) for _, commit in part])
            self._lsns.update(zip((lsn for lsn, _ in part), map(Lsn, lsns), strict=True))
        store.append(checked.routes)
        store.append(checked.done)
        store.append(
            [
                msgspec.structs.replace(
                    reuse, commits=tuple(self._lsns[lsn] for lsn in reuse.commits)
                )
                for reuse in checked.reused
            ]
        )
        store.flush()
        failpoint("import.after_work")

    def _here(self, commit: Commit) -> Commit:
        def now(ref: BatchRef) -> BatchRef:
            return self._refs[ref.segment, ref.offset]

        return msgspec.structs.replace(
            commit,
            outputs=tuple(map(now, commit.outputs)),
            inputs=tuple(
                tuple(RowSlice(now(part.ref), part.start, part.stop) for part in port)
                for port in commit.inputs
            ),
        )

    # --- datasets and the run ----------------------------------------------------------------

    def _write_datasets(self) -> int:
        """Put dataset files in place that are missing or damaged; how many."""
        files, root = self._files, self._store.root
        folder = root / "exports" / self._checked.run
        for path in (folder.parent, folder):
            make_durable_dir(files, path)
        written = 0
        for relative, member in self._checked.datasets.items():
            path = root / relative
            if self._in_place(path, member):
                continue
            scratch = path.with_name(f"{path.name}.part")
            files.unlink(scratch)
            fd = files.create(scratch)
            try:
                for piece in self._pack.pieces(member):
                    write_all(files, fd, piece)
                files.fdatasync(fd)
            finally:
                files.close(fd)
            if files.exists(path):
                # It is not what its run wrote; whoever wants to know why still has it.
                files.replace(path, path.with_name(f"{path.name}.damaged"))
            files.replace(scratch, path)
            written += 1
        files.fsync_dir(folder)
        failpoint("import.after_datasets")
        return written

    def _in_place(self, path: Path, member: str) -> bool:
        try:
            fd = self._files.open_read(path)
        except OSError:
            return False
        try:
            return _digest(self._mine(fd)) == _digest(self._pack.pieces(member))
        finally:
            self._files.close(fd)

    def _mine(self, fd: int) -> Iterator[bytes]:
        at = 0
        while piece := self._files.pread(fd, _PIECE_BYTES, at):
            at += len(piece)
            yield piece

    def _endings(self) -> list[Event]:
        """Beginnings and ends: of runs that the store does not know, then of the run itself."""
        known = {begin.run for begin, _ in self._store.runs()}
        others = [event for event in self._checked.others if event.run not in known]
        begun = {event.run for event in others if isinstance(event, RunBegin)}
        events = [*(event for event in others if event.run in begun), *self._checked.ending]
        return [self._renumbered(event) for event in events]

    def _renumbered(self, event: Event) -> Event:
        """A beginning of a retry names commits by their LSN."""
        if isinstance(event, RunBegin) and event.retry is not None:
            return msgspec.structs.replace(event, retry=event.retry.renumbered(self._lsns))
        return event


def _content(commit: Commit) -> tuple[object, ...]:
    """What tells commits of a lineage apart, wherever their rows lie."""
    return (
        commit.run,
        commit.ordinal,
        commit.input_digests,
        tuple(ref.digest for ref in commit.outputs),
    )


def _digest(pieces: Iterator[bytes]) -> bytes:
    whole = xxh3_128()
    for piece in pieces:
        whole.update(piece)
    return whole.digest()
