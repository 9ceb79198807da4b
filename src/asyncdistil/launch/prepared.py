"""A launcher that forks where that is possible, and starts fresh interpreters elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Self

import anyio
import anyio.lowlevel

from asyncdistil.errors import WorkerError
from asyncdistil.launch.forking import Zygote
from asyncdistil.launch.local import spawn
from asyncdistil.launch.process import WorkerProcess, stop
from asyncdistil.transport.messages import LogLine

FORK_VARIABLE = "ASYNCDISTIL_FORK"
"""Set to ``0``, every worker is a fresh interpreter: slower to start, easier to debug."""


class PreparedLauncher:
    """Starts and stops the workers of one run."""

    def __init__(self, zygote: Zygote | None) -> None:
        self._zygote = zygote

    @classmethod
    async def start(cls, preloaded: Sequence[str] = ()) -> Self:
        """Prepare for spawning; returns before the zygote has imported anything.

        Args:
            preloaded: What the workers will import, as for `Zygote.start`.
        """
        zygote = None
        if sys.platform == "linux" and os.environ.get(FORK_VARIABLE) != "0":
            # Without one everything works, only slower.
            with suppress(WorkerError):
                zygote = await Zygote.start(preloaded)
        # anyio imports what it is made of at its first use, which is in `stop`: too late in a
        # process that stops because it can open no more files.
        with anyio.CancelScope():
            await anyio.lowlevel.checkpoint()
        return cls(zygote)

    async def spawn(
        self,
        *,
        name: str,
        segment_fd: int | None,
        extra_fds: Sequence[int] = (),
        env: Mapping[str, str] | None,
        on_line: Callable[[LogLine], None],
        forked: bool = True,
    ) -> WorkerProcess:
        """Start a worker; arguments are those of `asyncdistil.launch.spawn`, and one more.

        ``forked`` says whether it makes use of what the zygote has imported. If not, it is started
        at once, and imports what it needs while the zygote does the same on another core.
        """
        start = self._zygote.spawn if self._zygote is not None and forked else spawn
        return await start(
            name=name, segment_fd=segment_fd, extra_fds=extra_fds, env=env, on_line=on_line
        )

    async def stop(self, process: WorkerProcess, grace_seconds: float) -> int:
        """Ask a worker to end, then kill it; returns once it is reaped."""
        return await stop(process, grace_seconds)

    async def close(self) -> None:
        """End the zygote; the workers are gone by now."""
        if self._zygote is not None:
            await self._zygote.close()
