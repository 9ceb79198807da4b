"""The processes of a run: spawned, talked to, listened to, reaped. Decides nothing."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from asyncdistil.batch import Digest, SegmentId, StepName
from asyncdistil.errors import AsyncDistilError, TransportError
from asyncdistil.log import Store
from asyncdistil.supervisor.commands import Spawn, WorkerId
from asyncdistil.supervisor.memo_sync import MemoSync
from asyncdistil.transport import AsyncChannel
from asyncdistil.transport.messages import FromWorker, Load, LoadPart, LogLine, MemoUsed, ToWorker

_log = logging.getLogger("asyncdistil.worker")
_CLOSED_GRACE_SECONDS = 2.0
_PART_BYTES = 32 * 1024 * 1024


class Process(Protocol):
    """A running worker, whoever launched it."""

    sock: socket.socket
    returncode: int | None

    def wait(self) -> Awaitable[int]:
        """Wait until it is gone and reaped."""
        ...

    def kill(self) -> None:
        """Kill it and its children."""
        ...

    def dump_stacks(self) -> None:
        """Ask it to print the stack of each thread."""
        ...


class Launcher(Protocol):
    """How workers come to life and end."""

    def spawn(
        self,
        *,
        name: str,
        segment_fd: int | None,
        env: Mapping[str, str] | None,
        on_line: Callable[[LogLine], None],
        forked: bool,
    ) -> Awaitable[Process]:
        """Start a worker, ``forked`` from what workers of steps need if that is possible."""
        ...

    def stop(self, process: Process, grace_seconds: float) -> Awaitable[int]:
        """Ask it to end, then kill it; returns once it is reaped and its children are gone."""
        ...


@dataclass(frozen=True, slots=True)
class Setting:
    """What workers are told about the world besides their step.

    Attributes:
        payloads: Payload of each operator, by its name.
        codes: Code fingerprints that workers must find.
        memo: Directory of the memo, empty for none.
        run: Run id.
        sys_path: For workers.
        cwd: For workers.
        env: Added to the environment of workers.
    """

    payloads: Mapping[StepName, bytes]
    codes: Mapping[StepName, Digest | None]
    memo: str
    run: str
    sys_path: tuple[str, ...]
    cwd: str
    env: Mapping[str, str] = field(default_factory=dict)


class _Worker:
    """One process and our end of its socket."""

    def __init__(self, command: Spawn) -> None:
        self.command = command
        self.life: asyncio.Task[None] | None = None
        self.process: Process | None = None
        self.channel: AsyncChannel[FromWorker] | None = None
        self.unsent: list[ToWorker] = []
        self.broke_protocol: TransportError | None = None
        self.killed_because = ""


class Workforce:
    """Every worker of one run, by its number.

    Args:
        launcher: Starts and stops processes.
        store: Gives segments to write.
        setting: For workers.
        lineage_of: Lineage whose segments a worker of an operator writes.
        on_messages: Receives what a worker sent, log lines included.
        on_lost: Receives the end of a worker and its cause, after its last message.
        on_error: Receives what kept a worker from being started.
        on_crash: Receives what should never happen: the run can't go on without this worker.
    """

    def __init__(
        self,
        launcher: Launcher,
        store: Store,
        setting: Setting,
        *,
        lineage_of: Callable[[StepName], Digest],
        on_messages: Callable[[WorkerId, list[FromWorker]], None],
        on_lost: Callable[[WorkerId, str], None],
        on_error: Callable[[AsyncDistilError], None],
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self._launcher = launcher
        self._store = store
        self._setting = setting
        self._lineage_of = lineage_of
        self._on_messages = on_messages
        self._on_lost = on_lost
        self._on_error = on_error
        self._on_crash = on_crash
        self._workers: dict[WorkerId, _Worker] = {}
        self._memo = MemoSync(store, setting.memo)
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending = False

    def start(self, command: Spawn) -> None:
        """Start a worker; what is sent to it before it lives waits."""
        worker = self._workers[command.worker] = _Worker(command)
        task = worker.life = asyncio.get_running_loop().create_task(self._live(command))
        self._tasks.add(task)
        task.add_done_callback(self._lived)

    def send(self, number: WorkerId, message: ToWorker) -> None:
        """Send a message; a worker that is gone is known to be gone elsewhere."""
        worker = self._workers.get(number)
        if worker is None:
            return
        if worker.channel is None:
            worker.unsent.append(message)
        else:
            worker.channel.send(message)

    def kill(self, number: WorkerId, *, because: str = "", dump: bool = False) -> None:
        """Kill a worker, after a dump of its stacks if wanted.

        Args:
            number: Its number.
            because: What is told as the cause of its death, after "it was killed because".
            dump: Whether it is to print the stack of each thread before.
        """
        worker = self._workers.get(number)
        if worker is None or worker.process is None:
            return
        worker.killed_because = because
        if dump:
            worker.process.dump_stacks()
            # The dump is written by the worker itself: leave it the time.
            asyncio.get_running_loop().call_later(0.2, worker.process.kill)
        else:
            worker.process.kill()

    async def end(self, grace_seconds: float) -> None:
        """Leave no process behind, whatever happened before."""
        self._ending = True
        # Those that have no process yet must not get one while the others are stopped.
        unborn = [w.life for w in self._workers.values() if w.process is None and w.life]
        for life in unborn:
            life.cancel()
        await asyncio.gather(*unborn, return_exceptions=True)
        processes = [w.process for w in self._workers.values() if w.process is not None]
        stops = [self._launcher.stop(process, grace_seconds) for process in processes]
        await asyncio.gather(*stops)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for worker in self._workers.values():
            if worker.channel is not None:
                worker.channel.close()
        await self._memo.end()

    def _received(self, number: WorkerId, messages: list[FromWorker]) -> None:
        """Pass messages on, after seeing to the memo segments that they rely on."""
        if MemoUsed in map(type, messages):
            try:
                for used in messages:
                    if isinstance(used, MemoUsed):
                        self._memo.add(used.segment)
            except AsyncDistilError as error:
                # The run stops. What follows may be committed all the same: its rows are safe, and
                # an answer that a power cut then took would only be asked for again.
                self._on_error(error)
            messages = [each for each in messages if not isinstance(each, MemoUsed)]
        self._on_messages(number, messages)

    async def _live(self, command: Spawn) -> None:
        """The life of one worker, from spawn to reaping."""
        if command.delay_seconds:
            await asyncio.sleep(command.delay_seconds)
        try:
            process = await self._spawn(command)
        except AsyncDistilError as error:
            self._on_error(error)
            del self._workers[command.worker]
            self._lost(command.worker, str(error))
            return
        code = await process.wait()
        worker = self._workers[command.worker]
        if worker.channel is not None:
            worker.channel.drain_and_close()
        self._lost(command.worker, _cause(code, worker))
        try:
            # Its children were killed with it. While some still die, the run has not ended.
            await self._launcher.stop(process, 0)
        except AsyncDistilError as error:
            self._on_error(error)
        # Any number may die in a run: nothing of them is kept.
        del self._workers[command.worker]

    def _lived(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_crash(error)

    async def _spawn(self, command: Spawn) -> Process:
        worker = self._workers[command.worker]
        number, step = command.worker, command.step
        segment, fd = SegmentId(0), None
        if command.role == "step":
            segment, fd = self._store.create_segment(self._lineage_of(step))
        process = await self._launcher.spawn(
            name=step,
            segment_fd=fd,
            env=self._setting.env or None,
            on_line=lambda line: log_line(step, line),
            forked=command.role != "export",
        )
        worker.process = process
        worker.channel = AsyncChannel(
            process.sock,
            lambda messages: self._received(number, messages),
            lambda error: self._closed(worker, error),
        )
        worker.channel.send(*self._load(command, segment), *worker.unsent)
        worker.unsent.clear()
        return process

    def _load(self, command: Spawn, segment: SegmentId) -> list[Load | LoadPart]:
        setting = self._setting
        payload = memoryview(setting.payloads.get(command.step, b""))
        parts: list[Load | LoadPart] = []
        while len(payload) > _PART_BYTES:
            parts.append(LoadPart(bytes(payload[:_PART_BYTES])))
            payload = payload[_PART_BYTES:]
        load = Load(
            role=command.role,
            step=command.step,
            payload=bytes(payload),
            code=setting.codes.get(command.step),
            store=os.fspath(self._store.root),
            store_id=self._store.id,
            segment=segment,
            memo=setting.memo,
            run=setting.run,
            sys_path=setting.sys_path,
            cwd=setting.cwd,
            replica=command.replica,
        )
        return [*parts, load]

    def _closed(self, worker: _Worker, error: TransportError | None) -> None:
        """A socket closed before its process ended: what can't be talked to must not live on."""
        worker.broke_protocol = error
        process = worker.process
        if process is not None and process.returncode is None and not self._ending:
            # An orderly worker closes by exiting: give that a moment.
            loop = asyncio.get_running_loop()
            loop.call_later(_CLOSED_GRACE_SECONDS, process.kill)

    def _lost(self, number: WorkerId, cause: str) -> None:
        if not self._ending:
            self._on_lost(number, cause)


def log_line(step: StepName, line: LogLine) -> None:
    """Log what a worker said, with the step's name before it."""
    _log.log(line.level, "[%s] %s", step, line.text)


def _cause(code: int, worker: _Worker) -> str:
    if worker.broke_protocol is not None:
        return str(worker.broke_protocol)
    if worker.killed_because and code == -signal.SIGKILL:
        return f"it was killed because {worker.killed_because}"
    if code >= 0:
        return f"it exited with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (often the kernel's out-of-memory killer)" if name == "SIGKILL" else ""
    return f"it was killed by {name}{hint}"
