"""Run rows of many leases at once, on one event loop or on a pool of threads.

A row that takes long holds nothing else back: rows that are done are reported even while others of
their lease are not.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from asyncdistil.batch import Row
from asyncdistil.errors import StepError
from asyncdistil.transport.brokers import LEDGER, Ledger
from asyncdistil.transport.messages import Finish, Lease, Survived
from asyncdistil.transport.window import HELD_PER_SLOT
from asyncdistil.worker.bench import Bench
from asyncdistil.worker.ending import exit_status, leave, unload_failed
from asyncdistil.worker.isolate import FATAL

if TYPE_CHECKING:
    from asyncdistil.steps import Entry

PATIENCE_SECONDS = 0.25
"""How long a finished row waits for the rest of its lease before it is reported apart."""
_OPEN, _DONE, _REPORTED = range(3)


@dataclass(slots=True, eq=False)
class _Lease:
    """A lease whose rows are under way."""

    lease: Lease
    ports: list[list[Row]]
    state: bytearray
    entries: list[Any]
    ledgers: list[Ledger | None]
    left: int
    began: float
    done_since: float | None = None
    trouble: BaseException | None = field(default=None)


class RowExecutor:
    """Keeps up to ``step.concurrency`` rows in flight."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._asynchronous = bool(bench.step.asynchronous)
        self._concurrency = max(1, bench.step.concurrency)
        self._pool: ThreadPoolExecutor | None = None
        self._queue: deque[tuple[_Lease, int]] = deque()
        self._leases: dict[int, _Lease] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._unreported = 0
        self._finishing = False
        self._sweep_planned = False
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Future[None]

    def serve(self) -> None:
        """Work until `Finish`, then unload the step on the loop that it worked on."""
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.create_future()
        mailbox = self._bench.mailbox
        mailbox.on_unsent = self._stop
        fd = mailbox.channel.fileno()
        if not self._asynchronous:
            self._pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix="asyncdistil-row")
        self._loop.add_reader(fd, self._readable)
        self._readable()
        try:
            await self._end
        finally:
            self._loop.remove_reader(fd)
            for task in self._tasks:
                task.cancel()
        mailbox.flush()
        if self._pool is not None:
            self._pool.shutdown()
        await unload(self._bench.step)

    # --- taking work --------------------------------------------------------------------------

    def _readable(self) -> None:
        try:
            for message in self._bench.mailbox.poll():
                if isinstance(message, Lease):
                    self._accept(message)
                elif isinstance(message, Finish):
                    self._finishing = True
            self._fill()
        except Exception as error:
            self._stop(error)

    def _accept(self, lease: Lease) -> None:
        ports = self._bench.ports(lease)
        if self._asynchronous and len(ports) != 1:
            raise StepError(
                f"step {self._bench.name!r} has an `aprocess`, which takes one row, and is fed by "
                f"{len(ports)} steps: override `process(self, *inputs)` instead"
            )
        count = len(ports[0])
        entry = _Lease(
            lease,
            ports,
            bytearray(count),
            [None] * count,
            [None] * count,
            count,
            self._loop.time(),
        )
        for position, failed in self._bench.condemned(lease).items():
            entry.entries[position] = failed
            entry.state[position] = _DONE
            entry.left -= 1
            self._unreported += 1
        self._leases[lease.id] = entry
        self._queue.extend((entry, n) for n in range(count) if entry.state[n] == _OPEN)
        if not entry.left:
            self._complete(entry)

    def _fill(self) -> None:
        while self._queue and len(self._tasks) < self._concurrency:
            entry, position = self._queue.popleft()
            task = self._loop.create_task(self._row(entry, position))
            self._tasks.add(task)
            task.add_done_callback(self._task_done)
        free = self._concurrency - len(self._tasks)
        if free > 0 and self._unreported + len(self._tasks) >= HELD_PER_SLOT * self._concurrency:
            # We get no more rows because those that are done count as held until we report them.
            self._report_done_before(self._loop.time())
        if self._finishing and not self._leases and not self._end.done():
            self._end.set_result(None)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._stop(error)
        elif not self._end.done():
            self._fill()

    def _stop(self, error: BaseException) -> None:
        if not self._end.done():
            self._end.set_exception(error)

    # --- one row ------------------------------------------------------------------------------

    async def _row(self, entry: _Lease, position: int) -> None:
        lease = entry.lease
        ledger = Ledger(lease.id)
        LEDGER.set(ledger)
        rows = [port[position] for port in entry.ports]
        made: Entry
        try:
            if self._asynchronous:
                made = await self._bench.caller.aapply(rows[0])
            else:
                context = contextvars.copy_context()
                made = await self._loop.run_in_executor(
                    self._pool, context.run, self._apply_one, rows
                )
        except FATAL:
            raise
        except SystemExit as error:
            # Unwinding a loop or a thread would take the exit for an error.
            leave(exit_status(error))
        except BaseException as error:
            if self._end.done():
                raise
            entry.trouble = error
            made = self._bench.failed_by(lease, position, error)
        entry.entries[position] = made
        entry.ledgers[position] = ledger
        self._row_done(entry, position)

    def _apply_one(self, rows: list[Row]) -> Entry:
        made: list[Entry] = []
        for entries in self._bench.caller.apply(*([row] for row in rows)):
            made += entries
        return made[0]

    def _row_done(self, entry: _Lease, position: int) -> None:
        entry.state[position] = _DONE
        entry.left -= 1
        self._unreported += 1
        if not entry.left:
            self._complete(entry)
        elif entry.done_since is None:
            entry.done_since = self._loop.time()
            self._plan_sweep(PATIENCE_SECONDS)

    # --- reporting ----------------------------------------------------------------------------

    def _complete(self, entry: _Lease) -> None:
        del self._leases[entry.lease.id]
        if not entry.lease.probe:
            self._report(entry)
            return
        self._unreported -= len(entry.state)
        if entry.trouble is None:
            self._bench.mailbox.post(Survived(entry.lease.id))
        else:
            failure = self._bench.scrubber.describe(entry.trouble, attempts=entry.lease.attempt)
            self._bench.mailbox.post(Survived(entry.lease.id, failure))

    def _report(self, entry: _Lease) -> None:
        """Report every run of rows that are done and not reported."""
        entry.done_since = None
        state, count = entry.state, len(entry.state)
        seconds = self._loop.time() - entry.began
        start = state.find(_DONE)
        if start < 0 and not count:
            self._bench.mailbox.post(
                self._bench.record_entries(entry.lease, 0, [], Ledger(), seconds)
            )
        while start >= 0:
            stop = start
            while stop < count and state[stop] == _DONE:
                stop += 1
            ledger = Ledger()
            for row, each in enumerate(entry.ledgers[start:stop]):
                if each is not None:
                    ledger.merge(each, row=row)
            made = entry.entries[start:stop]
            self._bench.mailbox.post(
                self._bench.record_entries(entry.lease, start, made, ledger, seconds)
            )
            # They are on disk now; a straggler must not keep them in memory.
            blank: list[Any] = [None] * (stop - start)
            entry.entries[start:stop] = entry.ledgers[start:stop] = blank
            for port in entry.ports:
                port[start:stop] = blank
            state[start:stop] = bytes([_REPORTED]) * (stop - start)
            self._unreported -= stop - start
            start = state.find(_DONE, stop)

    def _plan_sweep(self, seconds: float) -> None:
        if not self._sweep_planned:
            self._sweep_planned = True
            self._loop.call_later(seconds, self._sweep)

    def _sweep(self) -> None:
        """Report what has waited long enough."""
        self._sweep_planned = False
        now = self._loop.time()
        self._report_done_before(now - PATIENCE_SECONDS * 0.9)
        waiting = [entry.done_since for entry in self._leases.values() if entry.done_since]
        if waiting:
            self._plan_sweep(max(0.0, min(waiting) + PATIENCE_SECONDS - now))

    def _report_done_before(self, moment: float) -> None:
        """Report rows of leases whose first unreported one was done by then."""
        try:
            for entry in self._leases.values():
                since = entry.done_since
                if since is not None and since <= moment and not entry.lease.probe:
                    self._report(entry)
        except Exception as error:
            self._stop(error)


async def unload(step: Any) -> None:
    """Unload a step on the running loop; one that is asynchronous is awaited."""
    try:
        made = step.unload()
        if inspect.isawaitable(made):
            await made
    except Exception as error:
        unload_failed(error)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
