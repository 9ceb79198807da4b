"""One event loop for callers that have none, on a thread of its own.

A synchronous ``generate`` may be called from a script, a notebook whose thread already runs a loop,
or a worker's step thread. The caller's loop is never patched and no loop is made per call: HTTP
connections belong to a loop, so they stay open between calls.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def background_loop() -> asyncio.AbstractEventLoop:
    """The loop, started on first use; its thread is a daemon and ends with the process."""
    global _loop
    with _lock:
        if _loop is None or _loop.is_closed():
            _loop = asyncio.new_event_loop()
            threading.Thread(
                target=_loop.run_forever, name="asyncdistil-models", daemon=True
            ).start()
        return _loop


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end from synchronous code and return its result.

    Context variables of the caller are seen inside. An interrupt of the caller cancels the
    coroutine.

    Raises:
        RuntimeError: Called on the background loop itself, where waiting would hang.
    """
    loop = background_loop()
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is loop:
        coroutine.close()
        raise RuntimeError(
            "a synchronous model call was made from inside an asynchronous one: await"
            " `agenerate` or `agenerate_outputs` there"
        )
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


class PerLoop(Generic[T]):
    """One object per event loop: connections can't be shared between loops."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, T] = (
            weakref.WeakKeyDictionary()
        )

    def get(self) -> T:
        """The object of the running loop, made on first use."""
        here = asyncio.get_running_loop()
        found = self._made.get(here)
        if found is None:
            found = self._made[here] = self._make()
        return found
