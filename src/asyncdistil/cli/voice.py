"""What the library has to say, on standard error. Nobody else's logging is touched."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_WORKER_LINES = "asyncdistil.supervisor"
_COLOURS = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "bold red"}


class Voice(logging.Handler):
    """Prints the records of the library, above the progress display if there is one.

    Keeps still if the script configured logging itself: its handlers see the same records.

    Args:
        console: Where to.
        verbose: Whether to print every record from INFO on; without it only what steps said,
            and warnings.
    """

    def __init__(self, console: Console, *, verbose: bool) -> None:
        super().__init__(logging.INFO)
        self._console = console
        self._verbose = verbose

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record; never raises into the code that logs."""
        if logging.getLogger().handlers:
            return
        if record.levelno < logging.WARNING and not (self._verbose or record.name == _WORKER_LINES):
            return
        try:
            from rich.text import Text

            text = Text(self.format(record), style=_COLOURS.get(record.levelno, ""))
            self._console.print(text, soft_wrap=True, highlight=False)
        except Exception:
            self.handleError(record)


def listen(voice: Voice) -> None:
    """Have the library's own logger, and no other, speak through ``voice``."""
    logger = logging.getLogger("asyncdistil")
    logger.addHandler(voice)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


def stop_listening(voice: Voice) -> None:
    """Take the handler away again."""
    logging.getLogger("asyncdistil").removeHandler(voice)
