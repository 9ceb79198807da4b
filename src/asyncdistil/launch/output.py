"""What a worker prints: read as it comes, cut into lines, never a reason for the worker to wait."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

from asyncdistil.transport.messages import LogLine

_READ_BYTES = 256 * 1024
_LINE_BYTES = 8 * 1024
_LINES_PER_SECOND = 1_000


class OutputReader:
    """Passes on the lines of one pipe, at most `_LINES_PER_SECOND` of them each second.

    Everything is read at once whatever its amount, so that a chatty worker runs on; what is over
    the limit is counted and left out, so that it does not drown the others.
    """

    def __init__(self, fd: int, on_line: Callable[[LogLine], None]) -> None:
        """Start reading the pipe end ``fd``, which is ours to close."""
        os.set_blocking(fd, False)
        self._fd = fd
        self._on_line = on_line
        self._rest = b""
        self._left_out = 0
        self._budget = _LINES_PER_SECOND
        self._second = 0
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self._read_once)

    def finish(self) -> None:
        """Pass on what is still in the pipe and close it; a second call does nothing."""
        try:
            while self._fd >= 0 and self._read_once():
                pass
        finally:
            self._close()

    def _read_once(self) -> bool:
        try:
            data = os.read(self._fd, _READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self._close()
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LINE_BYTES:
            lines.append(self._rest)
            self._rest = b""
        self._pass_on(lines)
        return True

    def _pass_on(self, lines: list[bytes]) -> None:
        second = int(self._loop.time())
        if second != self._second:
            self._second, self._budget = second, _LINES_PER_SECOND
            self._confess()
        for line in lines[: self._budget]:
            if text := line[:_LINE_BYTES].decode("utf-8", "replace").rstrip():
                self._on_line(LogLine(logging.INFO, text))
        self._left_out += max(0, len(lines) - self._budget)
        self._budget = max(0, self._budget - len(lines))

    def _confess(self) -> None:
        if self._left_out:
            text = f"[{self._left_out:,} more printed lines left out]"
            self._left_out = 0
            self._on_line(LogLine(logging.WARNING, text))

    def _close(self) -> None:
        if self._fd < 0:
            return
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1
        self._pass_on([self._rest])
        self._rest = b""
        self._confess()
