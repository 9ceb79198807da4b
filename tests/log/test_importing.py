"""Importing a pack: what it leaves when it is killed, cut from power, or refused by the disk."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import pytest
from xxhash import xxh3_128_digest

from asyncdistil.batch import (
    FRESH_ORIGINS,
    SAME_ORIGINS,
    Digest,
    Lsn,
    RowSlice,
    RunId,
    StepName,
)
from asyncdistil.codec import encode_rows
from asyncdistil.log import LocalFiles, SegmentWriter, Store, StoreReader, store_root
from asyncdistil.log.checking import check
from asyncdistil.log.collection import collect
from asyncdistil.log.events import (
    Commit,
    Emit,
    Retried,
    Retry,
    Reuse,
    RunBegin,
    RunEnd,
    StepDef,
    StepDone,
)
from asyncdistil.log.history import COLLECTED
from asyncdistil.log.pack import PackReader, PackWriter
from asyncdistil.log.portable import portable, write_store
from asyncdistil.log.saved import write_saved
from asyncdistil.log.taking_in import TakenIn, take_in
from asyncdistil.testing.disk import MemoryDisk, PowerCut, interrupted
from asyncdistil.testing.faults import DyingFiles, in_child, small_reserve

CACHE = Path("/cache")
FIRST, SECOND = RunId("1" * 32), RunId("2" * 32)
SOURCE, STEP = Digest(b"g" * 16), Digest(b"s" * 16)
DATA, KEY = Digest(b"d" * 16), Digest(b"k" * 16)
DATASET = b"rows as Arrow has them" * 50
FILE = f"exports/{SECOND}/{'b' * 32}-0.arrow"
ARTIFACT = f"artifacts/{FIRST}/work/index"
SAVED = {"metadata.json": b"{}", "parts/0": b"an index" * 30, "zero": b""}
"""What the first run's step saved, by its place below the artifact."""


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack of a run that took the generator's rows and one batch from an earlier one."""
    folder = tmp_path_factory.mktemp("made")
    with small_reserve():
        store = Store.open(folder, "p")
    store.append([RunBegin(FIRST, "sig", "agg", b"", 1.0, False, (SOURCE, STEP))])
    store.append([StepDef(SOURCE, StepName("load"), b"1"), StepDef(STEP, StepName("work"), b"2")])
    lsns = []
    slices = []
    segment, fd = store.create_segment(SOURCE)
    writer = SegmentWriter(fd, segment, store.id)
    for at in (0, 3):
        refs = writer.append(encode_rows([{"n": at + n} for n in range(3)], step="s"))
        commit = Commit(FIRST, SOURCE, (), (DATA,), refs, FRESH_ORIGINS, ordinal=at)
        lsns.append(Lsn(store.append([commit])[0]))
        slices.append(RowSlice(refs[0], 0, 3))
    store.append([StepDone(FIRST, SOURCE, DATA, 6, 0)])
    segment, fd = store.create_segment(STEP)
    writer = SegmentWriter(fd, segment, store.id)
    for number, (run, part) in enumerate(zip((FIRST, SECOND), slices, strict=True)):
        if run == SECOND:
            store.append([RunEnd(FIRST, True, DATA, 0, "", 2.0)])
            retry = Retry(FIRST, KEY, (Retried(StepName("work"), STEP, STEP, ((lsns[2], 0, 1),)),))
            begin = RunBegin(SECOND, "sig", "agg", b"", 3.0, False, (SOURCE, STEP), retry)
            store.append([begin, Reuse(SECOND, SOURCE, tuple(lsns[:2]))])
            store.append([Reuse(SECOND, STEP, (lsns[2],))])
        refs = writer.append(encode_rows([{"m": number, "n": n} for n in range(3)], step="s"))
        digests = (part.ref.digest,)
        commit = Commit(run, STEP, ((part,),), digests, refs, SAME_ORIGINS)
        lsns.append(Lsn(store.append([commit])[0]))
    for name, content in {FILE: DATASET, **_saved(ARTIFACT, SAVED)}.items():
        path = store.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    digest = Digest(xxh3_128_digest(DATASET))
    store.append([Emit(SECOND, KEY, StepName("work"), "default", ((FILE, digest),), 6)])
    store.append([RunEnd(SECOND, True, KEY, 0, "", 4.0)])
    store.close(clean=True)
    made = portable(store.root, "", LocalFiles())
    target = folder / "made.adpack"
    with closing(PackWriter(target)) as writing:
        write_store(writing, made, LocalFiles())
        assert write_saved(writing, made, LocalFiles()) == 1
        writing.finish(pipeline="p", run=made.run, store_id=made.history.store_id)
    return target


def imported(pack: Path, cache: Path, files: MemoryDisk | LocalFiles) -> TakenIn:
    with small_reserve(), closing(PackReader(pack)) as reader:
        return take_in(check(reader), reader, cache, files)


def _saved(folder: str, contents: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": content for name, content in contents.items()}


def content(path: Path, files: MemoryDisk | LocalFiles) -> bytes:
    fd = files.open_read(path)
    try:
        return files.pread(fd, 1 << 20, 0)
    finally:
        files.close(fd)


def completed(cache: Path, files: MemoryDisk | LocalFiles) -> bool:
    """Whether the run counts as completed; if so, all of it must be there.

    What a step saved must be there with its first commit, which other runs may use.
    """
    store = StoreReader.open(cache, "p", files=files)
    if store is None:
        return False
    ends = {begin.run: end for begin, end in store.runs()}
    end = ends.get(SECOND)
    found = end is not None and end.completed
    reader = store.reader()
    for lineage in (SOURCE, STEP):
        commits = store.commits(lineage)
        for _, commit in commits:
            for ref in commit.outputs:
                assert len(reader.rows(RowSlice(ref, 0, ref.rows))) == 3
        if found:
            assert len(commits) == 2
        if commits:
            for name, expected in _saved(ARTIFACT, SAVED).items():
                assert content(store.root / name, files) == expected
    reader.close()
    if found:
        assert content(store.root / FILE, files) == DATASET
        assert {emit.run for emit in store.emits(KEY)} == {SECOND}
        assert store.step_done(SOURCE, DATA) is not None
    store.close()
    return found


def test_commits_of_earlier_runs_come_along_and_those_runs_do_not_count_as_completed(
    pack: Path,
) -> None:
    disk = MemoryDisk()
    taken = imported(pack, CACHE, disk)
    assert (taken.known, taken.commits, taken.rows, taken.datasets) == (False, 4, 12, 1)
    assert completed(CACHE, disk)
    store = StoreReader.open(CACHE, "p", files=disk)
    assert store is not None
    (first, end), (second, _) = store.runs()
    assert first.run == FIRST
    assert end is not None
    assert (end.completed, end.reason) == (False, COLLECTED)
    # What the retry asked is named by the numbers that the commits have here.
    assert second.retry is not None
    (asked,) = second.retry.steps
    assert [lsn for lsn, _, _ in asked.rows] == [store.commits(STEP)[0][0]]
    store.close()
    assert disk.open_descriptors == 0
    assert imported(pack, CACHE, disk).known
    # What came in is collected like what was made here.
    collect(CACHE, "p", {SECOND}, disk)
    assert not completed(CACHE, disk)
    assert not imported(pack, CACHE, disk).known
    assert completed(CACHE, disk)


def test_a_run_that_is_here_in_part_is_filled_up_and_nothing_of_it_doubled(pack: Path) -> None:
    disk = MemoryDisk()
    imported(pack, CACHE, disk)
    store = Store.open(CACHE, "p", files=disk)
    before = [lsn for lsn, _ in store.commits(STEP)]
    (lost, commit) = store.commits(STEP)[1]
    path = store_root(CACHE, "p") / "segments" / STEP.hex()
    store.close(clean=True)
    (file,) = [p for p in disk.files() if p.parent == path]
    image = bytearray(disk.files()[file])
    image[commit.outputs[0].offset + 90] ^= 1
    disk.put(file, bytes(image))
    store = Store.open(CACHE, "p", files=disk, on_corruption="recompute")
    assert [lsn for lsn, _ in store.commits(STEP)] == before[:1]
    store.close(clean=True)
    taken = imported(pack, CACHE, disk)
    assert (taken.known, taken.commits) == (False, 1)
    assert completed(CACHE, disk)
    assert lost not in {lsn for lsn, _ in Store.open(CACHE, "p", files=disk).commits(STEP)}


@pytest.mark.parametrize("error", [PowerCut(), OSError(28, "No space left on device")], ids=repr)
def test_an_import_that_is_cut_short_at_any_act_counts_whole_or_not_at_all(
    pack: Path, error: BaseException
) -> None:
    rng = random.Random(1)
    act = 0
    while True:
        act += 1
        disk = MemoryDisk()
        cut = interrupted(disk, act, lambda d=disk: imported(pack, CACHE, d), error)
        if not cut:
            assert completed(CACHE, disk)
            break
        for _ in range(3):
            after = (
                disk.after_power_cut(rng)
                if isinstance(error, PowerCut)
                else disk.after_process_death()
            )
            completed(CACHE, after)
            imported(pack, CACHE, after)
            assert completed(CACHE, after)
    assert act > 40


def test_an_import_that_is_killed_at_any_act_counts_whole_or_not_at_all(
    pack: Path, tmp_path: Path
) -> None:
    act = 0
    while True:
        act += 2
        cache = tmp_path / str(act)
        died = in_child(lambda _report, c=cache, a=act: imported(pack, c, DyingFiles(a, 0.5)))
        if not died.killed:
            assert died.status == 0, died.reports
            break
        completed(cache, LocalFiles())
        imported(pack, cache, LocalFiles())
        assert completed(cache, LocalFiles())
    assert act > 40
