"""A worker that can't live is heard of; nobody waits for it."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import psutil

from asyncdistil.batch import Digest, StepName
from asyncdistil.launch import PreparedLauncher, WorkerProcess
from asyncdistil.log import Store
from asyncdistil.supervisor.commands import Spawn, WorkerId
from asyncdistil.supervisor.workforce import Setting, Workforce
from asyncdistil.transport import AsyncChannel


def test_an_error_of_our_own_while_a_worker_starts_ends_the_run(tmp_path: Path) -> None:
    step = StepName("s")
    # No payload that a worker could be sent: only a fault of ours can lead to one.
    payloads: Any = {step: object()}

    async def started() -> BaseException:
        crashed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        store = Store.open(tmp_path, "p")
        launcher = await PreparedLauncher.start()
        workers = Workforce(
            launcher,
            store,
            Setting(payloads, codes={}, memo="", run="r", sys_path=(), cwd=str(tmp_path)),
            lineage_of=lambda _: Digest(bytes(16)),
            on_messages=lambda *_: None,
            on_lost=lambda *_: None,
            on_error=crashed.set_result,
            on_crash=crashed.set_result,
        )
        workers.start(Spawn(WorkerId(1), step, "step", 0))
        try:
            return await crashed
        finally:
            await workers.end(0)
            await launcher.close()
            store.close(clean=False)

    assert isinstance(asyncio.run(started()), TypeError)


class Noting(PreparedLauncher):
    """Starts fresh interpreters, and tells what it started."""

    def __init__(self) -> None:
        super().__init__(None)
        self.started: asyncio.Queue[WorkerProcess] = asyncio.Queue()

    async def spawn(self, **how: Any) -> WorkerProcess:
        process = await super().spawn(**how)
        self.started.put_nowait(process)
        return process


def workforce(store: Store, launcher: PreparedLauncher, lost: asyncio.Queue[WorkerId]) -> Workforce:
    def fail(error: BaseException) -> None:
        raise error

    return Workforce(
        launcher,
        store,
        Setting({}, codes={}, memo="", run="r", sys_path=(), cwd=str(store.root)),
        lineage_of=lambda _: Digest(bytes(16)),
        on_messages=lambda *_: None,
        on_lost=lambda number, _cause: lost.put_nowait(number),
        on_error=fail,
        on_crash=fail,
    )


def test_no_worker_is_started_again_while_the_others_are_stopped(tmp_path: Path) -> None:
    others = psutil.Process().children()

    async def ended() -> list[psutil.Process]:
        store, launcher = Store.open(tmp_path, "p"), Noting()
        workers = workforce(store, launcher, asyncio.Queue())
        workers.start(Spawn(WorkerId(1), StepName("s"), "step", 0))
        await launcher.started.get()
        workers.start(Spawn(WorkerId(2), StepName("s"), "step", 0, delay_seconds=1e-6))
        await asyncio.sleep(0)
        await workers.end(0)
        store.close(clean=False)
        return psutil.Process().children()

    assert asyncio.run(ended()) == others


def test_nothing_is_kept_of_workers_that_died(tmp_path: Path) -> None:
    async def channels_of_the_dead() -> int:
        store, launcher = Store.open(tmp_path, "p"), Noting()
        lost: asyncio.Queue[WorkerId] = asyncio.Queue()
        workers = workforce(store, launcher, lost)
        before = channels()
        for number in map(WorkerId, range(3)):
            workers.start(Spawn(number, StepName("s"), "step", 0))
            (await launcher.started.get()).kill()
            assert await lost.get() == number
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))
        kept = channels() - before
        await workers.end(0)
        store.close(clean=False)
        return kept

    assert asyncio.run(channels_of_the_dead()) == 0


def channels() -> int:
    gc.collect()
    return sum(type(each) is AsyncChannel for each in gc.get_objects())
