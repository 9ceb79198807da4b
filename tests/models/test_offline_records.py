"""Records of batches on a disk that loses power, fills up, or is shared with others."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdistil.errors import StorageError
from asyncdistil.log.failpoint import arm
from asyncdistil.memo import Key, Memo, Replies
from asyncdistil.models import OpenAILLM, memoized
from asyncdistil.models.admission import LocalPermits
from asyncdistil.models.offline import BatchRecord, FileJournal
from asyncdistil.models.offline.records import LineId, batch_name
from asyncdistil.models.reply import Reply
from asyncdistil.testing.disk import MemoryDisk
from asyncdistil.testing.model_server import ModelServer
from asyncdistil.transport import brokers

FOLDER = Path("/cache/offline")


@pytest.fixture
def armed() -> Iterator[Any]:
    yield arm
    arm("")


def record(name: str, **fields: Any) -> BatchRecord:
    # Far enough ahead that no run of this test finds it too old to keep.
    return BatchRecord(name=name, service="s", lines=["ab-0-1"], made_seconds=9e9, **fields)


def disk() -> MemoryDisk:
    made = MemoryDisk()
    made.make_private_dir(FOLDER.parent)
    made.fsync_dir(FOLDER.parent.parent)
    return made


async def written(journal: FileJournal, *records: BatchRecord) -> None:
    async with journal.locked():
        for one in records:
            journal.write(one)


@given(st.integers())
def test_a_record_survives_a_power_cut_once_it_is_written(seed: int) -> None:
    first = disk()
    intended = record("one")
    asyncio.run(written(FileJournal(FOLDER, first), intended))
    after = first.after_power_cut(random.Random(seed))
    assert FileJournal(FOLDER, after).read() == [intended]
    waiting = record("one", state="waiting", batch_id="batch_1")
    asyncio.run(written(FileJournal(FOLDER, after), waiting))
    again = after.after_power_cut(random.Random(seed + 1))
    assert FileJournal(FOLDER, again).read() == [waiting]


@given(st.integers())
def test_a_power_cut_while_it_is_written_leaves_the_old_one(seed: int) -> None:
    first = disk()
    old = record("one")
    asyncio.run(written(FileJournal(FOLDER, first), old))
    arm("offline.record.replace=raise:EIO")
    try:
        with pytest.raises(StorageError):
            asyncio.run(written(FileJournal(FOLDER, first), record("one", state="fetched")))
    finally:
        arm("")
    after = FileJournal(FOLDER, first.after_power_cut(random.Random(seed)))
    assert after.read() == [old]
    asyncio.run(written(after, old))
    assert not [name for name in after._files.listdir(FOLDER) if name.endswith(".tmp")]


@given(st.integers())
def test_a_directory_that_a_dead_process_made_is_made_durable_by_the_next(seed: int) -> None:
    first = disk()
    first.make_private_dir(FOLDER)
    asyncio.run(written(FileJournal(FOLDER, first), record("one")))
    after = FileJournal(FOLDER, first.after_power_cut(random.Random(seed)))
    assert [one.name for one in after.read()] == ["one"]


def test_only_one_at_a_time_holds_the_lock() -> None:
    first = disk()
    order: list[str] = []

    async def hold(who: str, journal: FileJournal) -> None:
        async with journal.locked():
            order.append(f"{who} in")
            await asyncio.sleep(0)
            order.append(f"{who} out")

    async def both() -> None:
        await asyncio.gather(*(hold(who, FileJournal(FOLDER, first)) for who in "ab"))

    asyncio.run(both())
    assert order in (["a in", "a out", "b in", "b out"], ["b in", "b out", "a in", "a out"])


def test_a_fetched_record_goes_when_its_files_are_gone_and_an_open_one_never() -> None:
    journal = FileJournal(FOLDER, disk())
    old = {"service": "s", "made_seconds": 1.0}
    fetched = BatchRecord(name="f", state="fetched", **old)
    waiting = BatchRecord(name="w", state="waiting", batch_id="b", **old)
    asyncio.run(written(journal, fetched, waiting))
    assert [one.name for one in journal.read()] == ["w"]
    assert [one.name for one in journal.read()] == ["w"]


def test_nothing_is_submitted_that_could_not_be_written_down(
    server: ModelServer, loaded: Any, tmp_path: Path, armed: Any
) -> None:
    llm = loaded(OpenAILLM(model="m", base_url=server.url, use_offline_batch_generation=True))
    memo = Memo.open(tmp_path / "memo")
    memoized.use_store(Replies(memo, Reply))
    brokers.install(
        brokers.Surroundings(Claims(), LocalPermits(), str(tmp_path / "memo"), "r", "s", 0)
    )
    armed("offline.record.replace=raise:ENOSPC")
    with pytest.raises(StorageError, match="make room"):
        llm.generate_outputs([[{"role": "user", "content": "x"}]])
    assert not server.batches.batches
    memo.close()


class Claims:
    """The first samples of whatever is asked for."""

    def claim(self, keys: Any, counts: Any, *, lease: int) -> Any:
        return tuple(tuple(range(count)) for count in counts)

    async def aclaim(self, keys: Any, counts: Any, *, lease: int) -> Any:
        return self.claim(keys, counts, lease=lease)


@given(st.binary(), st.integers(0, 1 << 20), st.integers(1, 100))
def test_a_line_is_named_within_what_providers_allow_and_read_back(
    preimage: bytes, first: int, count: int
) -> None:
    line = LineId.of(Key.of(preimage, model="m"), first, count)
    assert LineId.parse(str(line)) == line
    assert len(str(line)) <= 64
    assert set(str(line)) <= set("0123456789abcdef-")
    assert len(line.samples()) == count


@pytest.mark.parametrize("text", ["", "0", "a-b-c", "a-1", "a-1-2-3", "a--1-1"])
def test_a_name_of_others_is_none_of_ours(text: str) -> None:
    assert LineId.parse(text) is None


def test_another_try_or_another_run_is_another_batch() -> None:
    names = {
        batch_name("s", lines, tries=tries, run=run)
        for lines in (["a", "b"], ["ab"])
        for tries in (1, 2)
        for run in ("", "r")
    }
    assert len(names) == 8
    assert batch_name("s", ["b", "a"], tries=1, run="") == batch_name(
        "s", ["a", "b"], tries=1, run=""
    )
