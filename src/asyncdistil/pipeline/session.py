"""One run under way: the supervisor's own thread, its loop, its log.

The supervisor never runs on the caller's thread. The caller's loop is therefore never patched nor
blocked, user code in it cannot delay the workers, and workers hang on a thread that outlives them
(the kernel's parent-death signal follows the thread that spawned).
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from asyncdistil.batch import RowSlice, RunId, StepName
from asyncdistil.errors import AsyncDistilError, DataError, Interrupted
from asyncdistil.launch import PreparedLauncher
from asyncdistil.pipeline.limits import have_room_for_a_loop, too_few_descriptors
from asyncdistil.pipeline.watch import WATCHER

if TYPE_CHECKING:
    from asyncdistil.pipeline.finished import Finished
    from asyncdistil.pipeline.planning import PreparedRun
    from asyncdistil.pipeline.supervision import Supervision
    from asyncdistil.supervisor.progress import Progress

_log = logging.getLogger("asyncdistil.pipeline")

Rows = Callable[[StepName, tuple[RowSlice, ...]], None]


class Session:
    """A run in a thread of its own.

    Args:
        prepared: What to run.
        on_rows: Receives durable leaf rows; called in the session's thread.
        on_turn: Receives the counters after every turn, in place of the context's watcher;
            called in the session's thread.

    Attributes:
        ended: Set when nothing of it goes on any more.
    """

    def __init__(
        self,
        prepared: PreparedRun,
        *,
        on_rows: Rows | None = None,
        on_turn: Callable[[Progress], None] | None = None,
    ) -> None:
        self._prepared = prepared
        self._on_rows = on_rows
        # Now, in the caller's thread: nobody else may look at the steps of the pipeline.
        self._description = _described(prepared)
        watcher = WATCHER.get()
        self._on_turn = watcher.turn if on_turn is None and watcher is not None else on_turn
        self._supervision: Supervision | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: AsyncDistilError | None = None
        self._finished: Finished | None = None
        self._error: BaseException | None = None
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="asyncdistil-supervisor")

    def start(self) -> None:
        """Start the thread."""
        _fill_standard_streams()
        self._thread.start()

    def request_stop(self, reason: AsyncDistilError) -> None:
        """Ask for an orderly, resumable end. Safe from any thread and from signal handlers."""
        self._stop = self._stop or reason
        self._call_in_thread(self._pass_stop_on)

    def stop_now(self) -> None:
        """Do not wait for work in hand."""
        self._call_in_thread(self._pass_stop_now_on)

    @property
    def run(self) -> RunId | None:
        """Id of the run, once it stands in the log."""
        return None if self._supervision is None else self._supervision.run

    def _call_in_thread(self, act: Callable[[], None]) -> None:
        loop = self._loop
        if loop is not None and not self.ended.is_set():
            # It says so if it was closed since: then nothing goes on that could be stopped.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(act)

    def _pass_stop_on(self) -> None:
        if self._supervision is not None and self._stop is not None:
            self._supervision.request_stop(self._stop)

    def _pass_stop_now_on(self) -> None:
        if self._supervision is not None:
            self._supervision.stop_now()

    def result(self) -> Finished:
        """What the run left behind, once it has ended.

        Raises:
            AsyncDistilError: Why it ended early.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._finished is not None
        return self._finished

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                self._loop = runner.get_loop()
                self._finished = runner.run(self._main())
        except BaseException as error:
            self._error = (
                too_few_descriptors(error) or too_few_descriptors(error.__cause__) or error
            )
        finally:
            self.ended.set()

    async def _main(self) -> Finished:
        # First of all, because its imports take longer than everything up to the first spawn.
        launcher = await PreparedLauncher.start(self._prepared.preloaded)
        try:
            from asyncdistil.pipeline.supervision import Supervision

            self._supervision = supervision = Supervision(
                self._prepared, launcher, self._description, self._on_rows, self._on_turn
            )
            self._pass_stop_on()
            return await supervision.supervise()
        finally:
            await launcher.close()


def _described(prepared: PreparedRun) -> Mapping[str, Any] | None:
    """The pipeline as plain data; ``None`` if it has values that no file can hold."""
    try:
        return prepared.description()
    except DataError as error:
        _log.debug("no pipeline.yaml is kept: %s", error)
        return None


def _fill_standard_streams() -> None:
    """Put ``/dev/null`` where a standard stream is closed, as in a daemon.

    Else our next file or socket gets the number of that stream: print() would write into it, a
    worker's output would take its place, and the event loop aborts the process over it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Makes the loop of a session.

    Raises:
        OSError: There are too few descriptors to make one.
    """
    if sys.platform == "win32":
        return None
    import uvloop

    have_room_for_a_loop()
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def interrupted(how: str) -> Interrupted:
    """The error of a run that was asked to stop."""
    return Interrupted(
        f"the run was stopped by {how}. Every finished batch is kept: run it again and it goes on "
        "from there."
    )
