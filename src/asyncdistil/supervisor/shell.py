"""The thin shell around the machine: processes, sockets, the log, the clock.

One turn: every message that arrived is given to the machine, the machine moves, its events are
appended to the log in one write, and only then its commands are carried out. So whatever a worker
is told to do stands on records that survive the death of this process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from asyncdistil.batch import Digest, Lsn, RowSlice, SegmentId, StepName
from asyncdistil.clock import Clock, SystemClock
from asyncdistil.errors import (
    AsyncDistilError,
    LogError,
    StorageError,
    TransportError,
    WorkerError,
)
from asyncdistil.launch import WorkerProcess, spawn, stop
from asyncdistil.log import Store
from asyncdistil.log.events import Commit, Emit
from asyncdistil.supervisor.commands import Kill, Publish, Send, Spawn, WorkerId
from asyncdistil.supervisor.machine import GeneratorDiverged, Machine
from asyncdistil.supervisor.operator import StepOperator
from asyncdistil.supervisor.progress import Progress
from asyncdistil.transport import AsyncChannel
from asyncdistil.transport.messages import FromWorker, Load, LogLine, ToWorker

_log = logging.getLogger("asyncdistil.supervisor")
_worker_log = logging.getLogger("asyncdistil.worker")

DRAIN_SECONDS = 30.0
_STOP_GRACE_SECONDS = 2.0
_TICK_SECONDS = 0.5
_STALL_SECONDS = 120.0


@dataclass(slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        emits: One per leaf, if the run completed.
        progress: Counters per step.
        stop: Why it stopped early, or ``None``.
        diverged: Generator whose stored rows must be left out of a new try, or ``None``.
        failed_rows: Rows that failed anywhere.
        warnings: For the user.
    """

    emits: list[Emit] = field(default_factory=list)
    progress: Progress = field(default_factory=dict)
    stop: AsyncDistilError | None = None
    diverged: StepName | None = None
    failed_rows: int = 0
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Setting:
    """What workers are told about the world besides their step.

    Attributes:
        payloads: Payload of each step and router, by the name of its operator.
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
    """One running process and our end of its socket."""

    def __init__(self, command: Spawn) -> None:
        self.command = command
        self.process: WorkerProcess | None = None
        self.channel: AsyncChannel[FromWorker] | None = None
        self.unsent: list[ToWorker] = []
        self.protocol_error: TransportError | None = None
        self.segment = 0


class Shell:
    """Runs one machine to its end.

    Args:
        machine: Decides.
        store: The log, open and locked; it stays open.
        setting: For workers.
        clock: For deadlines.
        on_rows: Receives durable rows of leaves in source order.
        on_turn: Called after every turn, for progress displays.
    """

    def __init__(
        self,
        machine: Machine,
        store: Store,
        setting: Setting,
        *,
        clock: Clock | None = None,
        on_rows: Callable[[StepName, tuple[RowSlice, ...]], None] | None = None,
        on_turn: Callable[[Progress], None] | None = None,
    ) -> None:
        self._machine = machine
        self._store = store
        self._setting = setting
        self._clock: Clock = clock or SystemClock()
        self._on_rows = on_rows
        self._on_turn = on_turn
        self._workers: dict[WorkerId, _Worker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn_planned = False
        self._ended = asyncio.Event()
        self._drain_deadline: float | None = None
        self._log_broken = False
        self._diverged: StepName | None = None
        self._crash: BaseException | None = None
        self._last_event_seconds = 0.0
        self._loop = asyncio.get_running_loop()

    # --- the run -----------------------------------------------------------------------------

    async def run(self) -> Outcome:
        """Run to the end, or to a resumable stop. Every worker is gone when this returns."""
        store = self._store
        loop = self._loop

        def durable(lsn: Lsn) -> None:
            loop.call_soon_threadsafe(self._durable, lsn)

        def broken(error: LogError) -> None:
            loop.call_soon_threadsafe(self._fail_log, error)

        store.start_syncing(durable, broken)
        self._machine.durable(store.durable)
        self._machine.start_early()
        self._last_event_seconds = self._clock.monotonic()
        ticker = loop.call_later(_TICK_SECONDS, self._tick)
        try:
            self._turn()
            await self._ended.wait()
        finally:
            ticker.cancel()
            await self._end_workers()
        if self._crash is not None:
            raise self._crash
        machine = self._machine
        return Outcome(
            emits=[leaf.emitted for leaf in machine.leaves if leaf.emitted is not None],
            progress=machine.state.progress,
            stop=machine.state.stop,
            diverged=self._diverged,
            failed_rows=machine.failed_rows,
            warnings=machine.state.warnings,
        )

    def request_stop(self, reason: AsyncDistilError) -> None:
        """Stop intake, let workers finish what they hold, end. For this loop's thread only."""
        self._machine.request_stop(reason)
        self._plan_turn()

    def stop_now(self) -> None:
        """Do not wait for what workers hold."""
        self._drain_deadline = 0.0
        self._plan_turn()

    # --- turns -------------------------------------------------------------------------------

    def _plan_turn(self) -> None:
        if not self._turn_planned:
            self._turn_planned = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_planned = False
        if self._ended.is_set():
            return
        machine = self._machine
        try:
            machine.turn(self._clock.monotonic())
            self._act()
        except Exception as error:
            # A bug in the supervising code must end the run, not leave it hanging.
            self._crash = error
            self._ended.set()
            return
        if self._on_turn is not None:
            self._on_turn(machine.state.progress)
        if machine.finished or self._log_broken or self._diverged:
            self._ended.set()
        elif machine.state.stop is not None:
            self._drain()

    def _act(self) -> None:
        """Append first, then tell the workers."""
        state = self._machine.state
        events, state.events = state.events, []
        commands, state.commands = state.commands, []
        if events and not self._log_broken:
            for event in events:
                if isinstance(event, Commit):
                    for ref in event.outputs:
                        self._store.mark_dirty(ref.segment)
            try:
                self._store.append(events)
            except LogError as error:
                self._fail_log(error)
                return
        for command in commands:
            match command:
                case Send(worker=number, message=message):
                    self._send(number, message)
                case Spawn():
                    self._start(command)
                case Kill(worker=number):
                    worker = self._workers.get(number)
                    if worker and worker.process:
                        worker.process.kill()
                case Publish(leaf=leaf, slices=slices):
                    if self._on_rows is not None:
                        self._on_rows(leaf, slices)

    def _drain(self) -> None:
        state = self._machine.state
        if self._drain_deadline is None:
            state.draining = True
            self._drain_deadline = self._clock.monotonic() + DRAIN_SECONDS
        if self._machine.idle or self._clock.monotonic() >= self._drain_deadline:
            self._ended.set()

    def _durable(self, lsn: Lsn) -> None:
        self._machine.durable(lsn)
        self._plan_turn()

    def _fail_log(self, error: LogError) -> None:
        self._machine.state.fail(error)
        self._log_broken = True
        self._ended.set()

    def _tick(self) -> None:
        if self._ended.is_set():
            return
        now = self._clock.monotonic()
        self._kill_hung(now)
        if now - self._last_event_seconds > _STALL_SECONDS:
            self._last_event_seconds = now
            _log.warning("nothing has happened for %.0f s: %s", _STALL_SECONDS, self._waits())
        if self._drain_deadline is not None:
            self._plan_turn()
        self._loop.call_later(_TICK_SECONDS, self._tick)

    def _kill_hung(self, now: float) -> None:
        for operator in self._machine.operators:
            if not isinstance(operator, StepOperator):
                continue
            limit = operator.plan.batch_deadline_seconds
            for member in operator.crew.members.values() if limit else ():
                if member.jobs and now - member.busy_since_seconds > (limit or 0.0):
                    worker = self._workers.get(member.number)
                    if worker and worker.process:
                        _log.error(
                            "[%s] a batch takes longer than %.1f s: its worker is killed",
                            operator.name,
                            limit,
                        )
                        worker.process.dump_stacks()
                        self._loop.call_later(0.2, worker.process.kill)
                        member.busy_since_seconds = now + 60.0

    def _waits(self) -> str:
        parts = []
        for operator in self._machine.operators:
            if operator.done:
                continue
            held = operator.crew.in_flight()
            ready = sum(member.ready for member in operator.crew.members.values())
            parts.append(f"{operator.name}: {held} rows with {ready} workers")
        return "; ".join(parts) or "everything is done"

    # --- workers -----------------------------------------------------------------------------

    def _send(self, number: WorkerId, message: ToWorker) -> None:
        worker = self._workers.get(number)
        if worker is None:
            return
        if worker.channel is None:
            worker.unsent.append(message)
        else:
            worker.channel.send(message)

    def _start(self, command: Spawn) -> None:
        self._workers[command.worker] = _Worker(command)
        task = self._loop.create_task(self._live(command))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _live(self, command: Spawn) -> None:
        """The life of one worker, from spawn to reaping."""
        if command.delay_seconds:
            await asyncio.sleep(command.delay_seconds)
        try:
            process = await self._spawn(command)
        except (WorkerError, StorageError) as error:
            self._machine.state.fail(error)
            self._lost(command.worker, str(error))
            return
        code = await process.wait()
        worker = self._workers[command.worker]
        if worker.channel is not None:
            worker.channel.drain_and_close()
        self._lost(command.worker, _cause(code, worker.protocol_error))

    async def _spawn(self, command: Spawn) -> WorkerProcess:
        worker = self._workers[command.worker]
        lineage = self._machine.lineage_of(command.step)
        fd: int | None = None
        if command.role == "step":
            segment, fd = self._store.create_segment(lineage)
            worker.segment = segment
        number = command.worker
        process = await spawn(
            name=command.step,
            segment_fd=fd,
            env=self._setting.env or None,
            on_line=lambda line: self._log_line(command.step, line),
        )
        worker.process = process
        worker.channel = AsyncChannel(
            process.sock,
            lambda messages: self._messages(number, messages),
            lambda error: self._closed(number, error),
        )
        worker.channel.send(self._load(command, SegmentId(worker.segment)), *worker.unsent)
        worker.unsent.clear()
        return process

    def _load(self, command: Spawn, segment: SegmentId) -> Load:
        setting = self._setting
        return Load(
            role=command.role,
            step=command.step,
            payload=setting.payloads.get(command.step, b""),
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

    def _messages(self, number: WorkerId, messages: list[FromWorker]) -> None:
        self._last_event_seconds = self._clock.monotonic()
        worker = self._workers[number]
        for message in messages:
            if isinstance(message, LogLine):
                self._log_line(worker.command.step, message)
        try:
            self._machine.messages(number, messages)
        except GeneratorDiverged as diverged:
            _log.warning("%s; its stored rows are left out from now on", diverged)
            self._diverged = diverged.step
        except Exception as error:
            self._crash = error
            self._ended.set()
        self._plan_turn()

    def _log_line(self, step: StepName, line: LogLine) -> None:
        _worker_log.log(line.level, "[%s] %s", step, line.text)

    def _closed(self, number: WorkerId, error: TransportError | None) -> None:
        """A socket closed before its process ended: what can't be talked to must not live on."""
        worker = self._workers[number]
        worker.protocol_error = error
        process = worker.process
        if process is not None and process.returncode is None and not self._ended.is_set():
            # An orderly worker closes by exiting: give that a moment before killing it.
            self._loop.call_later(_STOP_GRACE_SECONDS, process.kill)

    def _lost(self, number: WorkerId, cause: str) -> None:
        if not self._ended.is_set():
            try:
                self._machine.lost(number, cause)
            except Exception as error:
                self._crash = error
                self._ended.set()
            self._plan_turn()

    async def _end_workers(self) -> None:
        """Leave no process behind, whatever happened before."""
        processes = [w.process for w in self._workers.values() if w.process is not None]
        alive = [process for process in processes if process.returncode is None]
        completed = self._machine.state.stop is None and self._crash is None
        grace = _STOP_GRACE_SECONDS if completed else 0.5
        await asyncio.gather(*(stop(process, grace) for process in alive))
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for worker in self._workers.values():
            if worker.channel is not None:
                worker.channel.close()


def _cause(code: int, protocol_error: TransportError | None) -> str:
    if protocol_error is not None:
        return str(protocol_error)
    if code >= 0:
        return f"it exited with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (often the kernel's out-of-memory killer)" if name == "SIGKILL" else ""
    return f"it was killed by {name}{hint}"


def parent_environment() -> tuple[tuple[str, ...], str]:
    """``sys.path`` and working directory, as workers must see them."""
    return tuple(os.path.abspath(part) if part else os.getcwd() for part in sys.path), os.getcwd()
