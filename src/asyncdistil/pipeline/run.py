"""`Pipeline.run` and `arun`: two ways to wait for one session."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from asyncdistil.distiset import Distiset
from asyncdistil.errors import Interrupted
from asyncdistil.pipeline.finished import Finished, complete_hit
from asyncdistil.pipeline.options import RunOptions
from asyncdistil.pipeline.outcome import to_distiset
from asyncdistil.pipeline.planning import PreparedRun, build_plan
from asyncdistil.pipeline.session import Session, interrupted
from asyncdistil.pipeline.watch import WATCHER

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
    tell(prepared)
    return prepared


def tell(prepared: PreparedRun) -> None:
    """Give the warnings of a run that begins, and let the watcher know of it."""
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
    return waited(prepared, complete_hit(prepared))


def waited(prepared: PreparedRun, hit: Finished | None) -> Distiset:
    """Run, unless there is a stored dataset, and wait for the end, signals included."""
    if hit is not None:
        return to_distiset(prepared, hit)
    session = Session(prepared)
    # Signals first: an interrupt between the two would leave a run that nobody waits for.
    with _signals(session) as signals:
        session.start()
        _wait(session, signals)
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


def _wait(session: Session, signals: list[int]) -> None:
    """Wait for the end of a session, whatever handlers of the caller raise meanwhile.

    Jupyter's raises KeyboardInterrupt, which is noted in ``signals``; that of an alarm may raise
    anything. The first has the run stop in order, the next one at once.

    Raises:
        BaseException: What a handler raised first, but for KeyboardInterrupt; the run has ended.
    """
    raised: list[BaseException] = []
    heeded = 0
    while not session.ended.is_set():
        try:
            if len(raised) > heeded:
                heeded = len(raised)
                _heed(raised, session)
            # A bounded wait: a signal handler of Python runs between two of them.
            session.ended.wait(_WAIT_SECONDS)
        except BaseException as error:
            raised.append(error)
            if isinstance(error, KeyboardInterrupt):
                signals.append(signal.SIGINT)
    for first in raised:
        if not isinstance(first, KeyboardInterrupt):
            raise first


def _heed(raised: list[BaseException], session: Session) -> None:
    first = raised[0]
    how = "Ctrl-C" if isinstance(first, KeyboardInterrupt) else type(first).__name__
    session.request_stop(interrupted(how))
    if len(raised) == 1:
        _log.warning("%s: finishing what workers hold; once more to stop at once", how)
    else:
        session.stop_now()
        _log.warning("%s: stopping at once", how)


async def arun(pipeline: Pipeline, options: RunOptions) -> Distiset:
    """Run without blocking the caller's loop, asyncio's or trio's.

    Raises:
        UserError: Something must change before it can run; nothing was started.
        RunStopped: The run ended early and can be taken up again.
        LogError: The log cannot keep its promise.
    """
    prepared = prepare(pipeline, options)
    return await awaited(prepared, complete_hit(prepared))


async def awaited(prepared: PreparedRun, hit: Finished | None) -> Distiset:
    """As `waited`, in the caller's loop."""
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
        if number is None or (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):
            continue  # as nohup has it: the run is to outlive its terminal
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
