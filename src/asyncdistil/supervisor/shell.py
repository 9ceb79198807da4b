"""The thin shell around the machine: the loop, the log, the clock.

One turn: every message that arrived is given to the machine, the machine moves, its events are
appended to the log in one write, and only then its commands are carried out. So whatever a worker
is told to do stands on records that survive the death of this process.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from asyncdistil.batch import Lsn, RowSlice, StepName
from asyncdistil.clock import Clock, SystemClock
from asyncdistil.errors import AsyncDistilError, LogError, RunStopped, said_by
from asyncdistil.log import Store
from asyncdistil.log.events import Emit
from asyncdistil.supervisor.commands import Kill, Publish, Send, Spawn, WorkerId
from asyncdistil.supervisor.in_flight import InFlight
from asyncdistil.supervisor.machine import GeneratorDiverged, Machine
from asyncdistil.supervisor.operator import StepOperator
from asyncdistil.supervisor.progress import Progress
from asyncdistil.supervisor.workforce import Launcher, Setting, Workforce, log_line
from asyncdistil.transport.messages import FromWorker, LogLine

_log = logging.getLogger("asyncdistil.supervisor")

DRAIN_SECONDS = 30.0
"""How long a stopping run waits for what its workers hold."""

_GRACE_SECONDS = 2.0
_STOPPED_GRACE_SECONDS = 0.5
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


class Shell:
    """Runs one machine to its end.

    Args:
        machine: Decides.
        store: The log, open and locked; it stays open.
        launcher: Starts processes.
        setting: For workers.
        in_flight: Told the rows that workers hold, each turn; it stays open.
        clock: For deadlines.
        on_rows: Receives durable rows of leaves in source order.
        on_turn: Called after every turn, for progress displays.
    """

    def __init__(
        self,
        machine: Machine,
        store: Store,
        launcher: Launcher,
        setting: Setting,
        *,
        in_flight: InFlight | None = None,
        clock: Clock | None = None,
        on_rows: Callable[[StepName, tuple[RowSlice, ...]], None] | None = None,
        on_turn: Callable[[Progress], None] | None = None,
    ) -> None:
        self._machine = machine
        self._store = store
        self._in_flight = in_flight
        self._clock: Clock = clock or SystemClock()
        self._on_rows = on_rows
        self._on_turn = on_turn
        self._turn_planned = False
        self._tickets = 0
        self._undurable: deque[tuple[int, int]] = deque()
        self._ended = asyncio.Event()
        self._drain_deadline: float | None = None
        self._log_broken = False
        self._diverged: StepName | None = None
        self._broken_display: Exception | None = None
        self._last_event_seconds = 0.0
        self._last_tick_seconds = 0.0
        self._loop = asyncio.get_running_loop()
        self._workers = Workforce(
            launcher,
            store,
            setting,
            lineage_of=machine.lineage_of,
            on_messages=self._messages,
            on_lost=self._lost,
            on_error=self._fail,
            on_crash=self._crashed,
        )

    # --- the run -----------------------------------------------------------------------------

    async def run(self) -> Outcome:
        """Run to the end, or to a resumable stop. Every worker is gone when this returns.

        Raises:
            Exception: What ``on_turn`` raised.
        """
        store, loop, machine = self._store, self._loop, self._machine

        def durable(lsn: Lsn) -> None:
            loop.call_soon_threadsafe(self._durable, lsn)

        def broken(error: LogError) -> None:
            loop.call_soon_threadsafe(self._fail_log, error)

        loop.set_exception_handler(self._unhandled)
        store.start_syncing(durable, broken)
        machine.start_early()
        self._last_event_seconds = self._last_tick_seconds = self._clock.monotonic()
        self._loop.call_later(_TICK_SECONDS, self._tick)
        try:
            self._turn()
            await self._ended.wait()
        finally:
            self._ended.set()
            completed = machine.state.stop is None and self._broken_display is None
            await self._workers.end(_GRACE_SECONDS if completed else _STOPPED_GRACE_SECONDS)
            loop.set_exception_handler(None)
        if self._broken_display is not None:
            raise self._broken_display
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
            self._crashed(error)
            return
        try:
            if self._on_turn is not None:
                self._on_turn(machine.state.progress)
        except Exception as error:
            self._broken_display = error
            self._ended.set()
            return
        if machine.finished or self._log_broken or self._diverged:
            self._ended.set()
        elif machine.state.stop is not None:
            self._drain()
        elif self._undurable and machine.idle:
            # What goes on now, goes on once these rows are durable.
            self._store.hurry()

    def _act(self) -> None:
        """Append first, then tell the workers."""
        state = self._machine.state
        events, state.events = state.events, []
        commands, state.commands = state.commands, []
        if events and not self._log_broken:
            try:
                lsns = self._store.append(events)
            except LogError as error:
                self._fail_log(error)
                return
            self._tickets += len(events)
            self._undurable.append((lsns.stop - 1, self._tickets))
        if self._in_flight is not None:
            self._in_flight.note(self._machine.in_flight())
        for command in commands:
            match command:
                case Send(worker=number, message=message):
                    self._workers.send(number, message)
                case Spawn():
                    self._workers.start(command)
                case Kill(worker=number):
                    self._workers.kill(number)
                case Publish(leaf=leaf, slices=slices):
                    if self._on_rows is not None:
                        self._on_rows(leaf, slices)

    def _drain(self) -> None:
        now = self._clock.monotonic()
        if self._drain_deadline is None:
            self._machine.state.draining = True
            self._drain_deadline = now + DRAIN_SECONDS
        if self._machine.drained or now >= self._drain_deadline:
            self._ended.set()

    # --- what happens ------------------------------------------------------------------------

    def _messages(self, number: WorkerId, messages: list[FromWorker]) -> None:
        self._last_event_seconds = self._clock.monotonic()
        for message in messages:
            if isinstance(message, LogLine):
                log_line(self._machine.name_of(number), message)
        if self._ended.is_set():
            # Of workers that are being ended. Nothing is appended any more, and whatever one of
            # them says of its own end must not make a finished run an unfinished one.
            return
        try:
            self._machine.messages(number, messages, self._last_event_seconds)
        except GeneratorDiverged as diverged:
            _log.warning("%s; its stored rows are left out from now on", diverged)
            self._diverged = diverged.step
        except Exception as error:
            self._crashed(error)
        self._plan_turn()

    def _lost(self, number: WorkerId, cause: str) -> None:
        try:
            self._machine.lost(number, cause)
        except Exception as error:
            self._crashed(error)
        self._plan_turn()

    def _durable(self, lsn: Lsn) -> None:
        ticket = 0
        while self._undurable and self._undurable[0][0] <= lsn:
            ticket = self._undurable.popleft()[1]
        if ticket:
            self._machine.durable(ticket)
            self._plan_turn()

    def _fail(self, error: AsyncDistilError) -> None:
        self._machine.state.fail(error)
        self._plan_turn()

    def _fail_log(self, error: LogError) -> None:
        self._machine.state.fail(error)
        self._log_broken = True
        self._ended.set()

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Take what a callback raised: what it left undone, nobody would ever do."""
        error = context.get("exception")
        if "handle" in context and error is not None:
            self._crashed(error)
        else:
            loop.default_exception_handler(context)

    def _crashed(self, error: BaseException) -> None:
        """End a run in which a fault of ours, or a log handler of the caller, was met."""
        if self._ended.is_set():
            # How it ends is settled: what was computed must not be called unfinished over this.
            _log.error("while the run ended: %s", said_by(error), exc_info=error)
            return
        if not isinstance(error, AsyncDistilError):
            text = f"{type(error).__name__}: {said_by(error)}"
            stop = RunStopped(
                f"the run met an error that nobody expected ({text}). Every finished batch is "
                "kept: run it again and it goes on from there; if it stops so again, report it."
            )
            stop.__cause__ = error
            error = stop
        self._machine.state.fail(error)
        self._ended.set()

    # --- time --------------------------------------------------------------------------------

    def _tick(self) -> None:
        if self._ended.is_set():
            return
        now = self._clock.monotonic()
        self._forgive(now - self._last_tick_seconds, now)
        self._last_tick_seconds = now
        self._kill_hung(now)
        self._machine.count_waiting()
        if now - self._last_event_seconds > _STALL_SECONDS:
            self._last_event_seconds = now
            _log.warning("nothing has happened for %.0f s: %s", _STALL_SECONDS, self._waits())
        if self._drain_deadline is not None:
            self._plan_turn()
        self._loop.call_later(_TICK_SECONDS, self._tick)

    def _forgive(self, away_seconds: float, now: float) -> None:
        """Put deadlines off by the time in which we did not run.

        A laptop was closed, or all processes were stopped: who is late then has not hung.
        """
        if away_seconds < 2 * _TICK_SECONDS:
            return
        self._last_event_seconds = min(self._last_event_seconds + away_seconds, now)
        if self._drain_deadline:
            self._drain_deadline += away_seconds
        for operator in self._machine.operators:
            for member in operator.crew.members.values():
                since = member.busy_since_seconds
                member.busy_since_seconds = max(since, min(since + away_seconds, now))

    def _kill_hung(self, now: float) -> None:
        for operator in self._machine.operators:
            limit = isinstance(operator, StepOperator) and operator.plan.batch_deadline_seconds
            if not limit:
                continue
            for member in operator.crew.members.values():
                if member.jobs and now - member.busy_since_seconds > limit:
                    _log.error(
                        "[%s] a batch takes longer than %.1f s: its worker is killed",
                        operator.name,
                        limit,
                    )
                    because = f"a batch took longer than batch_deadline_seconds={limit:g}"
                    self._workers.kill(member.number, because=because, dump=True)
                    # Once: its end comes as a loss of its own.
                    member.busy_since_seconds = float("inf")

    def _waits(self) -> str:
        parts = []
        for operator in self._machine.operators:
            if not operator.done:
                held = operator.crew.in_flight()
                ready = sum(member.ready for member in operator.crew.members.values())
                parts.append(f"{operator.name}: {held} rows with {ready} workers")
        return "; ".join(parts) or "everything is done"
