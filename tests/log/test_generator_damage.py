"""A generator counts as complete only while everything that it yielded is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncdistil.batch import FRESH_ORIGINS, Digest, Lsn, RunId
from asyncdistil.codec import encode_rows
from asyncdistil.errors import CorruptRecord
from asyncdistil.log import SegmentWriter, Store, StoreReader
from asyncdistil.log.events import Commit, StepDone
from asyncdistil.log.names import commit_path, store_root
from asyncdistil.testing.disk import MemoryDisk

CACHE = Path("/cache")
LINEAGE, DATA = Digest(b"generator" + bytes(7)), Digest(b"d" * 16)
RUN = RunId("1" * 32)


def generated(*, clean: bool) -> tuple[MemoryDisk, list[Commit], list[int]]:
    """A store of a generator that yielded four times two rows, and said that these are all."""
    disk = MemoryDisk()
    store = Store.open(CACHE, "p", files=disk)
    segment, fd = store.create_segment(LINEAGE)
    writer = SegmentWriter(fd, segment, store.id, disk)
    commits, places = [], []
    for at in range(0, 8, 2):
        refs = writer.append(encode_rows([{"n": at}, {"n": at + 1}], step="s"))
        commits.append(Commit(RUN, LINEAGE, (), (DATA,), refs, FRESH_ORIGINS, ordinal=at))
        places.append(len(disk.files()[commit_path(store.root, 1)]))
        store.append([commits[-1]])
    store.append([StepDone(RUN, LINEAGE, DATA, 8, 0)])
    store.close(clean=clean)
    return disk, commits, places


def flip(disk: MemoryDisk, path: Path, at: int) -> None:
    image = bytearray(disk.files()[path])
    image[at] ^= 1
    disk.put(path, bytes(image))


def done(disk: MemoryDisk) -> bool:
    reader = StoreReader.open(CACHE, "p", files=disk)
    assert reader is not None
    found = reader.step_done(LINEAGE, DATA)
    reader.close()
    return found is not None


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("damaged", range(4))
def test_a_generator_is_not_complete_when_rows_of_it_were_given_up(
    damaged: int, clean: bool
) -> None:
    disk, commits, _ = generated(clean=clean)
    assert done(disk)
    (ref,) = commits[damaged].outputs
    (path,) = (p for p in disk.files() if p.suffix == ".ads")
    flip(disk, path, ref.offset + 80)
    store = Store.open(CACHE, "p", files=disk, on_corruption="recompute")
    assert len(store.commits(LINEAGE)) == 3
    assert store.step_done(LINEAGE, DATA) is None
    store.close(clean=clean)
    assert not done(disk)


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("damaged", range(4))
def test_a_generator_is_not_complete_when_a_commit_of_it_was_given_up(
    damaged: int, clean: bool
) -> None:
    disk, _, places = generated(clean=False)
    flip(disk, commit_path(store_root(CACHE, "p"), 1), places[damaged] + 90)
    with pytest.raises(CorruptRecord):
        Store.open(CACHE, "p", files=disk)
    for _ in range(3):
        store = Store.open(CACHE, "p", files=disk, on_corruption="recompute")
        assert store.step_done(LINEAGE, DATA) is None
        store.close(clean=clean)
        assert not done(disk)


def test_a_generator_is_complete_again_once_it_has_yielded_the_rest_again() -> None:
    disk, commits, _ = generated(clean=True)
    (path,) = (p for p in disk.files() if p.suffix == ".ads")
    flip(disk, path, commits[2].outputs[0].offset + 80)
    store = Store.open(CACHE, "p", files=disk, on_corruption="recompute")
    kept = [lsn for lsn, _ in store.commits(LINEAGE)]
    segment, fd = store.create_segment(LINEAGE)
    writer = SegmentWriter(fd, segment, store.id, disk)
    refs = writer.append(encode_rows([{"n": 4}, {"n": 5}], step="s"))
    store.append([Commit(RUN, LINEAGE, (), (DATA,), refs, FRESH_ORIGINS, ordinal=4)])
    (lsn,) = store.append([StepDone(RUN, LINEAGE, DATA, 8, 0)])
    assert store.step_done(LINEAGE, DATA) == (Lsn(lsn), RUN)
    assert len(kept) == 3
    store.close(clean=True)
    assert done(disk)
