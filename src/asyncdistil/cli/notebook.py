"""The progress display of a notebook: one output of the cell, replaced as the run goes on."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from importlib import import_module

from rich.console import Console
from rich.text import Text

_EVERY_SECONDS = 0.5
_WIDTH = 120
_FORMAT = '<pre style="line-height:1.35;font-family:monospace;white-space:pre">{code}</pre>'


class NotebookOutput:
    """Shows a frame in the output of the cell that runs, twice a second, from a thread.

    Args:
        draw: Makes the frame, given characters of a line and lines.
    """

    def __init__(self, draw: Callable[[int, int], Text]) -> None:
        # Whoever shows us in a notebook has it; it is no dependency of ours.
        shown = import_module("IPython.display")
        self._draw = draw
        self._html = shown.HTML
        self._handle = shown.display(self._html(self._page()), display_id=True)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="asyncdistil-progress")
        self._thread.daemon = True
        self._thread.start()

    def stop(self) -> None:
        """Show how it ended; the last frame stays."""
        if not self._ended.is_set():
            self._ended.set()
            self._thread.join()
            self._handle.update(self._html(self._page()))

    def _follow(self) -> None:
        while not self._ended.wait(_EVERY_SECONDS):
            self._handle.update(self._html(self._page()))

    def _page(self) -> str:
        console = Console(
            file=io.StringIO(), record=True, width=_WIDTH, force_jupyter=False, force_terminal=True
        )
        console.print(self._draw(_WIDTH, 40))
        return console.export_html(inline_styles=True, code_format=_FORMAT)
