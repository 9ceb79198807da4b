"""Log records of the worker's code travel to the supervisor as `LogLine`."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable

from asyncdistil.errors import TransportError
from asyncdistil.transport import Channel
from asyncdistil.transport.messages import LogLine
from asyncdistil.worker.scrub import Scrubber

LEVEL_VARIABLE = "ASYNCDISTIL_LOG_LEVEL"
_LINES_PER_SECOND = 1_000
_LINE_CHARS = 32 * 1024


class ForwardingHandler(logging.Handler):
    """Sends records over the socket, at most `_LINES_PER_SECOND` each second."""

    def __init__(self, channel: Channel, scrubber: Scrubber) -> None:
        super().__init__()
        self._channel = channel
        self._scrubber = scrubber
        self._second = 0
        self._left = _LINES_PER_SECOND
        self._left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record; never raises into the code that logs."""
        try:
            second = int(time.monotonic())
            if second != self._second:
                self._second, self._left = second, _LINES_PER_SECOND
                self.confess()
            if not self._left:
                self._left_out += 1
                return
            self._left -= 1
            self._send(record.levelno, self.format(record))
        except TransportError:
            return  # the supervisor is gone, and soon so are we
        except Exception:
            self.handleError(record)

    def confess(self) -> None:
        """Say how many records were left out, if any."""
        if self._left_out:
            text = f"{self._left_out:,} more log records left out"
            self._left_out = 0
            self._send(logging.WARNING, text)

    def _send(self, level: int, text: str) -> None:
        self._channel.send(LogLine(level, self._scrubber.text(text)[:_LINE_CHARS]))


def forward_logs(channel: Channel, scrubber: Scrubber) -> None:
    """Make the socket the only place where log records of this process go.

    Records of other people's libraries pass from WARNING on, those of asyncdistil and of steps
    from INFO on, or from the level that the environment variable names.
    """
    handler = ForwardingHandler(channel, scrubber)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    logging.captureWarnings(True)
    level = os.environ.get(LEVEL_VARIABLE, "INFO").upper()
    names = logging.getLevelNamesMapping()
    logging.getLogger("asyncdistil").setLevel(names.get(level, logging.INFO))
    for stream in (sys.stdout, sys.stderr):
        # Into a pipe they would be held back until a block is full, or lost in a crash.
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        stream.write = _without_secrets(stream.write, scrubber)  # type: ignore[method-assign]


def _without_secrets(write: Callable[[str], int], scrubber: Scrubber) -> Callable[[str], int]:
    """What is printed becomes lines of the supervisor's log, so it is scrubbed like those."""

    def scrubbed(text: str, /) -> int:
        write(scrubber.text(text))
        return len(text)

    return scrubbed
