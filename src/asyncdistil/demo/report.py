"""What the demonstration found, as plain data."""

from __future__ import annotations

from typing import Any

import msgspec


class RunFigures(msgspec.Struct, frozen=True):
    """One run of the first act.

    Attributes:
        run: ``killed``, ``resumed`` or ``again``.
        seconds: Wall time of its process, interpreter start included.
        rows_computed: Rows that steps were called with, by the journal that the steps keep.
        rows_replayed: Rows that steps took from the log instead; for a run that changed nothing
            the rows of the stored dataset, which is served whole.
        computed_twice: Rows whose work was committed by an earlier run and that a step was called
            with all the same. The promise is 0.
        cut_off: Rows computed again because the kill came before their commit.
    """

    run: str
    seconds: float
    rows_computed: int
    rows_replayed: int
    computed_twice: int
    cut_off: int


class ModelFigures(msgspec.Struct, frozen=True):
    """The second act: one request per row to a stand-in model server on this machine.

    Attributes:
        rows: Rows, and so requests that are needed.
        requests: Requests that the server saw in the killed, the resumed and the last run.
        asked_twice: Requests that it saw more than once.
        peak_in_flight: Most requests that the killed run had under way at once: about as many may
            have to be asked twice.
        seconds: Wall time of the three runs.
    """

    rows: int
    requests: list[int]
    asked_twice: int
    peak_in_flight: int
    seconds: list[float]


class Report(msgspec.Struct, frozen=True):
    """The whole demonstration.

    Attributes:
        directory: Where everything of it is.
        dataset: JSON Lines file with the dataset.
        rows: Rows in it.
        modules: Modules of the standard library that were read.
        killed: Whether the first run was really killed while it worked; a machine that finishes
            before the signal arrives says no.
        runs: The three runs.
        model: The second act.
        samples: Some rows.
    """

    directory: str
    dataset: str
    rows: int
    modules: int
    killed: bool
    runs: list[RunFigures]
    model: ModelFigures | None
    samples: list[dict[str, Any]]
