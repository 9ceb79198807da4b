"""`Pipeline.run`, `arun` and `astream`: three ways to wait for one session."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from asyncdistil.batch import Row, RowSlice, StepName
from asyncdistil.distiset import Distiset
from asyncdistil.errors import Interrupted
from asyncdistil.log import SegmentReader, StoreReader
from asyncdistil.pipeline.options import RunOptions
from asyncdistil.pipeline.outcome import to_distiset
from asyncdistil.pipeline.partial import partial
from asyncdistil.pipeline.planning import PreparedRun, build_plan
from asyncdistil.pipeline.retry import PreparedRetry, Wish, prepare_retry, retried_dataset
from asyncdistil.pipeline.session import Finished, Session, complete_hit, interrupted
from asyncdistil.pipeline.watch import WATCHER
from asyncdistil.supervisor.stored_run import UnknownRun

if TYPE_CHECKING:
    from asyncdistil.pipeline.pipeline import Pipeline

_log = logging.getLogger("asyncdistil.pipeline")
_WAIT_SECONDS = 0.2
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


def prepare(pipeline: Pipeline, options: RunOptions) -> PreparedRun:
    """Check the pipeline and name everything in it; nothing is started or written.

    Raises:
        UserError: Something must change before it can run.
    """
    watcher = WATCHER.get()
    if watcher is not None:
        options = watcher.options(pipeline, options)
    prepared = build_plan(pipeline, options)
    _tell(prepared)
    return prepared


def _tell(prepared: PreparedRun) -> None:
    for warning in prepared.warnings:
        _log.warning("%s", warning)
    watcher = WATCHER.get()
    if watcher is not None:
        watcher.started(prepared)


def run(pipeline: Pipeline, options: RunOptions) -> Distiset:
    """Run and wait. Ctrl-C once stops in order, twice at once, three times without a word.

    Raises:
        UserError: Something must change before it can run; nothing was started.
        RunStopped: The run ended early and can be taken up again.
        LogError: The log cannot keep its promise.
        KeyboardInterrupt: Ctrl-C; its text says how to go on.
        SystemExit: SIGTERM or SIGHUP.
    """
    prepared = prepare(pipeline, options)
    return _waited(prepared, complete_hit(prepared))


def retry(pipeline: Pipeline, options: RunOptions, wish: Wish) -> Distiset:
    """Ask rows of a stored run anew, and wait; signals are those of `run`.

    Raises:
        UserError: The run can't be mended so; nothing was started.
        RunStopped: As for `run`; the same retry goes on from there.
        LogError: The log cannot keep its promise.
    """
    prepared = _prepared_retry(pipeline, options, wish)
    return _waited(prepared, retried_dataset(prepared))


def _prepared_retry(pipeline: Pipeline, options: RunOptions, wish: Wish) -> PreparedRetry:
    prepared = prepare_retry(pipeline, options, wish)
    _tell(prepared)
    for step, rows in prepared.rows.items():
        _log.info("[%s] %d rows are asked anew", step, rows)
    return prepared


def _waited(prepared: PreparedRun, hit: Finished | None) -> Distiset:
    if hit is not None:
        return to_distiset(prepared, hit)
    session = Session(prepared)
    # Signals first: an interrupt between the two would leave a run that nobody waits for.
    with _signals(session) as signals:
        session.start()
        while not session.ended.is_set():
            try:
                # A bounded wait: a signal handler of Python runs between two of them.
                session.ended.wait(_WAIT_SECONDS)
            except KeyboardInterrupt:
                # Someone else's handler raised it, as Jupyter's does.
                signals.append(signal.SIGINT)
                session.request_stop(interrupted("Ctrl-C"))
    try:
        return to_distiset(prepared, session.result())
    except Interrupted as stopped:
        # End as any interrupted program does: with status 130, or 128 + the signal's number.
        if signals and signals[0] == signal.SIGINT:
            raise KeyboardInterrupt(str(stopped)) from None
        if signals:
            _log.error("%s", stopped)
            raise SystemExit(128 + signals[0]) from stopped
        raise


async def arun(pipeline: Pipeline, options: RunOptions) -> Distiset:
    """Run without blocking the caller's loop, asyncio's or trio's.

    Raises:
        UserError: Something must change before it can run; nothing was started.
        RunStopped: The run ended early and can be taken up again.
        LogError: The log cannot keep its promise.
    """
    prepared = prepare(pipeline, options)
    return await _awaited(prepared, complete_hit(prepared))


async def aretry(pipeline: Pipeline, options: RunOptions, wish: Wish) -> Distiset:
    """Ask rows of a stored run anew without blocking the caller's loop.

    Raises:
        UserError: The run can't be mended so; nothing was started.
        RunStopped: As for `run`; the same retry goes on from there.
        LogError: The log cannot keep its promise.
    """
    prepared = _prepared_retry(pipeline, options, wish)
    return await _awaited(prepared, retried_dataset(prepared))


async def _awaited(prepared: PreparedRun, hit: Finished | None) -> Distiset:
    if hit is not None:
        return to_distiset(prepared, hit)
    session = Session(prepared)
    session.start()
    await _ended(session)
    return to_distiset(prepared, session.result())


async def _ended(session: Session) -> None:
    """Wait for a session; when cancelled, have it stop in order and wait for that."""
    try:
        await anyio.to_thread.run_sync(session.ended.wait, abandon_on_cancel=True)
    except BaseException:
        session.request_stop(interrupted("cancellation"))
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(session.ended.wait)
        raise


class StreamedBatch(list[Row]):
    """Durable rows of one leaf, in source order.

    Attributes:
        step: Name of the leaf.
    """

    def __init__(self, step: StepName, rows: list[Row]) -> None:
        super().__init__(rows)
        self.step = step


class Stream:
    """The rows of a run while it runs. Iterate over it; ``aclose()`` stops the run, resumable."""

    def __init__(self, pipeline: Pipeline, options: RunOptions) -> None:
        self._pipeline = pipeline
        self._options = options
        self._arrived: queue.SimpleQueue[tuple[StepName, tuple[RowSlice, ...]] | None] = (
            queue.SimpleQueue()
        )
        self._session: Session | None = None
        self._reader: SegmentReader | None = None
        self._prepared: PreparedRun | None = None
        self._over = False
        self.distiset: Distiset | None = None

    def __aiter__(self) -> AsyncIterator[StreamedBatch]:
        return self

    async def __anext__(self) -> StreamedBatch:
        if self._over:
            raise StopAsyncIteration
        session = self._started()
        try:
            item = await anyio.to_thread.run_sync(self._arrived.get, abandon_on_cancel=True)
        except BaseException:
            await self.aclose()
            raise
        if item is None:
            self._over = True
            self._close_reader()
            assert self._prepared is not None
            self.distiset = to_distiset(self._prepared, session.result())
            raise StopAsyncIteration
        step, slices = item
        return StreamedBatch(step, await anyio.to_thread.run_sync(self._read, slices))

    def partial(self) -> Distiset:
        """The dataset as far as the run has come; from any thread, without holding it up.

        Raises:
            UnknownRun: The run has not begun: ask for its first row before.
        """
        run = None if self._session is None else self._session.run
        if run is None:
            raise UnknownRun("the run has not begun: it begins with the first row asked for")
        return partial(self._pipeline, run)

    async def aclose(self) -> None:
        """Stop the run in order if it still goes on, and wait for its end."""
        self._over = True
        session = self._session
        if session is not None and not session.ended.is_set():
            session.request_stop(interrupted("the end of the stream's reader"))
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(session.ended.wait)
        self._close_reader()

    def _started(self) -> Session:
        if self._session is None:
            self._prepared = prepare(self._pipeline, self._options)
            arrived = self._arrived

            def publish(step: StepName, slices: tuple[RowSlice, ...]) -> None:
                arrived.put((step, slices))

            session = Session(self._prepared, on_rows=publish)
            self._session = session
            session.start()

            def close() -> None:
                session.ended.wait()
                arrived.put(None)

            threading.Thread(target=close, daemon=True).start()
        return self._session

    def _read(self, slices: tuple[RowSlice, ...]) -> list[Row]:
        if self._reader is None:
            assert self._prepared is not None
            store = StoreReader.open(self._prepared.cache_dir, self._prepared.name)
            assert store is not None, "rows were published, so the store exists"
            with closing(store):
                self._reader = store.reader()
        return [row for part in slices for row in self._reader.rows(part)]

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def astream(pipeline: Pipeline, options: RunOptions) -> Stream:
    """Start a stream; the run begins with the first row asked for."""
    return Stream(pipeline, options)


@contextmanager
def _signals(session: Session) -> Iterator[list[int]]:
    """Stop in order on the usual signals, if the main thread waits and no loop owns it.

    Yields:
        The signals that came, in order.
    """
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread() or _inside_loop():
        yield seen
        return

    def stop(number: int, _frame: FrameType | None) -> None:
        seen.append(number)
        name = signal.Signals(number).name
        if len(seen) == 1:
            _log.warning("%s: finishing what workers hold; once more to stop at once", name)
            session.request_stop(interrupted("Ctrl-C" if name == "SIGINT" else name))
        elif len(seen) == 2:
            _log.warning("%s: stopping at once; once more to leave without a word", name)
            session.stop_now()
        else:
            os._exit(128 + number)

    previous = {}
    for name in _SIGNALS:
        number = getattr(signal, name, None)
        if number is not None:
            previous[number] = signal.signal(number, stop)
    try:
        yield seen
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _inside_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
