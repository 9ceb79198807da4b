"""An exporter process turns durable rows into a dataset."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asyncdistil.batch import BatchRef, Digest, RowSlice, RunId, StepName
from asyncdistil.codec import encode_rows
from asyncdistil.distiset import Distiset
from asyncdistil.distiset.exporter import Layout
from asyncdistil.launch import WorkerProcess, spawn
from asyncdistil.log import SegmentWriter, Store
from asyncdistil.log.events import Emit
from asyncdistil.transport import AsyncChannel
from asyncdistil.transport.messages import (
    Done,
    Export,
    Exported,
    Fatal,
    Finish,
    FromWorker,
    Load,
    ToWorker,
)

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit and /proc")
RUN = RunId("ab" * 16)
ROWS = [{"n": n, "text": f"row {n}", "maybe": None if n < 700 else "late"} for n in range(2_000)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path, "pipeline", mode="process")
    yield store
    store.close(clean=True)


def appended(store: Store, batches: Sequence[list[dict[str, Any]]]) -> list[RowSlice]:
    segment, fd = store.create_segment(Digest(bytes(16)))
    writer = SegmentWriter(fd, segment, store.id)
    refs: list[BatchRef] = []
    for batch in batches:
        refs.extend(writer.append(encode_rows(batch, step="leaf")))
    return [RowSlice(ref, 0, ref.rows) for ref in refs]


def load_message(store: Store, columns: Sequence[str] = (), dropped: Sequence[str] = ()) -> Load:
    payload = msgspec.msgpack.encode(Layout(tuple(columns), dropped=tuple(dropped)))
    return Load(
        role="export",
        step=StepName("leaf/export"),
        payload=payload,
        code=None,
        store=str(store.root),
        store_id=store.id,
        segment=0,
        memo="",
        run=RUN,
        sys_path=(),
        cwd="",
        replica=0,
    )


async def converse(
    messages: Sequence[ToWorker], also: Callable[[WorkerProcess], None] = lambda _: None
) -> tuple[list[FromWorker], int]:
    """Send messages to a worker process; give what it answered and its exit status."""
    received: list[FromWorker] = []
    ended = asyncio.Event()
    process = await spawn()
    channel = AsyncChannel(process.sock, received.extend, lambda _: ended.set())
    also(process)
    channel.send(*messages)
    try:
        async with asyncio.timeout(60):
            await ended.wait()
            status = await process.wait()
    finally:
        process.kill()
        await process.wait()
    return received, status


async def until(condition: Callable[[], bool]) -> None:
    """Look again and again: nothing tells us what another process has written."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)


def size_bytes(folder: Path) -> int:
    # A part may get its final name between the listing and the look at it.
    with suppress(FileNotFoundError):
        return sum(path.stat().st_size for path in folder.glob("*.part"))
    return 0


def peak_memory_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def distiset_of(store: Store, exported: Exported) -> Distiset:
    emit = Emit(RUN, Digest(bytes(16)), StepName("leaf"), "default", exported.files, exported.rows)
    return Distiset.from_emits(store.root, [emit])


def test_durable_slices_become_a_dataset_in_their_order(store: Store) -> None:
    slices = appended(store, [ROWS[start : start + 50] for start in range(0, 2_000, 50)])
    part = slices[-1]
    cut = [*slices[:-1], RowSlice(part.ref, 0, 20), RowSlice(part.ref, 20, 50)]
    messages = [Export(tuple(cut[:10])), Export(()), Export(tuple(cut[10:])), Finish()]
    answers, status = asyncio.run(converse([load_message(store), *messages]))
    exported, done = answers
    assert isinstance(exported, Exported)
    assert done == Done()
    assert status == 0
    assert exported.rows == 2_000
    assert distiset_of(store, exported).table().to_pylist() == ROWS
    assert [path.rpartition("/")[0] for path, _ in exported.files] == [f"exports/{RUN}"]


def test_no_rows_give_a_dataset_without_rows(store: Store) -> None:
    load = load_message(store, ["instruction", "generation"])
    exported, _ = asyncio.run(converse([load, Finish()]))[0]
    assert isinstance(exported, Exported)
    train = distiset_of(store, exported)["default"]["train"]
    assert (len(train), train.column_names) == (0, ["instruction", "generation"])


def test_a_dropped_column_is_in_the_log_and_not_in_the_dataset(store: Store) -> None:
    slices = appended(store, [[{"x": 1, "distilabel_metadata": {"a": 1}}, {"x": 2}]])
    load = load_message(store, ["x"], dropped=["distilabel_metadata"])
    exported, _ = asyncio.run(converse([load, Export(tuple(slices)), Finish()]))[0]
    assert isinstance(exported, Exported)
    assert distiset_of(store, exported).table().to_pylist() == [{"x": 1}, {"x": 2}]


def test_damaged_rows_stop_the_run_with_their_place(store: Store) -> None:
    (good, bad) = appended(store, [ROWS[:10], ROWS[10:20]])
    path = next(store.root.glob("segments/*/*.ads"))
    content = bytearray(path.read_bytes())
    content[bad.ref.offset + bad.ref.length // 2] ^= 1
    path.write_bytes(content)
    answers, status = asyncio.run(converse([load_message(store), Export((good, bad)), Finish()]))
    assert isinstance(answers[0], Fatal)
    assert answers[0].kind == "CorruptRecord"
    assert str(path) in answers[0].message
    assert status == 0
    assert list((store.root / "exports" / RUN).iterdir()) == []


@needs_linux
def test_a_full_disk_stops_the_run_and_leaves_nothing(store: Store) -> None:
    slices = appended(store, [ROWS])

    def small_files(process: WorkerProcess) -> None:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4_096, 4_096))

    answers, _ = asyncio.run(
        converse([load_message(store), Export(tuple(slices)), Finish()], small_files)
    )
    assert isinstance(answers[0], Fatal)
    assert answers[0].kind == "StorageError"
    assert "free space" in answers[0].message
    assert list((store.root / "exports" / RUN).iterdir()) == []


def test_an_exporter_killed_half_way_is_replaced_by_one_that_clears_up(store: Store) -> None:
    slices = appended(store, [ROWS[:10]])
    folder = store.root / "exports" / RUN

    async def killed() -> None:
        process = await spawn()
        channel = AsyncChannel(process.sock, lambda _: None, lambda _: None)
        # More than a chunk, so that a file is begun, and no end.
        channel.send(load_message(store), *[Export(tuple(slices))] * 1_500)
        async with asyncio.timeout(60):
            await until(lambda: bool(list(folder.glob("*.part"))))
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        channel.close()

    asyncio.run(killed())
    assert [path.suffix for path in folder.iterdir()] == [".part"]
    answers, _ = asyncio.run(converse([load_message(store), Export(tuple(slices)), Finish()]))
    assert isinstance(answers[0], Exported)
    assert [path.suffix for path in folder.iterdir()] == [".arrow"]
    assert distiset_of(store, answers[0]).table().to_pylist() == ROWS[:10]


def test_an_exporter_whose_supervisor_is_gone_ends(store: Store) -> None:
    slices = appended(store, [ROWS[:10]])

    async def abandoned() -> int:
        process = await spawn()
        channel = AsyncChannel(process.sock, lambda _: None, lambda _: None)
        channel.send(load_message(store), Export(tuple(slices)))
        channel.close()
        async with asyncio.timeout(60):
            return await process.wait()

    assert asyncio.run(abandoned()) != 0


def test_importing_the_writer_takes_no_finder_from_under_another_import() -> None:
    # Two threads import at once: one that runs along ``sys.meta_path`` while the other takes a
    # member out misses the next, and does not find a module that is there.
    program = """
import socket, sys, threading
from asyncdistil.distiset import exporter
from asyncdistil.errors import PeerClosed
from asyncdistil.transport import Channel
from asyncdistil.transport.messages import Load

class Settled(list):
    def refuse(self, *_):
        raise AssertionError("changed while another thread may read it")
    insert = remove = append = pop = __setitem__ = __delitem__ = refuse

sys.meta_path = Settled(sys.meta_path)
ours, theirs = socket.socketpair()
theirs.close()
try:
    exporter.serve(
        Channel(ours),
        Load("export", "leaf", b"", None, "", b"", 0, "", "", (), "", 0),
    )
except PeerClosed:
    pass
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join()
assert "asyncdistil.distiset.writer" in sys.modules
assert "pandas" not in sys.modules
import pandas
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@needs_linux
def test_memory_does_not_grow_with_the_rows(store: Store) -> None:
    (batch,) = appended(store, [[{"text": f"{n:04}" * 250, "n": n} for n in range(1_000)]])

    def peak_mib(repeats: int) -> float:
        peak = 0.0
        received: list[FromWorker] = []

        async def run() -> None:
            nonlocal peak
            process = await spawn()
            exported = asyncio.Event()

            def take(messages: list[FromWorker]) -> None:
                received.extend(messages)
                exported.set()

            channel = AsyncChannel(process.sock, take, lambda _: exported.set())
            channel.send(load_message(store), *[Export((batch,))] * repeats)
            # Without Finish it stays, so that its peak can be read when it has worked.
            marker = store.root / "exports" / RUN
            async with asyncio.timeout(60):
                await until(lambda: size_bytes(marker) > repeats * 9e5)
            peak = peak_memory_mib(process.pid)
            process.kill()
            await process.wait()
            channel.close()

        asyncio.run(run())
        return peak

    few, many = peak_mib(30), peak_mib(200)  # 30 MB and 200 MB of rows
    assert many < few + 40
