"""Three stores, cut at every byte and with every bit flipped, file by file."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from asyncdistil.batch import BatchRef, RowSlice
from asyncdistil.errors import CorruptRecord, LogError
from asyncdistil.log import SegmentReader, Store
from asyncdistil.log.names import store_root
from asyncdistil.log.record import FILE_HEADER_BYTES
from asyncdistil.memo import Memo
from asyncdistil.testing.disk import MemoryDisk
from asyncdistil.testing.faults import (
    LINEAGE,
    NAME,
    Life,
    Worker,
    answer_of,
    key_of,
    read_back,
    rows_of,
    small_reserve,
)

CACHE = Path("/cache")
ROOT = store_root(CACHE, NAME)
KINDS = ("one file", "several files", "checkpoint and tail")
SHARDS = 4


@pytest.fixture(autouse=True)
def _cheap_and_silent(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with small_reserve(), caplog.at_level(logging.ERROR, "asyncdistil.memo"):
        yield


class Filled(NamedTuple):
    """A disk on which everything was acknowledged."""

    disk: MemoryDisk
    numbers: list[int]
    images: dict[Path, bytes]

    def damaged(self, path: Path, content: bytes) -> MemoryDisk:
        copy = self.disk.after_process_death()
        copy.put(path, content)
        return copy

    def of(self, suffix: str) -> list[Path]:
        return sorted(path for path in self.images if path.suffix == suffix)


def filled(kind: str, seed: int = 0, commits: int = 5) -> Filled:
    disk = MemoryDisk()
    life = Life(random.Random(seed), disk, memo=False)
    sessions = {"one file": [False], "several files": [False] * 3}.get(kind, [True, False])
    for clean in sessions:
        store = life.open()
        worker = Worker(store, disk)
        for _ in range(commits):
            life.commit(worker, rows=life.rng.randint(1, 3))
            store.flush()
        store.close(clean=clean)
    # Opened and closed once more: what the last watermark says is itself vouched for.
    store = life.open()
    store.append([])
    store.close(clean=False)
    disk = disk.after_process_death()
    return Filled(disk, [found.number for found in life.appended], disk.files())


def outcome(disk: MemoryDisk) -> tuple[list[int] | type[LogError], bool]:
    """Commits found, or the error; and whether anything was said."""
    try:
        store = Store.open(CACHE, NAME, files=disk)
    except LogError as error:
        return type(error), True
    try:
        numbers = [found.number for found in read_back(store)]
        return numbers, bool(store.warnings)
    except LogError as error:
        return type(error), True


def noticed(whole: Filled, path: Path, content: bytes) -> bool:
    """Whether a change was found, or said and survived; never whether it was merely lucky."""
    disk = whole.damaged(path, content)
    result, said = outcome(disk)
    if isinstance(result, list):
        assert result == whole.numbers, f"{result} was served without an error"
    if said or path.suffix != ".adc":
        return said
    # A checkpoint speaks for the marks and definitions behind it: they are read without it.
    for checkpoint in whole.of(".adk"):
        disk = whole.damaged(path, content)
        disk.unlink(checkpoint)
        return outcome(disk)[1]
    return False


def flipped(image: bytes, bit: int) -> bytes:
    changed = bytearray(image)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# --- truncation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_log_cut_at_any_byte_gives_a_beginning_of_it_or_an_error(faults: Any, kind: str) -> None:
    whole = filled(kind)
    cuts = 0
    step = faults.amount(smoke=37, short=1, full=1, soak=1)
    for path in (*whole.of(".adc"), *whole.of(".adk")):
        image = whole.images[path]
        for cut in range(0, len(image), step):
            result, _ = outcome(whole.damaged(path, image[:cut]))
            if isinstance(result, list):
                assert result == whole.numbers[: len(result)], (path, cut)
            cuts += 1
    faults.count("truncations", cuts)
    if step == 1:
        faults.count("logs cut at every byte", 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_segment_cut_at_any_byte_is_found_wherever_a_record_was_hit(
    faults: Any, kind: str
) -> None:
    whole = filled(kind)
    cuts = 0
    step = faults.amount(smoke=37, short=1, full=1, soak=1)
    with Rows(whole) as rows:
        for path, refs in rows.by_path.items():
            image = whole.images[path]
            for cut in range(0, len(image), step):
                rows.disk.put(path, image[:cut])
                for ref, number in refs:
                    if ref.offset + ref.length > cut:
                        with pytest.raises(CorruptRecord):
                            rows.read(ref)
                    else:
                        assert rows.read(ref) == rows_of(number, ref.rows)
                cuts += 1
            rows.disk.put(path, image)
    faults.count("truncations", cuts)


# --- flips ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("kind", KINDS)
def test_every_flipped_bit_of_a_log_is_noticed(faults: Any, kind: str, shard: int) -> None:
    """Commit-log files and checkpoints, through a whole recovery and a reading of every row."""
    step = faults.amount(smoke=211, short=7, full=1, soak=1) * SHARDS
    missed = []
    flips = 0
    for seed in range(faults.amount(smoke=1, short=1, full=1, soak=200)):
        whole = filled(kind, seed, commits=faults.amount(smoke=4, short=4, full=4, soak=40))
        for path in (*whole.of(".adc"), *whole.of(".adk")):
            image = whole.images[path]
            for bit in range(shard, 8 * len(image), step):
                if faults.spent():
                    break
                flips += 1
                if not noticed(whole, path, flipped(image, bit)):
                    missed.append((path.name, bit))
    faults.count("single-bit flips", flips)
    faults.count("single-bit flips not noticed", len(missed))
    assert missed == []


class Rows:
    """Reads the committed records of a disk, one by one."""

    def __init__(self, whole: Filled) -> None:
        self.disk = whole.disk.after_process_death()
        store = Store.open(CACHE, NAME, files=self.disk.after_process_death())
        self.reader = SegmentReader(ROOT, store.id, self.disk)
        self.by_path: dict[Path, list[tuple[BatchRef, int]]] = {}
        for _, commit in store.commits(LINEAGE):
            for ref in commit.outputs:
                found = self.by_path.setdefault(self.reader.path(ref.segment), [])
                found.append((ref, commit.ordinal))

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()

    def read(self, ref: BatchRef) -> Any:
        return self.reader.rows(RowSlice(ref, 0, ref.rows))


@pytest.mark.parametrize("shard", range(SHARDS))
def test_every_flipped_bit_of_a_segment_is_noticed(faults: Any, shard: int) -> None:
    """Every bit of every record; the file's own header is not read for rows and not counted."""
    wanted = faults.amount(smoke=2_000, short=20_000, full=110_000, soak=9_500_000) // SHARDS
    flips = 0
    seed = 0
    while flips < wanted and not faults.spent():
        whole = filled("one file", seed := seed + 1)
        with Rows(whole) as rows:
            for path, refs in rows.by_path.items():
                image = whole.images[path]
                for bit in range(8 * FILE_HEADER_BYTES + shard, 8 * len(image), SHARDS):
                    if flips >= wanted:
                        break
                    rows.disk.put(path, flipped(image, bit))
                    hit = [r for r, _ in refs if r.offset <= bit // 8 < r.offset + r.length]
                    assert len(hit) == 1, "every byte behind the header belongs to one record"
                    with pytest.raises(CorruptRecord):
                        rows.read(hit[0])
                    flips += 1
                rows.disk.put(path, image)
    faults.count("single-bit flips", flips)
    faults.count("single-bit flips not noticed", 0)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_flipped_bit_makes_the_memo_forget_and_never_answer_wrongly(
    faults: Any, shard: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "asyncdistil.memo")
    step = faults.amount(smoke=997, short=29, full=2, soak=1) * SHARDS
    disk = MemoryDisk()
    memo = Memo.open(CACHE / "memo", files=disk)
    numbers = range(1, 13)
    for number in numbers:
        memo.put(key_of(number), number, answer_of(number))
    memo.close()
    disk = disk.after_process_death()
    (path,) = (path for path in disk.files() if path.suffix == ".adm")
    image = disk.files()[path]
    flips = missed = 0
    for bit in range(shard, 8 * len(image), step):
        if faults.spent():
            break
        damaged = disk.after_process_death()
        damaged.put(path, flipped(image, bit))
        after = Memo.open(CACHE / "memo", files=damaged)
        found = {number: after.get(key_of(number), number) for number in numbers}
        after.close()
        wrong = [n for n, body in found.items() if body not in {None, answer_of(n)}]
        assert wrong == [], bit
        flips += 1
        missed += None not in found.values() and not caplog.records
        caplog.clear()
    faults.count("single-bit flips", flips)
    faults.count("single-bit flips not noticed", missed)
    assert missed == 0
