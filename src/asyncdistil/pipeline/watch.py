"""Watching runs from outside of the code that starts them: a command line, a notebook's display."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncdistil.pipeline.finished import Finished
    from asyncdistil.pipeline.options import RunOptions
    from asyncdistil.pipeline.pipeline import Pipeline
    from asyncdistil.pipeline.planning import PreparedRun
    from asyncdistil.supervisor.progress import Progress


class Watcher:
    """Sees every run that is started in its context; override what you need.

    A method that raises ends the run with that error.
    """

    def options(self, pipeline: Pipeline, options: RunOptions) -> RunOptions:
        """Return the options that the run shall have, before anything is checked."""
        return options

    def started(self, prepared: PreparedRun) -> None:
        """A run was checked and named; it begins now, or its stored dataset is served."""

    def turn(self, progress: Progress) -> None:
        """Counters moved. Called in the supervisor's thread, up to thousands of times a second."""

    def ended(self, prepared: PreparedRun, finished: Finished) -> None:
        """A run came to its end; one that was stopped ends in an error instead."""


WATCHER: ContextVar[Watcher | None] = ContextVar("asyncdistil_watcher", default=None)
"""The watcher of runs that are started here, if any."""
