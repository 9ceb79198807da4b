"""Several processes write at once, die at any moment, and lose nothing that was stored."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.log import LocalFiles
from asyncdistil.log.failpoint import arm
from asyncdistil.memo import Memo, namespace_dir
from asyncdistil.memo.segment import is_written, segment_numbers, segment_path

Say = Callable[[str], None]
PREIMAGE = b"x" * 200
WRITERS = 60


def body(writer: int, number: int) -> bytes:
    return b"%d of %d " % (number, writer) * (1 + number % 30)


def test_processes_that_write_at_once_all_find_everything(
    memo_dir: Path, make_child: Callable[..., Any], key: Any
) -> None:
    writers, count = 6, 150

    def work(writer: int, say: Say) -> None:
        memo = Memo.open(memo_dir)
        for number in range(count):
            memo.put(key(f"{writer}/{number}"), number % 3, body(writer, number))
            memo.put(key("shared"), writer * count + number, body(writer, number))
        say("written")
        os.read(go, 1)
        memo.refresh()
        for other in range(writers):
            for number in range(count):
                wanted = body(other, number)
                assert memo.get(key(f"{other}/{number}"), number % 3) == wanted
                assert memo.get(key("shared"), other * count + number) == wanted
        say(str(memo.samples(key("shared"))))
        memo.close()

    go, gate = os.pipe()
    children = [make_child(lambda say, n=n: work(n, say)) for n in range(writers)]
    os.close(go)
    for child in children:
        assert child.line() == "written"
    os.write(gate, b"g" * writers)
    os.close(gate)
    for child in children:
        assert child.rest() == [str(writers * count)]
        assert child.wait() == 0
    assert len(segment_numbers(LocalFiles(), namespace_dir(memo_dir))) == writers


def test_a_writer_killed_at_any_moment_loses_nothing_it_was_told_is_stored(
    memo_dir: Path, make_child: Callable[..., Any], key: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(7)
    stored: dict[tuple[int, int], bytes] = {}

    def work(writer: int, say: Say) -> None:
        memo = Memo.open(memo_dir)
        number = 0
        while True:
            memo.put(key(f"{writer}/{number}"), 0, body(writer, number))
            say(str(number))
            number += 1

    for writer in range(WRITERS):
        child = make_child(lambda say, n=writer: work(n, say))
        for _ in range(rng.randrange(12)):
            child.line()
        child.kill()
        said = len(child.rest()) and child.wait()
        assert child.wait() == -signal.SIGKILL, said
        child.close()
    memo = Memo.open(memo_dir)
    for number in segment_numbers(LocalFiles(), memo.directory):
        assert not is_written(LocalFiles(), segment_path(memo.directory, number))
    for writer in range(WRITERS):
        number = 0
        while (found := memo.get(key(f"{writer}/{number}"), 0)) is not None:
            assert found == body(writer, number)
            stored[writer, number] = found
            number += 1
    memo.close()
    assert len(stored) == len(memo)
    assert not caplog.records


@pytest.mark.parametrize("already", [0, 3])
def test_a_write_cut_at_any_byte_by_a_kill_leaves_what_was_stored_before(
    memo_dir: Path, make_child: Callable[..., Any], key: Any, already: int
) -> None:
    def work(cut: int, say: Say) -> None:
        memo = Memo.open(memo_dir)
        for number in range(already):
            memo.put(key(f"{cut}/{number}"), 0, body(cut, number))
            say(str(number))
        # The file header is a write of its own.
        arm(f"memo.append=partial:{cut}@{1 if already else 2}")
        try:
            memo.put(key(f"{cut}/last"), 0, b"the last")
        finally:
            os.kill(os.getpid(), signal.SIGKILL)

    cuts = range(0, 280, 9)
    for cut in cuts:
        child = make_child(lambda say, n=cut: work(n, say))
        assert child.rest() == [str(number) for number in range(already)]
        assert child.wait() == -signal.SIGKILL
        child.close()
    memo = Memo.open(memo_dir)
    for cut in cuts:
        for number in range(already):
            assert memo.get(key(f"{cut}/{number}"), 0) == body(cut, number)
        assert memo.get(key(f"{cut}/last"), 0) in {None, b"the last"}
    memo.close()


@pytest.mark.parametrize(
    "point", ["memo.after_create=kill", "memo.append=kill@1", "memo.append=partial:50@1"]
)
def test_a_writer_killed_while_it_makes_its_segment_is_in_nobodys_way(
    memo_dir: Path, make_child: Callable[..., Any], key: Any, point: str
) -> None:
    def work(_say: Say) -> None:
        memo = Memo.open(memo_dir)
        arm(point)
        try:
            memo.put(key(1), 0, b"1")
        finally:
            os.kill(os.getpid(), signal.SIGKILL)

    child = make_child(work)
    assert child.wait() == -signal.SIGKILL
    memo = Memo.open(memo_dir)
    assert memo.get(key(1), 0) is None
    memo.put(key(1), 0, b"1")
    other = Memo.open(memo_dir)
    assert other.get(key(1), 0) == b"1"
    memo.close()
    other.compact()
    assert other.get(key(1), 0) == b"1"
    numbers = segment_numbers(LocalFiles(), other.directory)
    other.close()
    assert len(numbers) == 1


def test_an_answer_is_served_to_others_after_its_writer_was_killed(
    memo_dir: Path, make_child: Callable[..., Any], key: Any
) -> None:
    reader = Memo.open(memo_dir)

    def work(say: Say) -> None:
        memo = Memo.open(memo_dir)
        memo.put(key(1), 0, b"paid for")
        say("paid")
        signal.pause()

    child = make_child(work)
    assert child.line() == "paid"
    child.kill()
    child.wait()
    reader.refresh()
    assert reader.get(key(1), 0) == b"paid for"
    reader.close()


@pytest.mark.parametrize("hit", range(1, 5))
def test_a_process_killed_while_it_writes_the_index_costs_time_only(
    memo_dir: Path, make_child: Callable[..., Any], key: Any, hit: int
) -> None:
    def work(_say: Say) -> None:
        memo = Memo.open(memo_dir)
        for number in range(30):
            memo.put(key(number), 0, body(1, number))
        arm(f"memo.index.write=kill@{hit}")
        memo._catalogue.pack()

    child = make_child(work)
    assert child.wait() == -signal.SIGKILL
    memo = Memo.open(memo_dir)
    assert [memo.get(key(number), 0) for number in range(30)] == [body(1, n) for n in range(30)]
    memo._catalogue.pack()
    memo.close()
    left = sorted(path.name for path in memo.directory.iterdir())
    assert left == ["0000000001.adm", "index.adi"]
