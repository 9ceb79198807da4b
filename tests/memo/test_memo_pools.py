"""What is stored is found, whoever stored it, and nothing else is."""

from __future__ import annotations

import os
import tempfile
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from asyncdistil.errors import StorageError
from asyncdistil.memo import Key, Memo, Replies, namespace_dir
from asyncdistil.memo.entry import name_of
from asyncdistil.memo.index import Index
from asyncdistil.memo.packed import PLACE, Covered

KEYS = [Key.of(f"request {n}".encode() * (n + 1), model=f"model {n % 2}") for n in range(4)]


class MemoMachine(RuleBasedStateMachine):
    """Three processes' views of one memo against one dict."""

    def __init__(self) -> None:
        super().__init__()
        self.home = tempfile.TemporaryDirectory()
        self.path = Path(self.home.name) / "memo"
        self.memos = [Memo.open(self.path) for _ in range(3)]
        self.model: dict[tuple[int, int], bytes] = {}
        self.writes = 0

    def teardown(self) -> None:
        for memo in self.memos:
            memo.close()
        self.home.cleanup()

    @rule(
        who=st.integers(0, 2),
        which=st.integers(0, 3),
        sample=st.integers(0, 3),
        body=st.binary(max_size=40),
    )
    def put(self, who: int, which: int, sample: int, body: bytes) -> None:
        memo = self.memos[who]
        memo.refresh()  # the order of two writes is known only to who has seen the first
        self.writes += 1
        memo.put(KEYS[which], sample, body)
        self.model[which, sample] = body

    @rule(who=st.integers(0, 2))
    def reopen(self, who: int) -> None:
        self.memos[who].close()
        self.memos[who] = Memo.open(self.path)

    @rule()
    def lose_the_index(self) -> None:
        (namespace_dir(self.path) / "index.adi").unlink(missing_ok=True)

    @rule(who=st.integers(0, 2))
    def write_the_index(self, who: int) -> None:
        self.memos[who].refresh()
        self.memos[who]._catalogue.pack()

    @rule(who=st.integers(0, 2), dropped=st.integers(0, 3))
    def compact(self, who: int, dropped: int) -> None:
        for memo in self.memos:  # whoever has written holds its segment
            memo.close()
        self.memos = [Memo.open(self.path) for _ in range(3)]
        self.memos[who].compact(lambda entry: entry.digest != KEYS[dropped].digest)
        for place in [place for place in self.model if place[0] == dropped]:
            del self.model[place]

    @invariant()
    def every_process_finds_what_was_stored_last(self) -> None:
        for memo in self.memos:
            memo.refresh()
            for which, key in enumerate(KEYS):
                for sample in range(4):
                    assert memo.get(key, sample) == self.model.get((which, sample))
                assert memo.samples(key) == sum(place[0] == which for place in self.model)
            assert len(memo) == len(self.model)


TestMemoMachine = MemoMachine.TestCase
TestMemoMachine.settings = settings(max_examples=20, stateful_step_count=15, deadline=None)


def test_what_another_memo_writes_is_found_while_it_writes(
    open_memo: Callable[..., Memo], key: Any
) -> None:
    writer, reader = open_memo(), open_memo()
    for number in range(50):
        writer.put(key(number), 0, b"%d" % number)
        reader.refresh()
        assert reader.get(key(number), 0) == b"%d" % number


def test_a_later_write_wins_in_every_process_even_if_the_clock_steps_back(
    open_memo: Callable[..., Memo], key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = open_memo(), open_memo()
    second.put(key("other"), 0, b"")  # so that the older segment is the one written last
    first.put(key(1), 0, b"old")
    second.refresh()
    monkeypatch.setattr("time.time_ns", lambda: 1)
    second.put(key(1), 0, b"new")
    first.refresh()
    assert first.get(key(1), 0) == second.get(key(1), 0) == b"new"
    first.refresh()
    first.put(key(1), 0, b"newest")
    assert open_memo().get(key(1), 0) == b"newest"


def test_an_equal_digest_of_another_request_is_a_miss(
    open_memo: Callable[..., Memo], key: Any
) -> None:
    memo = open_memo()
    mine = key(1)
    twin = Key(mine.digest, b"another request", mine.model)
    memo.put(mine, 0, b"mine")
    assert memo.get(twin, 0) is None
    memo.put(twin, 1, b"of the twin")
    assert (memo.get(mine, 0), memo.get(mine, 1)) == (b"mine", None)
    assert memo.get(twin, 1) == b"of the twin"


def test_a_preimage_is_written_once_for_all_samples_of_a_key(
    open_memo: Callable[..., Memo],
) -> None:
    memo = open_memo()
    large = Key.of(os.urandom(1 << 20), model="m")
    for sample in range(20):
        memo.put(large, sample, b"%d" % sample)
    assert [memo.get(large, sample) for sample in range(20)] == [b"%d" % n for n in range(20)]
    assert memo.statistics().size_bytes < 2 << 20


def test_a_run_without_cache_reads_only_what_it_wrote(
    open_memo: Callable[..., Memo], key: Any
) -> None:
    open_memo(run="a" * 32).put(key(1), 0, b"of another run")
    memo = open_memo(run="b" * 32)
    assert memo.get(key(1), 0, own_run=True) is None
    memo.put(key(1), 0, b"own")
    assert open_memo(run="b" * 32).get(key(1), 0, own_run=True) == b"own"
    assert memo.get(key(2), 0, own_run=True) is None


def test_an_empty_body_is_an_answer(open_memo: Callable[..., Memo], key: Any) -> None:
    memo = open_memo()
    memo.put(key(1), 0, b"")
    assert memo.get(key(1), 0) == b""


class Answer(msgspec.Struct, array_like=True):
    outcome: str
    body: bytes


class LongerAnswer(msgspec.Struct, array_like=True):
    outcome: int
    body: bytes


def test_replies_come_back_as_what_they_were_and_an_older_form_is_a_miss(
    open_memo: Callable[..., Memo], key: Any, caplog: pytest.LogCaptureFixture
) -> None:
    memo = open_memo()
    replies = Replies(memo, Answer)
    for number, outcome in enumerate(("ok", "refused", "truncated", "failed")):
        replies.put(key(1), number, Answer(outcome, b"\0raw"))
    assert replies.get(key(1), 3) == Answer("failed", b"\0raw")
    assert replies.samples(key(1)) == 4
    assert Replies(memo, LongerAnswer).get(key(1), 0) is None
    assert "another form" in caplog.text


def test_segments_are_named_when_written_and_when_served_while_they_may_grow(
    open_memo: Callable[..., Memo], key: Any
) -> None:
    told: list[int] = []
    writer = open_memo(on_segment=told.append)
    assert told == []
    writer.put(key(1), 0, b"1")
    writer.put(key(2), 0, b"2")
    assert told == [1]
    served: list[int] = []
    reader = open_memo(on_segment=served.append)
    assert served == []
    assert reader.get(key(1), 0) == reader.get(key(1), 0) == b"1"
    assert served == [1]
    writer.close()
    later: list[int] = []
    assert open_memo(on_segment=later.append).get(key(1), 0) == b"1"
    assert later == []


def test_a_full_segment_is_followed_by_another(
    open_memo: Callable[..., Memo], key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncdistil.memo.segment.MAX_SEGMENT_BYTES", 4096)
    told: list[int] = []
    memo = open_memo(on_segment=told.append)
    for number in range(50):
        memo.put(key(number), 0, b"x" * 500)
    assert told == [*range(1, len(told) + 1)]
    assert len(told) > 5
    fresh = open_memo()
    assert all(fresh.get(key(number), 0) == b"x" * 500 for number in range(50))


def test_a_refused_write_leaves_the_earlier_answer_and_the_next_one_is_whole(
    open_memo: Callable[..., Memo], key: Any, arm: Callable[[str], None]
) -> None:
    memo = open_memo()
    memo.put(key(1), 0, b"early")
    arm("memo.append=partial:90@1")
    with pytest.raises(StorageError, match="run again"):
        memo.put(key(1), 0, b"torn")
    assert memo.get(key(1), 0) == b"early"
    memo.put(key(2), 0, b"later")
    for each in (memo, open_memo()):
        assert (each.get(key(1), 0), each.get(key(2), 0)) == (b"early", b"later")


def test_a_directory_of_a_stranger_or_a_link_is_refused(
    open_memo: Callable[..., Memo], memo_dir: Path, tmp_path: Path
) -> None:
    memo_dir.parent.mkdir()
    memo_dir.symlink_to(tmp_path)
    with pytest.raises(StorageError):
        open_memo()


def test_threads_share_a_memo(open_memo: Callable[..., Memo], key: Any) -> None:
    memo = open_memo()

    def work(thread: int) -> None:
        for number in range(100):
            memo.put(key(f"{thread}/{number}"), 0, b"%d" % thread)
            memo.get(key(f"{(thread + 1) % 4}/{number}"), 0)

    threads = [threading.Thread(target=work, args=[n]) for n in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    fresh = open_memo()
    assert len(fresh) == 400
    assert all(
        fresh.get(key(f"{thread}/{n}"), 0) == b"%d" % thread
        for thread in range(4)
        for n in range(100)
    )


@pytest.mark.parametrize("pooled", [False, True], ids=["many keys", "one key"])
def test_the_index_takes_less_than_300_bytes_an_entry_and_less_than_48_when_packed(
    pooled: bool,
) -> None:
    count = 60_000
    tracemalloc.start()
    try:
        index = Index()
        for number in range(count):
            digest = bytes(16) if pooled else os.urandom(16)
            index.put(name_of(digest, number if pooled else 0), PLACE.pack(1, number, 9))
        grown = tracemalloc.get_traced_memory()[0]
        packed = index.pack({1: Covered(count * 8, True)})
        index = Index(packed)
        small = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(index) == count
    assert grown < 300 * count
    assert small < 48 * count
    # A pool of any size is spread over the buckets, or one key would make look-ups linear.
    assert max(b - a for a, b in zip(packed._starts, packed._starts[1:], strict=False)) < 64
