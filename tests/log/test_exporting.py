"""Exporting a run: all that its dataset was made of, or the reason why that can't be."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
from xxhash import xxh3_128_digest

from asyncdistil.batch import (
    FRESH_ORIGINS,
    SAME_ORIGINS,
    BatchRef,
    Digest,
    Lsn,
    RowSlice,
    RunId,
    StepName,
)
from asyncdistil.codec import encode_rows
from asyncdistil.errors import CorruptRecord, StorageError
from asyncdistil.log import LocalFiles, SegmentWriter, Store, StoreReader
from asyncdistil.log.checking import check
from asyncdistil.log.events import (
    Commit,
    Emit,
    Intent,
    Outcome,
    Reuse,
    Route,
    RunBegin,
    RunEnd,
    StepDef,
)
from asyncdistil.log.pack import PackReader, PackWriter
from asyncdistil.log.portable import NotPackable, Portable, portable, write_store
from asyncdistil.log.segment import segment_files
from asyncdistil.log.taking_in import TakenIn, take_in
from asyncdistil.testing.faults import small_reserve

FIRST, SECOND = RunId("1" * 32), RunId("12" + "2" * 30)
SOURCE, STEP, ROUTER = Digest(b"g" * 16), Digest(b"s" * 16), Digest(b"r" * 16)
DATA, KEY = Digest(b"d" * 16), Digest(b"k" * 16)
DATASET = b"rows as Arrow has them" * 50
FILES = LocalFiles()


class Made(NamedTuple):
    """A store of two runs: the second took the work of the first one's step, and nothing else."""

    root: Path
    source: BatchRef
    step: BatchRef

    def path(self, ref: BatchRef) -> Path:
        return dict(segment_files(self.root, FILES))[ref.segment]

    def dataset(self, run: RunId) -> Path:
        return self.root / f"exports/{run}/{'b' * 32}-0.arrow"

    def damage(self, ref: BatchRef) -> None:
        image = bytearray(self.path(ref).read_bytes())
        image[ref.offset + ref.length // 2] ^= 1
        self.path(ref).write_bytes(image)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    with small_reserve():
        store = Store.open(tmp_path / "cache", "p")
    store.append([RunBegin(FIRST, "sig", "agg", b"", 1.0, False, (SOURCE, STEP, ROUTER))])
    store.append([StepDef(SOURCE, StepName("load"), b"1"), StepDef(STEP, StepName("work"), b"2")])
    refs: list[BatchRef] = []
    for lineage in (SOURCE, STEP):
        segment, fd = store.create_segment(lineage)
        writer = SegmentWriter(fd, segment, store.id)
        refs += writer.append(encode_rows([{"n": n, "of": lineage} for n in range(3)], step="s"))
    source, step = refs
    store.append([Commit(FIRST, SOURCE, (), (DATA,), (source,), FRESH_ORIGINS)])
    ports = ((RowSlice(source, 0, 3),),)
    (lsn,) = store.append([Commit(FIRST, STEP, ports, (source.digest,), (step,), SAME_ORIGINS)])
    store.append([Route(FIRST, ROUTER, KEY, (StepName("work"),))])
    store.append([Intent(FIRST, STEP, KEY), Outcome(FIRST, STEP, KEY, "ok")])
    found = Made(store.root, source, step)
    for run in (FIRST, SECOND):
        if run == SECOND:
            store.append([RunBegin(SECOND, "sig", "agg", b"", 3.0, False, (SOURCE, STEP, ROUTER))])
            store.append([Reuse(SECOND, STEP, (Lsn(lsn),))])
        path = found.dataset(run)
        path.parent.mkdir(parents=True)
        path.write_bytes(DATASET)
        files = ((str(path.relative_to(store.root)), Digest(xxh3_128_digest(DATASET))),)
        store.append([Emit(run, KEY, StepName("work"), "default", files, 3)])
        store.append([RunEnd(run, True, KEY, 0, "", 4.0)])
    store.close(clean=True)
    return found


def exported(made: Portable, target: Path) -> Path:
    with closing(PackWriter(target)) as pack:
        write_store(pack, made, FILES)
        pack.finish(pipeline="p", run=made.run, store_id=made.history.store_id)
    return target


def imported(pack: Path, cache: Path) -> TakenIn:
    with small_reserve(), closing(PackReader(pack)) as reader:
        return take_in(check(reader), reader, cache, FILES)


def test_decisions_of_routers_come_along_and_effects_outside_do_not(
    made: Made, tmp_path: Path
) -> None:
    here = StoreReader.open(tmp_path / "cache", "p")
    assert here is not None
    assert here.outcome(STEP, KEY) == "ok"
    here.close()
    pack = exported(portable(made.root, FIRST, FILES), tmp_path / "pack")
    taken = imported(pack, tmp_path / "there")
    assert (taken.known, taken.commits, taken.datasets) == (False, 2, 1)
    there = StoreReader.open(tmp_path / "there", "p")
    assert there is not None
    assert there.routes(ROUTER) == {KEY: ("work",)}
    # What happened outside of the one machine did not happen for the other.
    assert there.outcome(STEP, KEY) is None
    assert not there.intended(STEP, KEY)
    there.close()


def test_an_import_names_the_run_that_will_not_be_taken_up_any_more(
    made: Made, tmp_path: Path
) -> None:
    pack = exported(portable(made.root, SECOND, FILES), tmp_path / "pack")
    open_one = RunId("f" * 32)
    with small_reserve():
        store = Store.open(tmp_path / "there", "p")
    store.append([RunBegin(open_one, "sig", "agg", b"", 1.0)])
    store.close(clean=False)
    assert imported(pack, tmp_path / "there").unfinished == open_one


def test_only_one_completed_run_can_be_packed(made: Made, tmp_path: Path) -> None:
    assert portable(made.root, "", FILES).run == SECOND
    assert portable(made.root, "12", FILES).run == SECOND
    with pytest.raises(NotPackable, match="no one completed run f is stored; those are 1111"):
        portable(made.root, "f", FILES)
    with pytest.raises(NotPackable, match="no one completed run 1 is stored"):
        portable(made.root, "1", FILES)
    with small_reserve():
        store = Store.open(tmp_path / "cache", "unfinished")
    store.append([RunBegin(FIRST, "sig", "agg", b"", 1.0)])
    store.close(clean=True)
    with pytest.raises(NotPackable, match="those are none yet"):
        portable(store.root, "", FILES)


def test_a_dataset_that_is_gone_or_changed_is_never_packed(made: Made, tmp_path: Path) -> None:
    path = made.dataset(SECOND)
    path.write_bytes(DATASET[:-1] + b"X")
    with pytest.raises(CorruptRecord, match="was changed after it was written"):
        exported(portable(made.root, SECOND, FILES), tmp_path / "pack")
    assert not list(tmp_path.glob("pack*"))
    path.unlink()
    with pytest.raises(NotPackable, match=r"dataset file .* is gone: run the pipeline again"):
        portable(made.root, SECOND, FILES)


def test_rows_that_only_served_as_input_cost_their_commit_when_they_are_damaged(
    made: Made, tmp_path: Path
) -> None:
    assert portable(made.root, SECOND, FILES).left_out == 0
    made.damage(made.source)
    found = portable(made.root, SECOND, FILES)
    assert found.left_out == 1
    taken = imported(exported(found, tmp_path / "pack"), tmp_path / "there")
    assert (taken.commits, taken.datasets) == (0, 1)
    with pytest.raises(CorruptRecord, match="the record at offset"):
        portable(made.root, FIRST, FILES)  # whose own work they are


def test_rows_that_cannot_be_read_are_told_before_anything_is_written(made: Made) -> None:
    made.path(made.step).unlink()
    with pytest.raises(CorruptRecord, match=r"can't be read .*cache repair"):
        portable(made.root, SECOND, FILES)


def test_a_segment_that_gets_shorter_on_the_way_ends_the_export(made: Made, tmp_path: Path) -> None:
    found = portable(made.root, SECOND, FILES)
    os.truncate(made.path(made.step), made.step.offset + 40)
    with pytest.raises(CorruptRecord, match="ends too early"):
        exported(found, tmp_path / "pack")
    assert not list(tmp_path.glob("pack*"))


# --- the file -------------------------------------------------------------------------------------


def test_a_pack_that_is_not_the_expected_one_is_refused(made: Made, tmp_path: Path) -> None:
    path = tmp_path / "pack"
    with closing(PackWriter(path)) as pack:
        write_store(pack, portable(made.root, "", FILES), FILES)
        told = pack.finish(pipeline="p", run=SECOND, store_id=bytes(16))
    with closing(PackReader(path, expected_sha256=f" {told.upper()}\n")) as reader:
        assert reader.sha256 == told
    with pytest.raises(CorruptRecord, match=f"its SHA-256 is {told}"):
        PackReader(path, expected_sha256="0" * 64)


def test_a_pack_that_is_cut_while_it_is_read_is_told(made: Made, tmp_path: Path) -> None:
    path = exported(portable(made.root, "", FILES), tmp_path / "pack")
    with closing(PackReader(path)) as reader:
        os.truncate(path, 0)
        with pytest.raises(CorruptRecord, match="it ends too early"):
            list(reader.pieces("log"))


def test_a_pack_that_cannot_be_written_or_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="can't be written"):
        PackWriter(tmp_path / "nowhere" / "pack")
    with pytest.raises(StorageError, match="can't be read"):
        PackReader(tmp_path / "nowhere")
