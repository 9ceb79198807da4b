"""The memo gets smaller and loses only what it is told to."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.errors import StoreLocked
from asyncdistil.log.failpoint import arm
from asyncdistil.memo import EntryInfo, Key, Memo, namespace_dir, segment_path
from asyncdistil.testing.disk import MemoryDisk


def filled(memo_dir: Path, key: Any, **options: Any) -> None:
    """Three segments: answers of two models, some superseded, several samples of a key."""
    for round_ in range(3):
        memo = Memo.open(memo_dir, **options)
        for number in range(10):
            memo.put(key(number, f"model {number % 2}"), 0, b"round %d" % round_)
        for sample in range(5):
            memo.put(key("pool", "model 2"), 5 * round_ + sample, b"%d" % sample)
        memo.close()


def check(memo: Memo, key: Any, *, without: str = "") -> None:
    for number in range(10):
        model = f"model {number % 2}"
        wanted = None if model == without else b"round 2"
        assert memo.get(key(number, model), 0) == wanted
    pool = [memo.get(key("pool", "model 2"), sample) for sample in range(15)]
    assert pool == [b"%d" % (sample % 5) for sample in range(15)]


def test_statistics_count_entries_by_model(memo_dir: Path, key: Any) -> None:
    filled(memo_dir, key)
    memo = Memo.open(memo_dir)
    found = memo.statistics()
    assert (found.entries, found.segments, found.damaged) == (25, 3, 0)
    directory = namespace_dir(memo_dir)
    assert found.size_bytes == sum(p.stat().st_size for p in directory.glob("*.adm"))
    assert {name: share.entries for name, share in found.models.items()} == {
        "model 0": 5,
        "model 1": 5,
        "model 2": 15,
    }
    for share in found.models.values():
        assert 0 < share.oldest_seconds <= share.newest_seconds
        assert share.size_bytes > 128 * share.entries
    memo.close()


def test_compaction_keeps_what_is_current_and_frees_the_rest(memo_dir: Path, key: Any) -> None:
    filled(memo_dir, key)
    reader, memo = Memo.open(memo_dir), Memo.open(memo_dir)
    check(reader, key)
    before = memo.statistics()
    done = memo.compact()
    assert (done.kept, done.dropped, done.damaged) == (25, 0, 0)
    after = memo.statistics()
    assert before.size_bytes - after.size_bytes == done.freed_bytes > 0
    assert after.segments == 1
    assert after.models.keys() == before.models.keys()
    for name, share in after.models.items():
        assert share.newest_seconds == before.models[name].newest_seconds
    reader.refresh()
    for each in (memo, reader, Memo.open(memo_dir)):
        check(each, key)
        each.close()


def test_a_model_or_an_age_is_cleared_by_what_every_entry_says_of_itself(
    memo_dir: Path, key: Any
) -> None:
    filled(memo_dir, key)
    memo = Memo.open(memo_dir)
    assert memo.compact(lambda entry: entry.model != "model 1").dropped == 5
    check(memo, key, without="model 1")
    seen: list[EntryInfo] = []
    memo.compact(lambda entry: not seen.append(entry))  # type: ignore[func-returns-value]
    assert {(e.digest, e.sample) for e in seen} == {
        *((key(n).digest, 0) for n in range(0, 10, 2)),
        *((key("pool").digest, n) for n in range(15)),
    }
    newest = max(entry.written_seconds for entry in seen)
    assert memo.compact(lambda entry: entry.written_seconds > newest).kept == 0
    assert len(memo) == 0
    memo.close()
    assert len(Memo.open(memo_dir)) == 0


def test_a_segment_that_is_being_written_stays(memo_dir: Path, key: Any) -> None:
    filled(memo_dir, key)
    writer = Memo.open(memo_dir)
    writer.put(key("live"), 0, b"live")
    writer.put(key(3, "model 1"), 0, b"round 3")
    memo = Memo.open(memo_dir)
    assert memo.compact(lambda _entry: False).kept == 0
    writer.put(key("live"), 1, b"later")
    memo.refresh()
    for each in (memo, writer, Memo.open(memo_dir)):
        assert each.get(key("live"), 0) == b"live"
        assert each.get(key("live"), 1) == b"later"
        assert each.get(key(3, "model 1"), 0) == b"round 3"
        assert len(each) == 3 or each is writer
        each.close()


def test_numbers_of_segments_are_never_used_again(memo_dir: Path, key: Any) -> None:
    filled(memo_dir, key)
    stale = Memo.open(memo_dir)
    memo = Memo.open(memo_dir)
    memo.compact(lambda _entry: False)
    memo.put(key(1), 0, b"new")
    assert [p.name for p in sorted(memo.directory.glob("*.adm"))] == [
        "0000000004.adm",
        "0000000005.adm",
    ]
    stale.refresh()
    assert stale.get(key(2), 0) is None
    assert stale.get(key(1), 0) == b"new"
    stale.close()
    memo.close()


def test_damaged_entries_are_left_out_and_counted(
    memo_dir: Path, key: Any, caplog: pytest.LogCaptureFixture
) -> None:
    filled(memo_dir, key)
    Memo.open(memo_dir).close()
    path = segment_path(namespace_dir(memo_dir), 3)
    memo = Memo.open(memo_dir)
    path.write_bytes(path.read_bytes().replace(b"round 2", b"round X", 1))
    assert memo.statistics().damaged == 1
    done = memo.compact()
    assert (done.kept, done.damaged) == (24, 1)
    assert "nothing wrong is served" in caplog.text
    memo.close()


def test_two_do_not_tidy_up_at_once(memo_dir: Path, key: Any) -> None:
    filled(memo_dir, key)
    memo, other = Memo.open(memo_dir), Memo.open(memo_dir)

    def refused(_entry: EntryInfo) -> bool:
        with pytest.raises(StoreLocked, match="another process"):
            other.compact()
        return True

    memo.compact(refused)
    check(memo, key)
    other.refresh()
    check(other, key)
    memo.close()
    other.close()


def test_a_record_of_a_newer_format_is_left_alone(
    memo_dir: Path, key: Any, caplog: pytest.LogCaptureFixture
) -> None:
    filled(memo_dir, key)
    path = segment_path(namespace_dir(memo_dir), 2)
    import asyncdistil.log.record as record
    from asyncdistil.log.record import FileHeader, FileKind, encode_file_header
    from asyncdistil.memo.entry import STORE_ID

    version, record.FORMAT_VERSION = record.FORMAT_VERSION, 99
    try:
        header, _ = encode_file_header(FileHeader(STORE_ID, FileKind.MEMO, 2))
    finally:
        record.FORMAT_VERSION = version
    image = path.read_bytes()
    path.write_bytes(header + image[len(header) :])
    memo = Memo.open(memo_dir)
    assert "upgrade" in caplog.text
    memo.compact()
    assert path.exists()
    assert len(memo) == 20
    memo.close()


POINTS = [
    "memo.after_create",
    *(f"memo.append=@{hit}" for hit in (1, 2, 13, 26)),
    "memo.compact.before_sync",
    "memo.compact.before_unlink",
    *(f"memo.compact.after_unlink=@{hit}" for hit in (1, 2, 3)),
    *(f"memo.index.write=@{hit}" for hit in (1, 2, 3, 4)),
]


@pytest.mark.parametrize("point", POINTS)
def test_a_compaction_killed_at_any_point_loses_nothing(
    memo_dir: Path, make_child: Callable[..., Any], key: Any, point: str
) -> None:
    filled(memo_dir, key)
    name, _, hit = point.partition("=")

    def work(_say: Callable[[str], None]) -> None:
        memo = Memo.open(memo_dir)
        arm(f"{name}=kill{hit}")
        memo.compact()

    child = make_child(work)
    assert child.wait() == -signal.SIGKILL
    for _ in range(2):
        memo = Memo.open(memo_dir)
        check(memo, key)
        memo.compact()
        check(memo, key)
        assert memo.statistics().segments == 1
        memo.close()


def test_a_power_cut_during_a_compaction_loses_nothing_that_was_durable(key: Any) -> None:
    path = Path("/cache/memo")
    for seed in range(150):
        rng = random.Random(seed)
        disk = MemoryDisk()
        filled(path, key, files=disk)
        for each in disk.files():
            fd = disk.open_read(each)
            disk.fdatasync(fd)
            disk.close(fd)
        disk.fsync_dir(namespace_dir(path))
        memo = Memo.open(path, files=disk)
        left = rng.randrange(30)

        def count_down(_act: str, _path: Path) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt

        disk.before = count_down
        with suppress(KeyboardInterrupt):
            memo.compact()
        check(Memo.open(path, files=disk.after_power_cut(rng)), key)


def test_readers_go_on_while_others_tidy_up(
    memo_dir: Path, make_child: Callable[..., Any], key: Any
) -> None:
    filled(memo_dir, key)

    def read(say: Callable[[str], None]) -> None:
        memo = Memo.open(memo_dir)
        say("reading")
        while not os.path.exists(memo_dir / "stop"):
            memo.refresh()
            check(memo, key)
        say("done")

    readers = [make_child(read) for _ in range(2)]
    for reader in readers:
        assert reader.line() == "reading"
    memo = Memo.open(memo_dir)
    for number in range(20):
        memo.put(Key.of(b"%d" % number, model="m"), 0, b"")
        memo.close()
        memo = Memo.open(memo_dir)
        memo.compact()
    memo.close()
    (memo_dir / "stop").touch()
    for reader in readers:
        assert reader.rest() == ["done"]
        assert reader.wait() == 0
