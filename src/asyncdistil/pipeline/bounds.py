"""How much plain data a pipeline file may hold."""

from __future__ import annotations

from typing import Any

from asyncdistil.errors import DataError

MAX_VALUES = 500_000
"""Most values of one file; a value that aliases repeat counts each time."""

MAX_DEPTH = 100
"""Most containers that may stand in each other."""

WAY_ON = "rows belong into a data file that a loader of the pipeline reads"
"""What to do about a file that holds too much."""


def check_bounds(data: Any, where: str) -> None:
    """Refuse data that would take too much of those who go through it.

    Raises:
        DataError: It is deeper than `MAX_DEPTH`, or holds itself; it has more than `MAX_VALUES`
            values; or a text of it is no text that a file can hold.
    """
    left, count = [(data, 0)], 0
    while left:
        value, depth = left.pop()
        count += 1
        if count > MAX_VALUES:
            raise DataError(f"{where} holds more than {MAX_VALUES:,} values: {WAY_ON}")
        if isinstance(value, str):
            _check_text(value, where)
            continue
        if isinstance(value, dict):
            inner = list(value.values())
            for key in value:
                if isinstance(key, str):
                    _check_text(key, where)
        elif isinstance(value, list | tuple):
            inner = list(value)
        else:
            continue
        if depth >= MAX_DEPTH:
            raise DataError(
                f"{where} is nested too deeply, or holds itself: at most {MAX_DEPTH} levels"
            )
        # What is refused is refused before it is spread out.
        if len(inner) + len(left) > MAX_VALUES:
            raise DataError(f"{where} holds more than {MAX_VALUES:,} values: {WAY_ON}")
        left.extend((one, depth + 1) for one in inner)


def _check_text(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} holds half of a surrogate pair, {text[error.start]!r}: "
            "write the character itself"
        ) from None
