"""How a worker process ends."""

from __future__ import annotations

import atexit
import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, NoReturn


class Terminated(SystemExit):
    """The supervisor asked this process to end; not the step.

    Attributes:
        was_raised: Whether it was asked already. What runs in that moment may make another error of
            it, as pydantic does while it builds a validator.
    """

    was_raised: ClassVar[bool] = False

    def __init__(self) -> None:
        Terminated.was_raised = True
        super().__init__(128 + signal.SIGTERM)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hear a request to end only afterwards; KILL, which follows it, still ends at once.

    For the main thread.
    """
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda signum, _frame: heard.append(signum))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if heard:
            signal.raise_signal(signal.SIGTERM)


def unload_quietly(unload: Callable[[], Any]) -> None:
    """Unload a step whose work is done or given up: what goes wrong now can cost no row."""
    try:
        made = unload()
        if inspect.iscoroutine(made):
            import asyncio

            asyncio.run(made)
    except Exception as error:
        unload_failed(error)


def unload_failed(error: Exception) -> None:
    """Log that ``unload`` raised."""
    import logging

    logging.getLogger("asyncdistil.worker").warning(
        "unload raised %s: %s; all rows are safe, but what load() opened may be left open",
        type(error).__name__,
        error,
    )


def exit_status(error: SystemExit) -> int:
    """Status that Python itself would exit with; a text is printed, as Python would."""
    code = error.code
    if code is None or isinstance(code, int):
        return code or 0
    sys.stderr.write(f"{code}\n")
    return 1


def leave(code: int) -> NoReturn:
    """End without waiting for threads of the step or for the interpreter to clear away."""
    with suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code)
