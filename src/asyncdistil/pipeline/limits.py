"""Too few open files: one error that says what to do, wherever it is met."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from asyncdistil.errors import StorageError

_LOOP_NEEDS = 10
"""Descriptors that a loop opens as it is made; libuv aborts the process if it gets fewer."""


def too_few_descriptors(error: BaseException | None) -> StorageError | None:
    """An error that says what to do, if the process may open no more files."""
    if not isinstance(error, OSError) or error.errno not in {errno.EMFILE, errno.ENFILE}:
        return None
    told = StorageError(
        f"the run can't go on ({error.strerror}); raise `ulimit -n`, then run again"
    )
    told.__cause__ = error
    return told


@contextmanager
def limits_named() -> Iterator[None]:
    """Name the limit also where no module can be read any more.

    Raises:
        StorageError: In place of an `OSError` that says that no more files may be open.
    """
    try:
        yield
    except OSError as error:
        if (told := too_few_descriptors(error)) is not None:
            raise told from error
        raise


def have_room_for_a_loop() -> None:
    """Find out whether an event loop can be made.

    Raises:
        OSError: So many files can't be opened.
    """
    held: list[int] = []
    try:
        for _ in range(_LOOP_NEEDS):
            held.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for number in held:
            os.close(number)
