"""A column of vectors as one matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asyncdistil.batch import Row
from asyncdistil.errors import DataError
from asyncdistil.steps.base import BaseStep


def matrix_of(step: BaseStep, rows: Sequence[Row], column: str) -> tuple[list[int], Any]:
    """The vectors of a column.

    Args:
        step: Named in messages.
        rows: All rows.
        column: Holds lists of numbers, or ``None``.

    Returns:
        Numbers of the rows that have one, and their vectors as a matrix of floats.

    Raises:
        DataError: They are of different lengths.
    """
    import numpy as np

    given = [number for number, row in enumerate(rows) if row[column] is not None]
    lengths = {len(rows[number][column]) for number in given}
    if len(lengths) > 1:
        raise DataError(
            f"column {column!r} of step {step.name!r} holds vectors of lengths {sorted(lengths)}:"
            " those of one model have one length"
        )
    return given, np.array([rows[number][column] for number in given], dtype=np.float32)
