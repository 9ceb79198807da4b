"""What passes between the director of the demonstration and a run of it."""

from __future__ import annotations

from typing import Any

import msgspec


class Task(msgspec.Struct, frozen=True):
    """What to run.

    Attributes:
        cache_dir: Cache directory.
        halfway_inputs: Input rows of step ``extract`` that make half of the work; 0 for no word.
        write_to: JSON Lines file for the dataset, if any.
        base_url: Model server; runs the second pipeline if there is one.
        rows: Rows for the second pipeline.
    """

    cache_dir: str
    halfway_inputs: int = 0
    write_to: str | None = None
    base_url: str | None = None
    rows: list[dict[str, Any]] = []


class Done(msgspec.Struct, frozen=True):
    """How a run ended: its own report, and how many rows its dataset has."""

    report: dict[str, Any]
    rows: int
