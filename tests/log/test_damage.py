"""Bytes that changed after they were acknowledged are found, and never taken for a torn tail."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.batch import RowSlice
from asyncdistil.errors import CorruptRecord, FormatError, LogError
from asyncdistil.log import SegmentReader, Store
from asyncdistil.log.events import StepDef
from asyncdistil.log.names import commit_path, store_root
from asyncdistil.log.record import (
    FILE_HEADER_BYTES,
    HEADER_BYTES,
    FileKind,
    file_seed,
    parse_header,
)
from asyncdistil.testing.disk import MemoryDisk

CACHE = Path("/cache")
ROOT = store_root(CACHE, "p")
LOG = commit_path(ROOT, 1)


def filled(kit: Any, *, acknowledge: bool, commits: int = 5) -> MemoryDisk:
    """A disk with one log file of some commits, as after the death of the process."""
    disk = MemoryDisk()
    store = Store.open(CACHE, "p", files=disk)
    writer = kit.writer(store, disk)
    store.append([StepDef(kit.lineage, "a step", b"definition")])
    for number in range(1, commits + 1):
        writer.commit(number)
    if acknowledge:
        store.close(clean=False)
    return disk.after_process_death()


def opened(disk: MemoryDisk, **options: Any) -> Store:
    return Store.open(CACHE, "p", files=disk, **options)


def outcome(kit: Any, disk: MemoryDisk) -> list[int] | type[LogError]:
    """Commits found, or the error."""
    try:
        store = opened(disk)
    except LogError as error:
        return type(error)
    try:
        return kit.numbers(store)
    except LogError as error:
        return type(error)
    finally:
        store.close(clean=False)


def records(image: bytes, disk: MemoryDisk) -> list[tuple[int, int]]:
    """Start and end of every record behind the file header of the first log file."""
    store_id = image[HEADER_BYTES : HEADER_BYTES + 16]
    seed = file_seed(store_id, FileKind.COMMIT_LOG, 1)
    found = []
    at = FILE_HEADER_BYTES
    while (header := parse_header(image, at, seed)) is not None:
        found.append((at, at + header.size))
        at += header.size
    return found


def test_a_log_cut_at_any_byte_keeps_every_whole_commit_before_the_cut(kit: Any) -> None:
    disk = filled(kit, acknowledge=False)
    image = disk.files()[LOG]
    ends = [end for _, end in records(image, disk)]
    for cut in range(FILE_HEADER_BYTES, len(image) + 1):
        torn = disk.after_process_death()
        torn.put(LOG, image[:cut])
        whole = sum(end <= cut for end in ends)
        # The first two records are the watermark of the first open and the step definition.
        assert outcome(kit, torn) == list(range(1, max(whole - 2, 0) + 1)), cut


def test_an_acknowledged_log_cut_before_its_last_watermark_is_damage(kit: Any) -> None:
    disk = filled(kit, acknowledge=True)
    image = disk.files()[LOG]
    spans = records(image, disk)
    # Records behind the cut that would tell the watermark are gone; only what stands before it
    # can vouch, so the claim is about a later file here.
    store = opened(disk)
    store.append([StepDef(kit.lineage, "a step", b"again")])
    store.close(clean=False)
    for cut in range(FILE_HEADER_BYTES, spans[-1][1]):
        damaged = disk.after_process_death()
        damaged.put(LOG, image[:cut])
        assert outcome(kit, damaged) is CorruptRecord, cut


def test_every_flipped_bit_of_an_acknowledged_log_is_found(kit: Any) -> None:
    disk = filled(kit, acknowledge=True, commits=2)
    image = disk.files()[LOG]
    last = records(image, disk)[-1][0]
    for bit in range(8 * last):
        flipped = bytearray(image)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged = disk.after_process_death()
        damaged.put(LOG, bytes(flipped))
        assert outcome(kit, damaged) in {CorruptRecord, FormatError}, bit


def test_every_flipped_bit_of_a_segment_record_is_found(kit: Any) -> None:
    disk = filled(kit, acknowledge=True, commits=2)
    (path,) = (p for p in disk.files() if p.suffix == ".ads")
    image = disk.files()[path]
    store = opened(disk)
    (first, second) = (commit.outputs[0] for _, commit in store.commits(kit.lineage))
    reader = SegmentReader(ROOT, store.id, disk)
    for bit in range(8 * first.offset, 8 * len(image)):
        flipped = bytearray(image)
        flipped[bit // 8] ^= 1 << bit % 8
        disk.put(path, bytes(flipped))
        hit, spared = (first, second) if bit // 8 < second.offset else (second, first)
        with pytest.raises(CorruptRecord):
            reader.rows(RowSlice(hit, 0, hit.rows))
        assert len(reader.rows(RowSlice(spared, 0, spared.rows))) == spared.rows
    reader.close()
    store.close(clean=False)


@pytest.mark.parametrize("act", ["duplicate", "swap", "delete", "transplant", "zero"])
def test_records_moved_about_in_an_acknowledged_log_are_found(kit: Any, act: str) -> None:
    disk = filled(kit, acknowledge=True, commits=6)
    other = filled(kit, acknowledge=True, commits=6)
    image, foreign = disk.files()[LOG], other.files()[LOG]
    spans = records(image, disk)
    for i in range(len(spans) - 2):
        (start, middle), (_, end) = spans[i], spans[i + 1]
        one, two = image[start:middle], image[middle:end]
        changed = {
            "duplicate": image[:middle] + one + image[middle:],
            "swap": image[:start] + two + one + image[end:],
            "delete": image[:start] + image[middle:],
            "transplant": image[:start] + foreign[start:middle] + image[middle:],
            "zero": image[:start] + bytes(middle - start) + image[middle:],
        }[act]
        damaged = disk.after_process_death()
        damaged.put(LOG, changed)
        assert outcome(kit, damaged) is CorruptRecord, i


def test_a_deleted_log_file_is_damage(kit: Any) -> None:
    disk = filled(kit, acknowledge=True)
    opened(disk).close(clean=True)
    disk.unlink(LOG)
    assert outcome(kit, disk) is CorruptRecord


def test_damage_says_where_it_is_and_what_to_do(kit: Any) -> None:
    disk = filled(kit, acknowledge=True)
    image = bytearray(disk.files()[LOG])
    start, end = records(bytes(image), disk)[4]
    image[end - 9] ^= 1
    disk.put(LOG, bytes(image))
    with pytest.raises(CorruptRecord) as caught:
        opened(disk)
    error = caught.value
    assert (error.path, error.offset_bytes, error.lsn) == (str(LOG), start, 5)
    for word in ("a step", "asyncdistil cache repair", 'on_corruption="recompute"'):
        assert word in str(error)


def test_recompute_leaves_out_what_is_damaged_and_keeps_the_rest_for_good(kit: Any) -> None:
    disk = filled(kit, acknowledge=True, commits=6)
    image = bytearray(disk.files()[LOG])
    image[records(bytes(image), disk)[4][1] - 9] ^= 1  # commit 3
    disk.put(LOG, bytes(image))
    store = opened(disk, on_corruption="recompute")
    assert kit.numbers(store) == [1, 2, 4, 5, 6]
    assert any("damage" in warning for warning in store.warnings)
    kit.writer(store, disk).commit(7)
    store.close(clean=False)
    again = opened(disk)  # was given up once, so it is refused no more
    assert kit.numbers(again) == [1, 2, 4, 5, 6, 7]
    again.close(clean=True)
    assert any(path.parent.name == "quarantine" for path in disk.files())


def test_recompute_goes_on_after_a_log_that_lost_its_end(kit: Any) -> None:
    disk = filled(kit, acknowledge=True, commits=6)
    store = opened(disk)
    store.close(clean=True)
    image = disk.files()[LOG]
    disk.put(LOG, image[: records(image, disk)[5][0]])
    assert outcome(kit, disk.after_process_death()) is CorruptRecord
    store = opened(disk, on_corruption="recompute")
    assert kit.numbers(store) == [1, 2, 3]
    lsn = kit.writer(store, disk).commit(8)
    store.close(clean=False)
    again = opened(disk)
    assert kit.numbers(again) == [1, 2, 3, 8]
    assert lsn > 10  # an LSN is never used twice, though its record is gone
    again.close(clean=True)


def test_recompute_leaves_out_commits_whose_rows_are_damaged(kit: Any) -> None:
    disk = filled(kit, acknowledge=True, commits=4)
    (path,) = (p for p in disk.files() if p.suffix == ".ads")
    image = bytearray(disk.files()[path])
    image[-1] ^= 1
    disk.put(path, bytes(image))
    store = opened(disk, on_corruption="recompute")
    assert kit.numbers(store) == [1, 2, 3]
    store.close(clean=False)
    assert outcome(kit, disk) == [1, 2, 3]


@pytest.mark.parametrize("damage", ["missing", "flipped", "cut", "older"])
def test_a_lost_or_damaged_checkpoint_costs_only_time(kit: Any, damage: str) -> None:
    disk = filled(kit, acknowledge=True)
    opened(disk).close(clean=True)
    path = ROOT / "checkpoint.adk"
    older = disk.files()[path]
    store = opened(disk)
    kit.writer(store, disk).commit(6)
    store.close(clean=True)
    image = disk.files()[path]
    if damage == "missing":
        disk.unlink(path)
    elif damage == "older":
        disk.put(path, older)
    elif damage == "cut":
        disk.put(path, image[: len(image) // 2])
    else:
        disk.put(path, image[:300] + bytes((image[300] ^ 1,)) + image[301:])
    store = opened(disk)
    assert kit.numbers(store) == [1, 2, 3, 4, 5, 6]
    store.close(clean=True)
    assert kit.numbers(opened(disk)) == [1, 2, 3, 4, 5, 6]


def test_every_flipped_bit_of_a_checkpoint_is_found_or_harmless(kit: Any) -> None:
    disk = filled(kit, acknowledge=True, commits=2)
    opened(disk).close(clean=True)
    path = ROOT / "checkpoint.adk"
    image = disk.files()[path]
    rng = random.Random(7)
    for bit in rng.sample(range(8 * len(image)), 2000):
        flipped = bytearray(image)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged = disk.after_process_death()
        damaged.put(path, bytes(flipped))
        assert outcome(kit, damaged) in ([1, 2], CorruptRecord), bit


def test_a_newer_format_is_refused_by_name(kit: Any) -> None:
    from asyncdistil.log import record

    disk = MemoryDisk()
    version = record.FORMAT_VERSION
    try:
        record.FORMAT_VERSION = version + 1
        opened(disk).close(clean=False)
    finally:
        record.FORMAT_VERSION = version
    with pytest.raises(FormatError, match="upgrade"):
        opened(disk)


def test_a_missing_segment_is_damage_only_for_who_reads_it(kit: Any) -> None:
    disk = filled(kit, acknowledge=True)
    (path,) = (p for p in disk.files() if p.suffix == ".ads")
    disk.unlink(path)
    store = opened(disk)
    assert len(store.commits(kit.lineage)) == 5
    with pytest.raises(CorruptRecord, match="missing"):
        kit.numbers(store)
    store.close(clean=False)
