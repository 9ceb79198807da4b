"""Rows and events on real files: what is read, from where, and what refuses to be read."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.batch import RowSlice
from asyncdistil.codec import content_digest, encode_rows
from asyncdistil.errors import CorruptRecord, StorageError
from asyncdistil.log import LocalFiles, Store, StoreReader, segment
from asyncdistil.log.lock import StoreLock
from asyncdistil.log.names import commit_path, store_root
from asyncdistil.testing.disk import MemoryDisk

CACHE = Path("/cache")


def test_a_read_that_the_system_cuts_short_is_carried_on(tmp_path: Path) -> None:
    # The kernel returns such files, as it does reads beyond 2 GiB, in parts.
    path = Path("/proc/kallsyms")
    if not path.exists() or len(path.open("rb", buffering=0).read(1 << 16)) >= 1 << 16:
        pytest.skip("this kernel has no file that it returns in parts")
    files = LocalFiles()
    fd = files.open_read(path)
    try:
        wanted = 20_000
        assert len(os.pread(fd, wanted, 0)) < wanted
        data = files.pread(fd, wanted, 0)
        assert len(data) == wanted
        assert data == path.read_bytes()[:wanted]
    finally:
        files.close(fd)
    short = tmp_path / "short"
    short.write_bytes(b"abc")
    fd = files.open_read(short)
    assert (files.pread(fd, 10, 1), files.pread(fd, 10, 3)) == (b"bc", b"")
    files.close(fd)


def test_the_digest_of_slices_is_that_of_their_rows_however_they_are_cut(
    kit: Any, cache_dir: Path
) -> None:
    store = Store.open(cache_dir, "p")
    encoded = encode_rows(kit.rows(1, 6), step="s")
    (ref,) = kit.writer(store).segment.append(encoded)
    reader = store.reader()
    whole = content_digest(encoded.digests)
    assert reader.digest([RowSlice(ref, 0, 6)]) == whole == ref.digest
    assert reader.digest([RowSlice(ref, 0, 2), RowSlice(ref, 2, 6)]) == whole
    assert reader.digest([RowSlice(ref, 1, 6)]) != whole
    reader.rows(RowSlice(ref, 0, 3))  # from here on the record is in memory
    assert reader.digest([RowSlice(ref, 0, 4), RowSlice(ref, 4, 6)]) == whole
    reader.close()
    store.close(clean=True)


def test_records_read_in_part_are_kept_in_memory_up_to_a_limit(
    kit: Any, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(cache_dir, "p")
    writer = kit.writer(store).segment
    refs = [writer.append(encode_rows(kit.rows(n, 3), step="s"))[0] for n in range(40, 46)]
    monkeypatch.setattr(segment, "_CACHED_BYTES", 2 * max(ref.length for ref in refs))
    reader = store.reader()
    for ref in refs:
        reader.rows(RowSlice(ref, 1, 2))
    kept = sum(len(record.data) for record in reader._records.values())
    assert kept == reader._cached_bytes <= segment._CACHED_BYTES
    # One that is larger than the limit is kept alone: its next slice is about to be asked for.
    monkeypatch.setattr(segment, "_CACHED_BYTES", 1)
    reader.rows(RowSlice(refs[0], 1, 2))
    assert len(reader._records) == 1
    for number, ref in enumerate(refs, 40):
        assert reader.rows(RowSlice(ref, 1, 3)) == kit.rows(number, 3)[1:]
    reader.close()
    store.close(clean=True)


def test_foreign_files_among_segments_are_not_taken_for_segments(kit: Any, cache_dir: Path) -> None:
    store = Store.open(cache_dir, "p")
    kit.writer(store).commit(1)
    (folder,) = (store.root / "segments").iterdir()
    for name in ("notes.txt", "copy of 0000000001.ads", "0000000009.ads.bak", ".ads"):
        (folder / name).write_bytes(b"not of ours")
    store.close(clean=True)
    store = Store.open(cache_dir, "p")
    assert kit.numbers(store) == [1]
    number, _ = store.create_segment(kit.lineage)
    assert number == 2
    store.close(clean=True)


def test_a_segment_that_the_disk_can_not_read_is_named_with_the_reason(kit: Any) -> None:
    class Failing(MemoryDisk):
        def pread(self, fd: int, size: int, offset: int) -> bytes:
            if self._handles[fd].path.suffix == ".ads":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().pread(fd, size, offset)

    disk = Failing()
    store = Store.open(CACHE, "p", files=disk)
    kit.writer(store, disk).commit(1)
    with pytest.raises(CorruptRecord, match="the disk can't read it"):
        kit.numbers(store)


def test_a_commit_that_is_damaged_behind_the_checkpoint_is_found_by_who_asks_for_it(
    kit: Any,
) -> None:
    for place in ("header", "payload", "missing"):
        disk = MemoryDisk()
        store = Store.open(CACHE, "p", files=disk)
        kit.writer(store, disk).commit(1)
        store.close(clean=True)
        path = commit_path(store_root(CACHE, "p"), 1)
        image = bytearray(disk.files()[path])
        at = image.index(kit.lineage) - 72
        image[at + (40 if place == "header" else 80)] ^= 1
        reader = StoreReader.open(CACHE, "p", files=disk)
        assert reader is not None
        disk.put(path, bytes(image))
        if place == "missing":
            disk.unlink(path)
        with pytest.raises(CorruptRecord, match="can be recomputed") as caught:
            reader.commits(kit.lineage)
        assert caught.value.lsn == 2
        reader.close()


def test_rows_that_a_recovery_can_not_sync_are_vouched_for_by_nobody(kit: Any) -> None:
    disk = MemoryDisk()
    store = Store.open(CACHE, "p", files=disk)
    kit.writer(store, disk).commit(1)
    left = disk.after_process_death()

    def refuse(act: str, path: Path) -> None:
        if act == "fdatasync" and path.suffix == ".ads":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    left.before = refuse
    with pytest.raises(StorageError, match="see to the disk"):
        Store.open(CACHE, "p", files=left)
    assert left.open_descriptors == 0


def test_a_lock_may_be_let_go_of_twice(tmp_path: Path) -> None:
    lock, other = (
        StoreLock(tmp_path / "LOCK", LocalFiles()),
        StoreLock(tmp_path / "LOCK", LocalFiles()),
    )
    lock.acquire(name="p")
    lock.release()
    other.acquire(name="p")
    lock.release()  # takes nothing away from who holds it now
    probe = os.open(tmp_path / "LOCK", os.O_RDWR)
    assert not LocalFiles().try_lock(probe)
    os.close(probe)
    other.release()


@pytest.mark.parametrize("suffix", [".ads", ".adc", ".adk"])
def test_what_can_not_be_read_for_the_moment_is_no_damage(kit: Any, suffix: str) -> None:
    class Short(MemoryDisk):
        short = False

        def pread(self, fd: int, size: int, offset: int) -> bytes:
            if self.short and self._handles[fd].path.suffix == suffix:
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
            return super().pread(fd, size, offset)

    disk = Short()
    store = Store.open(CACHE, "p", files=disk)
    kit.writer(store, disk).commit(1)
    store.close(clean=True)
    reader = StoreReader.open(CACHE, "p", files=disk)
    assert reader is not None
    disk.short = True
    with pytest.raises(StorageError, match="nothing is lost"):
        kit.numbers(reader)
    disk.short = False
    assert kit.numbers(reader) == [1]
    reader.close()
