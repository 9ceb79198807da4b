"""How many rows workers hold, noted where the death of this process cannot take it away.

The counts stand in a small file that is overwritten in one call, each turn after the commits are
appended and before new work is handed out. So at any instant they cover every row that a worker has
and no commit names: the most that a later run may compute twice. The file's pages belong to the
kernel, hence SIGKILL loses nothing. It is never synced: after a power cut it may be old or empty.
It is a figure for people, and nothing is decided by it.

Rows that a generator made and nobody committed are not counted, since nobody knows them yet.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from asyncdistil.batch import RunId, StepName

_MAGIC = b"ADINFL1\n"
_HEADER = struct.Struct("<8s32s")  # magic, run id in ASCII; then rows per step (u64), in plan order
_MODE = 0o600
_NAME = "in-flight"


class InFlight:
    """Writes the counts of one run.

    A disk that refuses costs the figure and nothing else.
    """

    def __init__(self, root: Path, run: RunId, steps: int) -> None:
        """Begin with nothing in flight.

        Args:
            root: Directory of the store, locked by us.
            run: Whose rows are counted.
            steps: How many steps the plan has.
        """
        self._header = _HEADER.pack(_MAGIC, run.encode())
        self._counts = struct.Struct(f"<{steps}Q")
        self._noted: Sequence[int] = ()
        self._fd = -1
        with suppress(OSError):
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(root / _NAME, flags, _MODE)
        self.note([0] * steps)

    def note(self, rows: Sequence[int]) -> None:
        """Note the rows in flight, per step in plan order; costs a system call if they changed."""
        if self._fd < 0 or rows == self._noted:
            return
        self._noted = rows
        with suppress(OSError):
            # One write within a page: a kill leaves the old counts or the new ones.
            os.pwrite(self._fd, self._header + self._counts.pack(*rows), 0)

    def close(self) -> None:
        """Close the file. The counts stay, for whoever takes the run up."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def lost_in_flight(root: Path, run: RunId, steps: Sequence[StepName]) -> dict[StepName, int]:
    """Rows that workers held when a run last ended, by step; without steps that held none.

    Args:
        root: Directory of the store.
        run: The run that is taken up.
        steps: Names of its steps, in plan order.
    """
    size = _HEADER.size + 8 * len(steps)
    data = b""
    with suppress(OSError):
        fd = os.open(root / _NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            data = os.pread(fd, size, 0)
        finally:
            os.close(fd)
    if len(data) < size or _HEADER.unpack_from(data) != (_MAGIC, run.encode()):
        return {}
    counts = struct.unpack_from(f"<{len(steps)}Q", data, _HEADER.size)
    return {step: rows for step, rows in zip(steps, counts, strict=True) if rows}
