"""The store on real files: locks, processes, permissions, questions."""

from __future__ import annotations

import os
import queue
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.batch import (
    Digest,
    Lsn,
    RowSlice,
    RunId,
    StepName,
)
from asyncdistil.codec import content_digest, encode_rows
from asyncdistil.errors import StorageError, StoreLocked, UnencodableValue
from asyncdistil.log import Store, StoreReader, group_sync, name_digest, segment
from asyncdistil.log.events import (
    Emit,
    Event,
    Intent,
    Moved,
    Outcome,
    Reuse,
    Route,
    RunBegin,
    RunEnd,
    StepDef,
    StepDone,
    Tombstone,
)

KEY, OTHER = Digest(b"k" * 16), Digest(b"o" * 16)
ZERO = Digest(bytes(16))


def begin(run: RunId, *, resumed: bool = False) -> RunBegin:
    return RunBegin(run, "sig", "agg", b"", 1.0, resumed)


def test_every_question_has_the_same_answer_before_and_after_a_restart_and_for_readers(
    kit: Any, cache_dir: Path
) -> None:
    run, lineage = kit.run, kit.lineage
    store = Store.open(cache_dir, "p")
    writer = kit.writer(store)
    writer.commit(1)
    events: list[Event] = [
        begin(run),
        StepDef(lineage, StepName("a"), b"definition"),
        Route(run, lineage, KEY, (StepName("b"),)),
        Route(run, lineage, KEY, (StepName("c"), StepName("b"))),
        Reuse(run, lineage, (Lsn(2),)),
        Intent(run, lineage, KEY),
        Intent(run, lineage, OTHER),
        Outcome(run, lineage, KEY, "ok"),
        StepDone(run, lineage, ZERO, 2, 0),
        StepDone(run, lineage, KEY, 2, 0),
        Emit(run, KEY, StepName("a"), "default", (("exports/x", KEY),), 2),
        RunEnd(run, True, KEY, 0, "", 2.0),
    ]
    lsns = store.append(events)

    def check(view: Store | StoreReader) -> None:
        assert kit.numbers(view) == [1]
        assert view.routes(lineage) == {KEY: ("c", "b")}
        assert view.step_def(lineage) == b"definition"
        assert view.step_def(OTHER) is None
        assert list(view.step_defs()) == [lineage]
        assert view.step_done(lineage, KEY) == (lsns[9], run)
        assert view.step_done(OTHER, KEY) is None
        assert view.outcome(lineage, KEY) == "ok"
        assert view.outcome(lineage, OTHER) is None
        assert view.intended(lineage, OTHER)
        assert not view.intended(lineage, KEY)
        assert view.last_run() == (begin(run), events[-1])
        assert view.emits(KEY) == [events[-2]]
        assert view.emits(OTHER) == []

    check(store)
    beside = StoreReader.open(cache_dir, "p")
    assert beside is not None
    check(beside)  # a reader needs no lock
    beside.close()
    store.close(clean=False)
    for clean in (False, True, True):
        store = Store.open(cache_dir, "p")
        check(store)
        reader = StoreReader.open(cache_dir, "p")
        assert reader is not None
        check(reader)
        reader.close()
        store.close(clean=clean)


def test_a_run_that_is_taken_up_again_is_open_until_it_ends_again(
    kit: Any, cache_dir: Path
) -> None:
    store = Store.open(cache_dir, "p")
    assert store.last_run() is None
    stopped = RunEnd(kit.run, False, ZERO, 0, "stopped", 2.0)
    store.append([begin(kit.run), stopped])
    assert store.last_run() == (begin(kit.run), stopped)
    store.append([begin(kit.run, resumed=True)])
    assert store.last_run() == (begin(kit.run, resumed=True), None)
    store.close(clean=True)
    store = Store.open(cache_dir, "p")
    assert [end for _, end in store.runs()] == [None, None]
    store.close(clean=True)


def test_dropped_commits_are_left_out_and_moved_rows_are_found(kit: Any, cache_dir: Path) -> None:
    store = Store.open(cache_dir, "p")
    writer = kit.writer(store)
    first, second = writer.commit(1), writer.commit(2)
    (_, commit) = store.commits(kit.lineage)[1]
    old = commit.outputs[0]
    (new,) = kit.writer(store).segment.append(encode_rows(kit.rows(2), step="s"))
    store.append([Tombstone((Lsn(first),)), Moved(old, new)])
    for _ in range(2):
        [(lsn, moved)] = store.commits(kit.lineage)
        assert (lsn, moved.outputs, moved.inputs[0][0].ref) == (second, (new,), new)
        assert kit.numbers(store) == [2]
        store.close(clean=True)
        store = Store.open(cache_dir, "p")
    store.close(clean=True)


def test_a_second_run_is_told_who_holds_the_lock(cache_dir: Path) -> None:
    store = Store.open(cache_dir, "my pipeline")
    with pytest.raises(StoreLocked, match=rf"'my pipeline'.*pid {os.getpid()} since"):
        Store.open(cache_dir, "my pipeline")
    Store.open(cache_dir, "another").close(clean=True)
    store.close(clean=True)
    Store.open(cache_dir, "my pipeline").close(clean=True)


HOLDER = """
import sys
from pathlib import Path
from asyncdistil.log import Store
store = Store.open(Path(sys.argv[1]), "p")
print("held", flush=True)
sys.stdin.readline()
store.close(clean=True)
"""


@pytest.fixture
def holder(cache_dir: Path) -> Any:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(cache_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_another_process_is_named_and_waited_for(cache_dir: Path, holder: Any) -> None:
    with pytest.raises(StoreLocked, match=f"pid {holder.pid}"):
        Store.open(cache_dir, "p")
    threading.Timer(0.1, lambda: (holder.stdin.write("go\n"), holder.stdin.flush())).start()
    Store.open(cache_dir, "p", wait_seconds=60).close(clean=True)


def test_a_killed_holder_leaves_no_lock(cache_dir: Path, holder: Any) -> None:
    holder.kill()
    holder.wait()
    Store.open(cache_dir, "p").close(clean=True)


def test_a_forked_child_does_not_keep_the_lock(cache_dir: Path) -> None:
    store = Store.open(cache_dir, "p")
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go[1])
        os.write(ready[1], b".")
        os.read(go[0], 1)  # until the parent is done, or dead
        os._exit(0)
    try:
        assert os.read(ready[0], 1) == b"."
        store.close(clean=True)
        Store.open(cache_dir, "p").close(clean=True)
    finally:
        for fd in (*ready, *go):
            os.close(fd)
        status = os.waitpid(child, 0)[1]
    assert status == 0


def test_files_are_private_and_links_are_refused(kit: Any, cache_dir: Path, tmp_path: Path) -> None:
    store = Store.open(cache_dir, "p")
    kit.writer(store).commit(1)
    store.close(clean=True)
    for path in [store.root.parent, store.root, *store.root.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
    elsewhere = tmp_path / "elsewhere"
    store.root.rename(elsewhere)
    store.root.symlink_to(elsewhere)
    with pytest.raises(StorageError, match="link"):
        Store.open(cache_dir, "p")


def test_somebody_elses_directory_is_refused(cache_dir: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    Store.open(cache_dir, "p").close(clean=True)
    os.chown(cache_dir / "pipelines" / name_digest("p"), 12345, -1)
    with pytest.raises(StorageError, match="12345"):
        Store.open(cache_dir, "p")


@pytest.mark.parametrize("name", ["..", "", "a/b", "x" * 5000, "\ud800", "päivä", "a\0b"])
def test_any_name_is_a_store_of_its_own(cache_dir: Path, name: str) -> None:
    store = Store.open(cache_dir, name)
    assert store.root.parent == cache_dir / "pipelines"
    assert len(store.root.name) == 32
    store.close(clean=True)


def test_a_read_only_cache_is_an_error_that_says_so(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StorageError, match="choose"):
        Store.open(blocked / "cache", "p")


def test_a_clean_store_opened_for_nothing_is_not_written_to(kit: Any, cache_dir: Path) -> None:
    store = Store.open(cache_dir, "p")
    kit.writer(store).commit(1)
    store.close(clean=True)

    def state() -> dict[str, tuple[int, int]]:
        files = (p for p in store.root.rglob("*") if p.is_file() and p.name != "LOCK")
        return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in files}

    before = state()
    Store.open(cache_dir, "p").close(clean=True)
    assert state() == before


def test_commits_become_durable_in_order_while_two_threads_work(kit: Any, cache_dir: Path) -> None:
    store = Store.open(cache_dir, "p")
    writer = kit.writer(store)
    marks: list[int] = []
    errors: list[Exception] = []
    store.start_syncing(marks.append, errors.append)
    last = 0
    for number in range(1, 501):
        last = writer.commit(number)
    assert store.flush() >= last
    assert store.durable >= last
    store.close(clean=True)
    assert marks == sorted(marks)
    assert marks[-1] >= last
    assert not errors
    store = Store.open(cache_dir, "p")
    assert kit.numbers(store) == list(range(1, 501))
    store.close(clean=True)


def test_a_callback_that_raises_stops_the_store_instead_of_hanging_it(
    kit: Any, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _args: None)
    store = Store.open(cache_dir, "p")
    errors: list[Exception] = []

    def on_durable(_lsn: Lsn) -> None:
        raise RuntimeError("the loop is closed")

    store.start_syncing(on_durable, errors.append)
    writer = kit.writer(store)
    with pytest.raises(StorageError, match="loop is closed"):
        for number in range(1, 10_000):
            writer.commit(number)
            store.flush()
    assert len(errors) == 1
    store.close(clean=True)
    store.close(clean=True)


def test_relaxed_commits_are_durable_after_a_flush(kit: Any, cache_dir: Path) -> None:
    store = Store.open(cache_dir, "p", mode="relaxed")
    store.start_syncing(lambda _lsn: None, lambda _error: None)
    lsn = kit.writer(store).commit(1)
    assert store.flush() >= lsn
    store.close(clean=True)


def test_whoever_waits_for_relaxed_commits_does_not_wait_for_the_end_of_a_period(
    kit: Any, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_sync, "RELAXED_SECONDS", 3600.0)
    store = Store.open(cache_dir, "p", mode="relaxed")
    durable: queue.SimpleQueue[Lsn] = queue.SimpleQueue()
    store.start_syncing(durable.put, lambda _error: None)
    writer = kit.writer(store)
    lsn = writer.commit(1)
    assert store.flush() >= lsn
    lsn = writer.commit(2)
    store.hurry()
    while durable.get(timeout=60) < lsn:
        pass
    store.close(clean=True)


POINTS = [
    "log.after_create",
    "log.after_begin",
    "log.after_append",
    "sync.before_segments",
    "sync.before_log",
    "sync.after_log",
    "segment.after_create",
    "checkpoint.after_write",
    "checkpoint.before_rename",
    "checkpoint.after_rename",
]


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_named_point_loses_nothing_acknowledged(
    kit: Any, cache_dir: Path, arm: Callable[[str], None], point: str
) -> None:
    expected = 0
    for hit in range(1, 5):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            arm(f"{point}=kill@{hit}")
            store = Store.open(cache_dir, "p")
            done = len(store.commits(kit.lineage))
            writer = kit.writer(store)
            for number in range(done + 1, done + 4):
                writer.commit(number)
                store.flush()
                os.write(write, bytes((number,)))
            store.close(clean=True)
            os._exit(0)
        os.close(write)
        acknowledged = b""
        while chunk := os.read(read, 100):
            acknowledged += chunk
        os.close(read)
        status = os.waitpid(child, 0)[1]
        assert os.WIFEXITED(status) or os.WTERMSIG(status) == signal.SIGKILL
        store = Store.open(cache_dir, "p")
        found = kit.numbers(store)
        assert found == list(range(1, len(found) + 1))
        assert len(found) >= max(expected, *acknowledged, 0)
        expected = len(found)
        store.close(clean=hit % 2 == 0)


@pytest.mark.parametrize("point", ["log.append", "segment.append"])
@pytest.mark.parametrize("cut", [0, 1, 71, 72, 73, 150])
def test_a_write_that_stops_half_way_is_a_torn_record(
    kit: Any, cache_dir: Path, arm: Callable[[str], None], point: str, cut: int
) -> None:
    store = Store.open(cache_dir, "p")
    writer = kit.writer(store)
    writer.commit(1)
    arm(f"{point}=partial:{cut}@1")
    with pytest.raises(StorageError):
        writer.commit(2)
    writer.commit(3)
    store.close(clean=False)
    store = Store.open(cache_dir, "p")
    assert kit.numbers(store) == [1, 3]
    store.close(clean=True)


def commit_for_ever(kit: Any, cache_dir: Path, report: int) -> None:
    """Report the newest durable number through a pipe, 4 bytes each, until killed."""
    store = Store.open(cache_dir, "p")
    number = len(store.commits(kit.lineage))
    writer = kit.writer(store)
    numbers: dict[int, int] = {}

    def on_durable(lsn: Lsn) -> None:
        covered = [n for at, n in list(numbers.items()) if at <= lsn]
        if covered:
            os.write(report, max(covered).to_bytes(4, "little"))

    store.start_syncing(on_durable, lambda _error: None)
    while True:
        number += 1
        numbers[writer.commit(number)] = number


def test_random_kills_of_a_syncing_process_lose_nothing_acknowledged(
    kit: Any, cache_dir: Path
) -> None:
    expected = 0
    for round_ in range(12):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            commit_for_ever(kit, cache_dir, write)
        os.close(write)
        acknowledged = 0
        for _ in range(round_ % 5 + 1):
            acknowledged = int.from_bytes(os.read(read, 4), "little")
        os.kill(child, signal.SIGKILL)
        while chunk := os.read(read, 4):
            acknowledged = int.from_bytes(chunk, "little")
        os.close(read)
        os.waitpid(child, 0)
        store = Store.open(cache_dir, "p")
        found = [commit.ordinal for _, commit in store.commits(kit.lineage)]
        assert found == list(range(1, len(found) + 1))
        assert len(found) >= max(expected, acknowledged)
        expected = len(found)
        store.close(clean=round_ % 3 == 0)
    store = Store.open(cache_dir, "p")
    assert len(kit.numbers(store)) == expected
    store.close(clean=True)
    assert not list(store.root.glob("*.tmp"))


def test_batches_are_cut_into_records_and_slices_read_only_their_rows(
    kit: Any, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "MAX_RECORD_BYTES", 300)
    store = Store.open(cache_dir, "p")
    writer = kit.writer(store)
    rows = [{"i": i, "text": "y" * (i * 37 % 400)} for i in range(40)]
    encoded = encode_rows(rows, step="s")
    refs = writer.segment.append(encoded)
    assert sum(ref.rows for ref in refs) == 40
    assert len(refs) > 10
    reader = store.reader()
    whole = [RowSlice(ref, 0, ref.rows) for ref in refs]
    assert [row for slice_ in whole for row in reader.rows(slice_)] == rows
    assert reader.digest(whole) == content_digest(encoded.digests)
    single = [RowSlice(ref, i, i + 1) for ref in refs for i in range(ref.rows)]
    assert [reader.rows(slice_)[0] for slice_ in single] == rows
    assert b"".join(map(reader.row_digests, single)) == encoded.digests
    assert reader.rows(RowSlice(refs[0], 1, 1)) == []
    assert reader.digest([]) == content_digest(b"")
    reader.close()
    store.close(clean=True)


def test_a_row_beyond_the_limit_is_refused_by_position(
    kit: Any, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "MAX_RECORD_BYTES", 100)
    monkeypatch.setattr(segment, "MAX_ROW_BYTES", 200)
    store = Store.open(cache_dir, "p")
    writer = kit.writer(store)
    with pytest.raises(UnencodableValue, match="row 1 "):
        writer.segment.append(encode_rows([{"a": 1}, {"a": "x" * 300}], step="s"))
    assert writer.segment.append(encode_rows([], step="s")) == ()
    store.close(clean=True)


def test_many_segments_are_read_with_few_descriptors(
    kit: Any, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "_OPEN_SEGMENTS", 3)
    store = Store.open(cache_dir, "p")
    reader = store.reader()
    refs = []
    for number in range(10):
        (ref,) = kit.writer(store).segment.append(encode_rows(kit.rows(number), step="s"))
        refs.append(ref)
        assert reader.rows(RowSlice(ref, 0, 2)) == kit.rows(number)
    open_before = len(os.listdir("/proc/self/fd"))
    for number, ref in enumerate(refs):
        assert reader.rows(RowSlice(ref, 0, 2)) == kit.rows(number)
    assert len(os.listdir("/proc/self/fd")) == open_before
    reader.close()
    store.close(clean=True)


def test_nothing_is_left_open_after_close(kit: Any, cache_dir: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    for clean in (True, False, True):
        store = Store.open(cache_dir, "p")
        kit.writer(store).commit(1)
        kit.numbers(store)
        store.close(clean=clean)
    reader = StoreReader.open(cache_dir, "p")
    assert reader is not None
    kit.numbers(reader)
    reader.close()
    assert set(os.listdir("/proc/self/fd")) == before
    assert StoreReader.open(cache_dir, "never run") is None
