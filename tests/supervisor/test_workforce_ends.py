"""A worker that can't live is heard of; nobody waits for it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from asyncdistil.batch import Digest, StepName
from asyncdistil.launch import PreparedLauncher
from asyncdistil.log import Store
from asyncdistil.supervisor.commands import Spawn, WorkerId
from asyncdistil.supervisor.workforce import Setting, Workforce


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
