"""Damage that is given up costs what it hit and nothing else, and is not refused again."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.errors import CorruptRecord, StorageError
from asyncdistil.log import Store, StoreReader
from asyncdistil.log.names import commit_path, store_root
from asyncdistil.log.record import (
    FILE_HEADER_BYTES,
    FileHeader,
    FileKind,
    encode_file_header,
    file_seed,
    parse_header,
)
from asyncdistil.testing.disk import MemoryDisk

CACHE = Path("/cache")
ROOT = store_root(CACHE, "p")
CHECKPOINT = ROOT / "checkpoint.adk"


def opened(disk: MemoryDisk, **options: Any) -> Store:
    return Store.open(CACHE, "p", files=disk, **options)


def lived(kit: Any, *, sessions: int, clean: bool = False) -> tuple[MemoryDisk, dict[int, int]]:
    """A disk after sessions that each left a log file of two commits.

    Returns:
        The disk; which file each commit is in.
    """
    disk = MemoryDisk()
    numbers: dict[int, int] = {}
    for session in range(sessions):
        store = opened(disk)
        writer = kit.writer(store, disk)
        for number in (2 * session + 1, 2 * session + 2):
            writer.commit(number)
            numbers[number] = session + 1
        store.close(clean=clean and session == sessions - 1)
    return disk, numbers


def bounds(disk: MemoryDisk, number: int) -> list[int]:
    """Where the records of a log file start, and where the last ends."""
    image = disk.files()[commit_path(ROOT, number)]
    seed = file_seed(image[72:88], FileKind.COMMIT_LOG, number)
    at = FILE_HEADER_BYTES
    found = [at]
    while (header := parse_header(image, at, seed)) is not None:
        at += header.size
        found.append(at)
    return found


def hurt(disk: MemoryDisk, number: int, how: str) -> None:
    path = commit_path(ROOT, number)
    image = disk.files()[path]
    if how == "missing":
        disk.unlink(path)
    elif how == "empty":
        disk.put(path, b"")
    else:
        disk.put(path, bytes((image[0] ^ 1,)) + image[1:])


def refused(disk: MemoryDisk) -> bool:
    copy = disk.after_process_death()
    try:
        opened(copy).close(clean=False)
    except CorruptRecord:
        return True
    finally:
        assert copy.open_descriptors == 0
    return False


def settle(kit: Any, disk: MemoryDisk, expected: list[int], *, clean: bool = False) -> None:
    """Give up what is damaged; from then on the store opens as if nothing had been there."""
    assert refused(disk)
    store = opened(disk, on_corruption="recompute")
    assert kit.numbers(store) == expected
    assert any("damage" in warning for warning in store.warnings)
    kit.writer(store, disk).commit(99)
    store.close(clean=clean)
    again = opened(disk)
    assert kit.numbers(again) == [*expected, 99]
    assert not again.warnings or not clean
    again.close(clean=True)
    reader = StoreReader.open(CACHE, "p", files=disk)
    assert reader is not None
    assert kit.numbers(reader) == [*expected, 99]
    reader.close()
    # Without the checkpoint too, which would hide an older wound.
    disk.unlink(CHECKPOINT)
    final = opened(disk)
    assert kit.numbers(final) == [*expected, 99]
    final.close(clean=False)
    assert disk.open_descriptors == 0


@pytest.mark.parametrize("how", ["missing", "empty", "its header flipped"])
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("clean", [False, True])
def test_a_log_file_that_is_lost_takes_only_its_own_commits_along(
    kit: Any, number: int, how: str, clean: bool
) -> None:
    disk, numbers = lived(kit, sessions=4)
    hurt(disk, number, how)
    kept = [commit for commit, file in numbers.items() if file != number]
    settle(kit, disk, kept, clean=clean)
    copies = {path.name for path in disk.files() if path.parent.name == "quarantine"}
    assert (f"{number:010d}-0.bin" in copies) is (how == "its header flipped")


def test_two_log_files_in_a_row_that_are_lost_take_only_their_own_commits_along(
    kit: Any,
) -> None:
    disk, _ = lived(kit, sessions=5)
    hurt(disk, 2, "missing")
    hurt(disk, 3, "its header flipped")
    settle(kit, disk, [1, 2, 7, 8, 9, 10])


def test_a_file_that_goes_on_from_records_nobody_acknowledged_and_nobody_has_is_left_out(
    kit: Any,
) -> None:
    disk = MemoryDisk()
    store = opened(disk)
    writer = kit.writer(store, disk)
    writer.commit(1)
    store.flush()
    image = disk.files()[commit_path(ROOT, 1)]
    writer.commit(2)
    tail = store._log.tail
    header = FileHeader(
        store.id,
        FileKind.COMMIT_LOG,
        2,
        base=tail.lsn + 1,
        previous_number=1,
        previous_end=len(image),
        previous_digest=tail.digest,
        durable=store._log.durable,
    )
    after = disk.after_process_death()
    after.put(commit_path(ROOT, 1), image)
    after.put(commit_path(ROOT, 2), encode_file_header(header)[0])
    again = opened(after)
    assert kit.numbers(again) == [1]
    assert any("0000000002.adc" in warning for warning in again.warnings)
    again.close(clean=False)
    final = opened(after)
    assert (kit.numbers(final), final.warnings) == ([1], [])


def test_a_newest_log_file_with_a_damaged_header_is_given_up_once(kit: Any) -> None:
    disk, _ = lived(kit, sessions=3)
    hurt(disk, 3, "its header flipped")
    assert refused(disk)
    store = opened(disk, on_corruption="recompute")
    assert kit.numbers(store) == [1, 2, 3, 4]
    store.close(clean=False)  # nothing was appended, and still it is on record
    assert not refused(disk)
    assert kit.numbers(opened(disk)) == [1, 2, 3, 4]


def test_a_torn_file_header_is_no_damage(kit: Any) -> None:
    disk, _ = lived(kit, sessions=2)
    image = disk.files()[commit_path(ROOT, 2)]
    # It is synced before anything follows it, so what ends within it held nothing.
    disk.put(commit_path(ROOT, 3), image[: FILE_HEADER_BYTES - 1])
    store = opened(disk)
    assert kit.numbers(store) == [1, 2, 3, 4]
    store.close(clean=False)


@pytest.mark.parametrize("back", [1, 2, 3])
@pytest.mark.parametrize("within", [0, 30])
def test_a_log_cut_below_its_checkpoint_keeps_what_is_left(
    kit: Any, back: int, within: int
) -> None:
    disk, _ = lived(kit, sessions=2, clean=True)
    path = commit_path(ROOT, 2)
    ends = bounds(disk, 2)  # behind the watermark, commit 3, commit 4, the seal
    at = ends[-1 - back] + within
    disk.put(path, disk.files()[path][:at])
    kept = [1, 2, *([3] if back <= 2 else []), *([4] if back <= 1 else [])]
    settle(kit, disk, kept)


@pytest.mark.parametrize("all_of_them", [True, False])
def test_a_log_that_is_gone_behind_its_checkpoint_begins_anew_above_it(
    kit: Any, all_of_them: bool
) -> None:
    disk, _ = lived(kit, sessions=2, clean=True)
    for number in (1, 2) if all_of_them else (2,):
        hurt(disk, number, "missing")
    assert refused(disk)
    store = opened(disk, on_corruption="recompute")
    assert kit.numbers(store) == ([] if all_of_them else [1, 2])
    # LSNs of lost records name nothing else: datasets on record refer to them.
    assert kit.writer(store, disk).commit(99) > 6
    store.close(clean=False)
    assert not refused(disk)
    assert kit.numbers(opened(disk)) == [*([] if all_of_them else [1, 2]), 99]


def test_a_record_that_was_cut_out_is_all_that_is_lost(kit: Any) -> None:
    disk, _ = lived(kit, sessions=2)
    path = commit_path(ROOT, 1)
    image = disk.files()[path]
    ends = bounds(disk, 1)  # behind the file header, the watermark, commit 1, commit 2, ...
    disk.put(path, image[: ends[1]] + image[ends[2] :])
    assert refused(disk)
    # Records behind it stand at other bytes now, with hashes that still fit: they count.
    store = opened(disk, on_corruption="recompute")
    assert kit.numbers(store) in ([2, 3, 4], [3, 4])
    store.close(clean=False)
    assert not refused(disk)


def test_damage_up_to_the_end_of_a_file_is_bridged_to_the_next(kit: Any) -> None:
    disk, _ = lived(kit, sessions=3)
    path = commit_path(ROOT, 2)
    ends = bounds(disk, 2)
    # From the second commit of the file on, there is nothing but zeros.
    image = disk.files()[path]
    at = ends[-3]
    disk.put(path, image[:at] + bytes(len(image) - at))
    settle(kit, disk, [1, 2, 3, 5, 6])


def test_a_file_that_went_on_from_records_which_never_reached_the_disk_is_left_out(
    kit: Any,
) -> None:
    left_out = 0
    for seed in range(60):
        disk = MemoryDisk()
        store = opened(disk)
        writer = kit.writer(store, disk)
        writer.commit(1)
        store.flush()
        writer.commit(2)
        room = itertools.count()

        def full(act: str, path: Path, room: Any = room) -> None:
            if act == "writev" and path.suffix == ".adc" and not next(room):
                raise OSError(28, "No space left on device")

        disk.before = full
        with pytest.raises(StorageError):
            writer.commit(3)
        writer.commit(4)  # into a new file, which names the end of the one before
        after = disk.after_power_cut(random.Random(seed))
        again = opened(after)
        found = kit.numbers(again)
        assert found in ([1], [1, 2], [1, 2, 4]), seed
        left_out += any("0000000002.adc" in warning for warning in again.warnings)
        kit.writer(again, after).commit(5)
        again.close(clean=False)
        final = opened(after)
        assert kit.numbers(final) == [*found, 5]
        assert not final.warnings
    assert left_out


def test_a_disk_that_can_not_be_read_is_no_damage(kit: Any) -> None:
    class Unreadable(MemoryDisk):
        def pread(self, fd: int, size: int, offset: int) -> bytes:
            raise OSError(5, "Input/output error")

    disk, _ = lived(kit, sessions=2, clean=True)
    broken = Unreadable()
    broken.__dict__.update(disk.__dict__)
    for look in (opened, lambda files: StoreReader.open(CACHE, "p", files=files)):
        with pytest.raises(StorageError, match="see to the disk"):
            look(broken)
    assert broken.open_descriptors == 0
    assert kit.numbers(opened(disk)) == [1, 2, 3, 4]
