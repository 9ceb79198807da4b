"""`Pipeline.astream`: the rows of a run while it runs."""

from __future__ import annotations

import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import closing
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from asyncdistil.batch import Row, RowSlice, StepName
from asyncdistil.distiset import Distiset
from asyncdistil.log import SegmentReader, StoreReader
from asyncdistil.pipeline.limits import limits_named
from asyncdistil.pipeline.options import RunOptions
from asyncdistil.pipeline.outcome import to_distiset
from asyncdistil.pipeline.partial import partial
from asyncdistil.pipeline.planning import PreparedRun
from asyncdistil.pipeline.run import prepare
from asyncdistil.pipeline.session import Session, interrupted
from asyncdistil.supervisor.stored_run import UnknownRun

if TYPE_CHECKING:
    from asyncdistil.pipeline.pipeline import Pipeline


_ABANDONED = "the end of the stream's reader"


class StreamedBatch(list[Row]):
    """Durable rows of one leaf, in source order.

    Attributes:
        step: Name of the leaf.
    """

    def __init__(self, step: StepName, rows: list[Row]) -> None:
        super().__init__(rows)
        self.step = step


class Stream:
    """The rows of a run while it runs. Iterate over it; ``aclose()`` stops the run, resumable.

    So does whatever fails in it, the end of the last reference to it, and the end of the loop in
    which it was read. One that was left by ``break`` and is still referred to may be read on.
    """

    def __init__(self, pipeline: Pipeline, options: RunOptions) -> None:
        self._pipeline = pipeline
        self._options = options
        self._arrived: queue.SimpleQueue[tuple[StepName, tuple[RowSlice, ...]] | None] = (
            queue.SimpleQueue()
        )
        self._session: Session | None = None
        self._guard: AsyncGenerator[None] | None = None
        self._reader: SegmentReader | None = None
        self._prepared: PreparedRun | None = None
        self._over = False
        self.distiset: Distiset | None = None

    def __aiter__(self) -> AsyncIterator[StreamedBatch]:
        return self

    async def __anext__(self) -> StreamedBatch:
        if self._over:
            raise StopAsyncIteration
        try:
            with limits_named():
                return await self._next()
        except GeneratorExit:
            self._request_stop()  # no loop is left to wait in
            raise
        except BaseException:
            # Also a cancellation: nobody may pay for rows that nobody reads.
            await self.aclose()
            raise

    def __del__(self) -> None:
        # Where a loop runs, it closes the guard next, which waits for the end.
        self._request_stop()
        self._close_reader()

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
        if self._session is not None:
            await _ended(self._session)
        if self._guard is not None:
            await self._guard.aclose()
        self._close_reader()

    def _request_stop(self) -> None:
        if self._session is not None and not self._session.ended.is_set():
            self._session.request_stop(interrupted(_ABANDONED))

    async def _next(self) -> StreamedBatch:
        session = await self._started()
        item = await anyio.to_thread.run_sync(self._arrived.get, abandon_on_cancel=True)
        if item is None:
            assert self._prepared is not None
            self.distiset = to_distiset(self._prepared, session.result())
            raise StopAsyncIteration
        step, slices = item
        return StreamedBatch(step, await anyio.to_thread.run_sync(self._read, slices))

    async def _started(self) -> Session:
        if self._session is None:
            self._prepared = prepare(self._pipeline, self._options)
            arrived = self._arrived

            def publish(step: StepName, slices: tuple[RowSlice, ...]) -> None:
                arrived.put((step, slices))

            session = Session(self._prepared, on_rows=publish)
            session.start()
            self._session = session

            def close() -> None:
                session.ended.wait()
                arrived.put(None)

            threading.Thread(target=close, daemon=True).start()
            self._guard = _guard(session)
            await anext(self._guard)
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


async def _guard(session: Session) -> AsyncGenerator[None]:
    """Stop a session when this generator is closed.

    A loop closes generators that nobody refers to any more, and all that are left at its own end.
    """
    try:
        yield
    finally:
        await _ended(session)


async def _ended(session: Session) -> None:
    """Stop a session in order if it still goes on, and wait for its end."""
    if not session.ended.is_set():
        session.request_stop(interrupted(_ABANDONED))
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(session.ended.wait)
