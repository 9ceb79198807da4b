"""Which run needs what: weighed for people, and never too little of it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncdistil.batch import (
    FRESH_ORIGINS,
    BatchRef,
    Digest,
    Lsn,
    RowSlice,
    RunId,
    StepName,
)
from asyncdistil.codec import encode_rows
from asyncdistil.errors import CorruptRecord, LogError, StorageError
from asyncdistil.log import SegmentWriter, Store, StoreReader
from asyncdistil.log.collection import Survey, collect
from asyncdistil.log.events import (
    Commit,
    Event,
    Intent,
    Retried,
    Retry,
    Reuse,
    RunBegin,
    RunEnd,
    StepDef,
    StepDone,
)
from asyncdistil.log.history import read_history
from asyncdistil.log.names import commit_path, store_root
from asyncdistil.log.pins import Pins, write_pins
from asyncdistil.testing.disk import MemoryDisk
from asyncdistil.testing.faults import small_reserve

CACHE = Path("/cache")
ROOT = store_root(CACHE, "p")
LOG = commit_path(ROOT, 1)
FIRST, SECOND, THIRD = (RunId(digit * 32) for digit in "123")
SOURCE = Digest(b"g" * 16)
DATA, KEY = Digest(b"d" * 16), Digest(b"k" * 16)


@pytest.fixture(autouse=True)
def _cheap() -> Iterator[None]:
    with small_reserve():
        yield


class Session:
    """A store that is being written, and where its records begin."""

    def __init__(self) -> None:
        self.disk = MemoryDisk()
        self.store = Store.open(CACHE, "p", files=self.disk)
        segment, fd = self.store.create_segment(SOURCE)
        self._writer = SegmentWriter(fd, segment, self.store.id, self.disk)
        self.places: dict[Lsn, int] = {}

    def write(self, event: Event) -> Lsn:
        at = len(self.disk.files().get(LOG, b""))
        lsn = Lsn(self.store.append([event])[0])
        self.places[lsn] = at
        return lsn

    def begin(self, run: RunId, *, retry: Retry | None = None, seconds: float = 1.0) -> Lsn:
        return self.write(RunBegin(run, "sig", "agg", b"", seconds, False, (SOURCE,), retry))

    def commit(self, run: RunId, ordinal: int, *, rows: int = 3) -> Lsn:
        content = [{"n": ordinal + n, "text": "x" * 300} for n in range(rows)]
        refs: tuple[BatchRef, ...] = ()
        if rows:
            refs = self._writer.append(encode_rows(content, step="s"))
        return self.write(Commit(run, SOURCE, (), (DATA,), refs, FRESH_ORIGINS, ordinal=ordinal))

    def end(self, run: RunId) -> Lsn:
        return self.write(RunEnd(run, True, KEY, 0, "", float(run[0])))

    def close(self) -> MemoryDisk:
        self.store.close(clean=False)
        return self.disk

    def close_without(self, lsn: Lsn) -> MemoryDisk:
        """End, lose one record of the log, and give it up as a repair does."""
        disk = self.close()
        image = bytearray(disk.files()[LOG])
        image[self.places[lsn] + 70] ^= 1
        disk.put(LOG, bytes(image))
        store = Store.open(CACHE, "p", files=disk, on_corruption="recompute")
        assert store.warnings
        store.close(clean=True)
        return disk


def commits(disk: MemoryDisk) -> list[tuple[RunId, int]]:
    """Run and ordinal of every commit, after reading all rows."""
    store = StoreReader.open(CACHE, "p", files=disk)
    assert store is not None
    reader = store.reader()
    found = []
    for _, commit in store.commits(SOURCE):
        for ref in commit.outputs:
            assert reader.rows(RowSlice(ref, 0, 1))[0]["n"] == commit.ordinal
        found.append((commit.run, commit.ordinal))
    reader.close()
    store.close()
    return found


def test_what_a_run_would_free_alone_is_what_no_other_run_needs() -> None:
    session = Session()
    session.begin(FIRST)
    lsns = [session.commit(FIRST, ordinal) for ordinal in (0, 3)]
    session.end(FIRST)
    session.begin(SECOND)
    session.write(Reuse(SECOND, SOURCE, (lsns[0],)))
    session.commit(SECOND, 6)
    session.end(SECOND)
    disk = session.close()
    folder = ROOT / "exports" / SECOND
    for path in (folder.parent, folder):
        disk.make_private_dir(path)
    disk.put(folder / "a.arrow", b"x" * 5000)
    disk.put(folder / "notes", b"x" * 70)
    write_pins(ROOT, Pins(runs=(FIRST,)), disk)
    survey = Survey(ROOT, "p", disk)
    first, second = survey.shares()
    assert (first.part.run, first.commits, first.rows, first.reused) == (FIRST, 2, 6, 0)
    assert (second.part.run, second.commits, second.rows, second.reused) == (SECOND, 2, 6, 1)
    assert (first.export_bytes, second.export_bytes) == (0, 5000)
    assert (first.pinned, second.pinned) == (True, False)
    assert first.alone_bytes > 900  # one of its two commits: the other serves both
    assert second.alone_bytes == first.alone_bytes + 5070
    for share in (first, second):
        assert share.alone_bytes == Survey(ROOT, "p", disk).drop(share.part.run)
    assert [part.run for part in survey.droppable()] == [SECOND]


def test_each_time_that_a_run_was_taken_up_is_known() -> None:
    session = Session()
    lsns = [session.begin(FIRST), session.begin(SECOND), session.begin(FIRST, seconds=2.0)]
    disk = session.close()
    store = StoreReader.open(CACHE, "p", files=disk)
    assert store is not None
    found = [(lsn, begin.wall_seconds) for lsn, begin in store.begins(FIRST)]
    assert found == [(lsns[0], 1.0), (lsns[2], 2.0)]
    assert store.begins(THIRD) == []
    store.close()


# --- where the log has holes ----------------------------------------------------------------------


def test_work_of_a_run_whose_beginning_is_lost_stays_with_the_run_before_it() -> None:
    session = Session()
    session.begin(FIRST)
    session.commit(FIRST, 0)
    session.end(FIRST)
    lost = session.begin(SECOND)
    mine = session.commit(SECOND, 3)
    session.end(SECOND)
    session.begin(THIRD)
    session.write(Reuse(THIRD, SOURCE, (mine,)))
    session.end(THIRD)
    disk = session.close_without(lost)
    history = read_history(ROOT, disk)
    assert list(history.runs) == [FIRST, THIRD]
    assert len(history.runs[FIRST].wrote) == 2
    assert {one.run for one in history.commits} == {FIRST}
    collect(CACHE, "p", {THIRD}, disk)
    assert commits(disk) == [(FIRST, 0), (SECOND, 3)]
    collect(CACHE, "p", {FIRST}, disk)
    assert commits(disk) == []


def test_work_of_a_run_whose_beginning_is_lost_and_that_was_the_first_is_kept() -> None:
    session = Session()
    lost = session.begin(FIRST)
    session.commit(FIRST, 0)
    session.end(FIRST)
    session.begin(SECOND)
    session.end(SECOND)
    disk = session.close_without(lost)
    survey = Survey(ROOT, "p", disk)
    assert [part.run for part in survey.droppable()] == [SECOND]
    assert not read_history(ROOT, disk).runs[FIRST].sure
    collect(CACHE, "p", {FIRST, SECOND}, disk)
    assert commits(disk) == [(FIRST, 0)]


def test_a_run_whose_records_of_reuse_may_be_lost_holds_all_that_it_may_have_reused() -> None:
    session = Session()
    session.begin(FIRST)
    taken = session.commit(FIRST, 0)
    session.end(FIRST)
    session.begin(SECOND)
    lost = session.write(Reuse(SECOND, SOURCE, (taken,)))
    session.end(SECOND)
    disk = session.close_without(lost)
    history = read_history(ROOT, disk)
    assert (history.runs[FIRST].sure, history.runs[SECOND].sure) == (True, False)
    collect(CACHE, "p", {FIRST}, disk)
    assert commits(disk) == [(FIRST, 0)]


# --- the log that is written anew -----------------------------------------------------------------


def test_a_generator_that_yielded_an_empty_batch_stays_complete_in_a_log_written_anew() -> None:
    session = Session()
    session.begin(FIRST)
    lsns = [session.commit(FIRST, 0), session.commit(FIRST, 3, rows=0)]
    session.write(StepDone(FIRST, SOURCE, DATA, 3, 0))
    session.write(Intent(FIRST, SOURCE, KEY))
    session.end(FIRST)
    session.begin(SECOND)
    session.write(Reuse(SECOND, SOURCE, tuple(lsns)))
    session.end(SECOND)
    disk = session.close()
    collect(CACHE, "p", {FIRST}, disk)
    assert commits(disk) == [(FIRST, 0), (FIRST, 3)]
    store = StoreReader.open(CACHE, "p", files=disk)
    assert store is not None
    done = store.step_done(SOURCE, DATA)
    assert done is not None
    # An effect outside that was begun is remembered, whoever began it.
    assert store.intended(SOURCE, KEY)
    store.close()


def test_a_retry_names_commits_as_they_are_numbered_in_a_log_written_anew() -> None:
    session = Session()
    session.begin(THIRD)
    session.commit(THIRD, 0)
    session.end(THIRD)
    session.begin(FIRST)
    mended = session.commit(FIRST, 3)
    session.end(FIRST)
    asked = Retried(StepName("s"), SOURCE, SOURCE, ((mended, 0, 2), (Lsn(2), 0, 1)))
    session.begin(SECOND, retry=Retry(FIRST, KEY, (asked,)))
    session.write(Reuse(SECOND, SOURCE, (mended,)))
    session.end(SECOND)
    disk = session.close()
    collect(CACHE, "p", {THIRD}, disk)
    store = StoreReader.open(CACHE, "p", files=disk)
    assert store is not None
    ((now, _),) = store.commits(SOURCE)
    assert now != mended
    ((_, begin),) = store.begins(SECOND)
    assert begin.retry is not None
    # The commit that went can't answer for any row, so nothing is said of it any more.
    assert begin.retry.steps[0].rows == ((now, 0, 2),)
    store.close()


def test_a_log_that_is_larger_than_one_write_is_written_anew_whole() -> None:
    session = Session()
    lineages = [Digest(bytes([number]) * 16) for number in range(1, 8)]
    session.write(RunBegin(FIRST, "sig", "agg", b"", 1.0, False, (SOURCE, *lineages)))
    definitions = {one: bytes(one) * (1 << 16) for one in lineages}  # a megabyte each
    for lineage, definition in definitions.items():
        session.write(StepDef(lineage, StepName("s"), definition))
    session.commit(FIRST, 0)
    session.end(FIRST)
    session.begin(SECOND)
    session.commit(SECOND, 3)
    session.end(SECOND)
    disk = session.close()
    collect(CACHE, "p", {SECOND}, disk)
    assert commits(disk) == [(FIRST, 0)]
    store = StoreReader.open(CACHE, "p", files=disk)
    assert store is not None
    assert {one: defined.definition for one, defined in store.step_defs().items()} == definitions
    store.close()


def test_rows_stay_where_they_are_when_no_copy_of_them_can_be_made() -> None:
    session = Session()
    session.begin(FIRST)
    session.commit(FIRST, 0)
    session.end(FIRST)
    session.begin(SECOND)
    session.commit(SECOND, 3)
    session.end(SECOND)
    disk = session.close()

    def refuse(act: str, path: Path) -> None:
        if act == "create" and path.suffix == ".ads":
            raise OSError(errno.ENOSPC, "No space left on device")

    disk.before = refuse
    with pytest.raises(StorageError, match="nothing that is kept is lost"):
        collect(CACHE, "p", {FIRST}, disk)
    disk.before = lambda _act, _path: None
    assert disk.open_descriptors == 0
    assert commits(disk) == [(FIRST, 0), (SECOND, 3)]
    collect(CACHE, "p", {FIRST}, disk)
    assert commits(disk) == [(SECOND, 3)]


@pytest.mark.parametrize(
    ("number", "error", "told"),
    [
        (errno.ENOMEM, StorageError, "nothing is lost"),
        (errno.EIO, CorruptRecord, "delete it"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_is_damaged_only_if_its_bytes_are_gone(
    monkeypatch: pytest.MonkeyPatch, number: int, error: type[LogError], told: str
) -> None:
    session = Session()
    session.commit(FIRST, 0)
    session.store.close(clean=True)
    disk = session.disk
    store = StoreReader.open(CACHE, "p", files=disk)
    assert store is not None
    read = disk.pread

    def pread(fd: int, size: int, at: int) -> bytes:
        if disk._handles[fd].path.suffix == ".adk":
            raise OSError(number, "refused")
        return read(fd, size, at)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "pread", pread)
        with pytest.raises(error, match=told):
            store.commits(SOURCE)
    assert len(store.commits(SOURCE)) == 1
    store.close()
