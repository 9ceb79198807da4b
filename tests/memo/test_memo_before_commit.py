"""A commit is never durable before the answers that it relies on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.batch import SAME_ORIGINS, Digest, RunId
from asyncdistil.codec import encode_rows
from asyncdistil.errors import StorageError
from asyncdistil.log import LocalFiles, SegmentWriter, Store
from asyncdistil.log.events import Commit
from asyncdistil.memo import Memo, namespace_dir, segment_path
from asyncdistil.supervisor.memo_sync import MemoSync
from asyncdistil.testing.disk import MemoryDisk

CACHE = Path("/cache")
MEMO = CACHE / "memo"
RUN = RunId("0" * 32)
LINEAGE = Digest(b"lineage of a st1")


class Scene:
    """A worker and its supervisor on one disk."""

    def __init__(self, disk: MemoryDisk, key: Any) -> None:
        self.disk = disk
        self.key = key
        self.store = Store.open(CACHE, "p", files=disk)
        self.sync = MemoSync(self.store, str(MEMO), disk)
        # As over the socket: the segment is named before the result that relies on it.
        self.memo = Memo.open(MEMO, files=disk, on_segment=self.sync.add)
        segment, fd = self.store.create_segment(LINEAGE)
        self.rows = SegmentWriter(fd, segment, self.store.id, disk)

    def batch(self, number: int) -> None:
        """Ask, store the answer, store the rows, commit."""
        self.memo.put(self.key(number), 0, b"answer %d" % number)
        refs = self.rows.append(encode_rows([{"number": number}], step="s"))
        samples = ((self.key(number).digest, 0),)
        commit = Commit(RUN, LINEAGE, (), (), refs, SAME_ORIGINS, ordinal=number, samples=samples)
        self.store.append([commit])


def durable_commits(disk: MemoryDisk) -> Iterator[int]:
    store = Store.open(CACHE, "p", files=disk)
    for _, commit in store.commits(LINEAGE):
        yield commit.ordinal
    store.close(clean=False)


def test_a_group_syncs_memo_segments_before_the_log(key: Any) -> None:
    disk = MemoryDisk()
    scene = Scene(disk, key)
    acts: list[str] = []
    disk.before = lambda act, path: acts.append(path.suffix) if act == "fdatasync" else None
    scene.batch(1)
    scene.store.flush()
    assert acts == [".ads", ".adm", ".adc"]
    acts.clear()
    # One of another process that this worker is served from joins the groups as well.
    other = Memo.open(MEMO, files=disk)
    other.put(key("foreign"), 0, b"of another")
    scene.memo.refresh()
    assert scene.memo.get(key("foreign"), 0) == b"of another"
    scene.batch(2)
    scene.store.flush()
    assert acts == [".ads", ".adm", ".adm", ".adc"]


def test_after_a_power_cut_every_durable_commit_finds_its_answers(key: Any) -> None:
    for seed in range(250):
        rng = random.Random(seed)
        disk = MemoryDisk()
        scene = Scene(disk, key)
        left = rng.randrange(60)

        def count_down(_act: str, _path: Path) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt

        disk.before = count_down
        with suppress(KeyboardInterrupt):
            for number in range(12):
                scene.batch(number)
                if rng.random() < 0.4:
                    scene.store.flush()
        left = 1 << 60
        acknowledged = scene.store.durable
        after = disk.after_power_cut(rng)
        memo = Memo.open(MEMO, files=after)
        store = Store.open(CACHE, "p", files=after)
        for lsn, commit in store.commits(LINEAGE):
            if lsn <= acknowledged:
                answer = memo.get(key(commit.ordinal), 0)
                assert answer == b"answer %d" % commit.ordinal, seed
        store.close(clean=False)


def test_a_recovery_makes_answers_durable_before_it_vouches_for_the_commits_that_took_them(
    key: Any,
) -> None:
    kept = 0
    for seed in range(120):
        rng = random.Random(seed)
        scene = Scene(MemoryDisk(), key)
        for number in range(rng.randint(1, 6)):
            scene.batch(number)
            if rng.random() < 0.3:
                scene.store.flush()
        # The process dies, the next one takes up what it left; then the power fails.
        disk = scene.disk.after_process_death()
        store = Store.open(CACHE, "p", files=disk)
        vouched = [commit.ordinal for _, commit in store.commits(LINEAGE)]
        after = disk.after_power_cut(rng)
        memo = Memo.open(MEMO, files=after)
        for number in vouched:
            assert memo.get(key(number), 0) == b"answer %d" % number, seed
        assert [*durable_commits(after)] == vouched
        kept += len(vouched)
    assert kept > 200


def test_a_recovery_syncs_the_memo_only_for_commits_that_nobody_vouched_for(key: Any) -> None:
    scene = Scene(MemoryDisk(), key)
    scene.batch(1)
    scene.store.close(clean=False)
    disk = scene.disk.after_process_death()
    acts: list[str] = []
    disk.before = lambda act, path: acts.append(path.suffix) if act == "fdatasync" else None
    Store.open(CACHE, "p", files=disk).close(clean=False)
    assert ".adm" not in acts


def test_a_recovery_whose_memo_fails_to_sync_vouches_for_nothing(key: Any) -> None:
    scene = Scene(MemoryDisk(), key)
    scene.batch(1)
    disk = scene.disk.after_process_death()

    def fail(act: str, path: Path) -> None:
        if act == "fdatasync" and path.suffix == ".adm":
            raise OSError(5, "Input/output error")

    disk.before = fail
    with pytest.raises(StorageError, match="see to the disk"):
        Store.open(CACHE, "p", files=disk)
    assert disk.open_descriptors == 0


def test_a_memo_file_that_is_tidied_up_during_a_recovery_is_none_of_its_business(
    key: Any, tmp_path: Path
) -> None:
    store = Store.open(tmp_path, "p")
    segment, fd = store.create_segment(LINEAGE)
    refs = SegmentWriter(fd, segment, store.id).append(encode_rows([{"a": 1}], step="s"))
    store.append([Commit(RUN, LINEAGE, (), (), refs, SAME_ORIGINS)])
    store._close_files()  # as by a process that died
    store._lock.release()
    folder = namespace_dir(tmp_path / "memo")
    folder.mkdir(parents=True)
    # A name without a file behind it is what a look at the directory may leave one with.
    (tmp_path / "memo" / "read me").write_text("not a directory")
    (folder / "index.adi").write_bytes(b"holds no answers")

    class Vanishing(LocalFiles):
        def listdir(self, path: Path) -> list[str]:
            return [*super().listdir(path), *(["0000000007.adm"] if path == folder else [])]

    again = Store.open(tmp_path, "p", files=Vanishing())
    assert len(again.commits(LINEAGE)) == 1
    again.close(clean=True)


async def _end(sync: MemoSync) -> None:
    await sync.end()


def test_segments_stay_in_the_groups_until_the_end_and_are_closed_then(key: Any) -> None:
    import asyncio

    disk = MemoryDisk()
    scene = Scene(disk, key)
    scene.batch(1)
    scene.memo.close()  # its worker is dead, its last commit not durable
    opened = disk.open_descriptors
    acts: list[str] = []
    disk.before = lambda act, path: acts.append(path.suffix) if act == "fdatasync" else None
    asyncio.run(_end(scene.sync))
    assert acts.index(".adm") < acts.index(".adc")
    assert disk.open_descriptors == opened - 1
    acts.clear()
    scene.store.append([Commit(RUN, LINEAGE, (), (), (), SAME_ORIGINS)])
    scene.store.flush()
    assert acts == [".adc"]


def test_a_memo_segment_that_fails_to_sync_stops_the_run_and_is_not_synced_again(
    key: Any,
) -> None:
    import asyncio

    disk = MemoryDisk()
    scene = Scene(disk, key)
    synced = 0

    def fail(act: str, path: Path) -> None:
        nonlocal synced
        if act == "fdatasync" and path.suffix == ".adm":
            synced += 1
            raise OSError(5, "Input/output error")

    disk.before = fail
    scene.batch(1)
    with pytest.raises(StorageError, match="memo file failed to sync"):
        scene.store.flush()
    asyncio.run(_end(scene.sync))
    assert synced == 1


def test_a_segment_that_can_not_be_opened_is_an_error_that_says_so(key: Any) -> None:
    disk = MemoryDisk()
    scene = Scene(disk, key)
    with pytest.raises(StorageError, match="run again"):
        scene.sync.add(77)
    assert segment_path(namespace_dir(MEMO), 77) not in disk.files()
