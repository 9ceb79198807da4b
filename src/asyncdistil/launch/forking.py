"""The supervisor's side of a zygote: start workers by forking it."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Self

from asyncdistil.errors import WorkerError
from asyncdistil.launch.local import Ends, described, log_lines, spawn, start
from asyncdistil.launch.output import OutputReader
from asyncdistil.launch.packets import (
    FROM_ZYGOTE,
    PACKET_BYTES,
    Exited,
    Fork,
    Forked,
    Ready,
    Reap,
    encode,
)
from asyncdistil.launch.process import WorkerProcess, stop
from asyncdistil.transport.messages import LogLine

_GRACE_SECONDS = 1.0
_READ_AT_START = ("PYTHON", "LD_", "ASYNCDISTIL_", "MALLOC_", "OMP_", "MKL_", "UV_")
"""Variables that an interpreter or a library reads once, before a fork could change them."""


class Zygote:
    """A source of workers that are ready in milliseconds. Linux only; see `Zygote.start`.

    Wherever forking will not do (the zygote died, a variable is set that is read at start, an
    import has started a thread) `spawn` starts a fresh interpreter instead.
    """

    def __init__(self, process: WorkerProcess) -> None:
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[bool] = self._loop.create_future()
        self._numbers = itertools.count(1)
        self._orders: dict[int, asyncio.Future[int]] = {}
        self._workers: dict[int, WorkerProcess] = {}
        self._early: dict[int, int] = {}
        self._abandoned: set[int] = set()
        self._environment = dict(os.environ)
        self._gone = False
        self._loop.add_reader(process.sock.fileno(), self._readable)

    @classmethod
    async def start(cls, preloaded: Sequence[str] = ()) -> Self:
        """Start a zygote, without waiting until it has imported everything.

        Args:
            preloaded: Modules that it imports besides those that every worker needs. None of them
                may hold a user's code: a fork would hand on what that did. If one starts a
                thread, nothing is forked.

        Raises:
            WorkerError: It could not be started, or this is not Linux.
        """
        if sys.platform != "linux":
            raise WorkerError("a zygote needs Linux: start workers without one")
        module = "asyncdistil.launch.zygote"
        process = start(
            module, "zygote", socket.SOCK_SEQPACKET, None, (), None, None, arguments=preloaded
        )
        return cls(process)

    @property
    def pid(self) -> int:
        """Process id of the zygote."""
        return self._process.pid

    async def spawn(
        self,
        module: str = "asyncdistil.worker",
        *,
        name: str = "worker",
        segment_fd: int | None = None,
        extra_fds: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
        on_line: Callable[[LogLine], None] | None = None,
    ) -> WorkerProcess:
        """As `asyncdistil.launch.spawn`; waits for the zygote to be ready the first time."""
        environment = {**os.environ, **(env or {})}
        can_fork = self._reads_nothing_new(environment) and await self._usable()
        if can_fork:
            with suppress(_Refused):
                return await self._fork(
                    module, name, segment_fd, extra_fds, environment, on_line or log_lines(name)
                )
        return await spawn(
            module,
            name=name,
            segment_fd=segment_fd,
            extra_fds=extra_fds,
            env=env,
            on_line=on_line,
        )

    async def close(self) -> None:
        """End the zygote. Workers that still run die with it."""
        self._lost()
        await stop(self._process, _GRACE_SECONDS)

    # --- forking ------------------------------------------------------------------------------

    def _reads_nothing_new(self, environment: Mapping[str, str]) -> bool:
        names = {*environment, *self._environment}
        return all(
            environment.get(name) == self._environment.get(name)
            for name in names
            if name.startswith(_READ_AT_START)
        )

    async def _usable(self) -> bool:
        return not self._gone and await asyncio.shield(self._ready)

    async def _fork(
        self,
        module: str,
        name: str,
        segment_fd: int | None,
        extra_fds: Sequence[int],
        environment: dict[str, str],
        on_line: Callable[[LogLine], None],
    ) -> WorkerProcess:
        number = next(self._numbers)
        env = {os.fsencode(key): os.fsencode(value) for key, value in environment.items()}
        order = encode(Fork(number, module, segment_fd is not None, env))
        with ExitStack() as cleanup, described(name):
            ends = cleanup.enter_context(Ends(socket.SOCK_STREAM))
            fds = [ends.theirs.fileno(), ends.output_write]
            fds += [] if segment_fd is None else [segment_fd]
            answer = self._orders[number] = self._loop.create_future()
            try:
                socket.send_fds(self._process.sock, [order], [*fds, *extra_fds])
                pid = await answer
            except OSError as error:  # the packet is too large, or the zygote is gone
                raise _Refused from error
            except asyncio.CancelledError:
                if answer.done() and not answer.cancelled() and answer.exception() is None:
                    self._abandon(answer.result())
                raise
            finally:
                self._orders.pop(number, None)
            sock, read_end = ends.keep()
        process = WorkerProcess(pid, sock, OutputReader(read_end, on_line))
        self._workers[pid] = process
        if pid in self._early:
            self._exited(pid, self._early.pop(pid))
        elif self._gone:
            self._exited(pid, -9)
        return process

    def _readable(self) -> None:
        while not self._gone:
            try:
                data = self._process.sock.recv(PACKET_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data = b""
            if not data:
                self._lost()
                return
            self._heard(FROM_ZYGOTE.decode(data))

    def _heard(self, message: Ready | Forked | Exited) -> None:
        match message:
            case Ready(threads=threads):
                self._ready.set_result(threads == 1)
            case Forked(number=number, pid=pid, reason=reason):
                answer = self._orders.get(number)
                if answer is None or answer.done():
                    self._abandon(pid)
                elif pid:
                    answer.set_result(pid)
                else:
                    answer.set_exception(_Refused(reason))
            case Exited(pid=pid, returncode=returncode):
                self._exited(pid, returncode)

    def _abandon(self, pid: int) -> None:
        """Whoever asked has stopped waiting. Its ends are closed, so it ends itself."""
        if pid:
            self._abandoned.add(pid)
        if pid in self._early:
            self._exited(pid, self._early.pop(pid))

    def _exited(self, pid: int, returncode: int) -> None:
        process = self._workers.pop(pid, None)
        if process is not None:
            process.finished(returncode)
        elif pid in self._abandoned:
            self._abandoned.remove(pid)
        else:
            # It exited before whoever asked for it had its turn.
            self._early[pid] = returncode
            return
        with suppress(OSError):
            self._process.sock.send(encode(Reap(pid)))

    def _lost(self) -> None:
        """The zygote is gone, and the kernel has killed what it had forked."""
        if self._gone:
            return
        self._gone = True
        self._loop.remove_reader(self._process.sock.fileno())
        self._process.sock.close()
        if not self._ready.done():
            self._ready.set_result(False)
        for answer in self._orders.values():
            if not answer.done():
                answer.set_exception(_Refused("the zygote died"))
        for pid, process in [*self._workers.items()]:
            process.kill()
            self._exited(pid, -9)


class _Refused(Exception):
    """The zygote can't fork this one."""
