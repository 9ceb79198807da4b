"""`Pipeline.astream`: the rows of a run while it runs."""

from __future__ import annotations

import queue
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from asyncdistil.batch import Row, RowSlice, StepName
from asyncdistil.distiset import Distiset
from asyncdistil.log import SegmentReader, StoreReader
from asyncdistil.pipeline.options import RunOptions
from asyncdistil.pipeline.outcome import to_distiset
from asyncdistil.pipeline.partial import partial
from asyncdistil.pipeline.planning import PreparedRun
from asyncdistil.pipeline.run import prepare
from asyncdistil.pipeline.session import Session, interrupted
from asyncdistil.supervisor.stored_run import UnknownRun

if TYPE_CHECKING:
    from asyncdistil.pipeline.pipeline import Pipeline


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
