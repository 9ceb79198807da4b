"""Find the rows that make a step fail, so that the others keep their results. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from asyncdistil.errors import (
    LogError,
    ModelAuthError,
    ModelNotFound,
    ModelOutage,
    ModelRateLimited,
    RunStopped,
    TransportError,
)

Call: TypeAlias = Callable[[Sequence[int]], list[Any]]
"""Runs a step on the input rows at these positions; raises what the step raises."""

FATAL = (
    LogError,
    ModelAuthError,
    ModelNotFound,
    ModelOutage,
    ModelRateLimited,
    RunStopped,
    TransportError,
)
"""Errors that no other row would be spared: they stop the worker instead of failing a row."""


class Trouble(NamedTuple):
    """What a call raised."""

    error: BaseException
    tries: int = 1


def attempt(call: Call, positions: Sequence[int], tries: int = 1) -> list[Any] | Trouble:
    """Call the step; what it raises comes back as a value.

    ``SystemExit`` passes: a step that wants the process to end gets it, and the supervisor deals
    with the death. An interrupt is no more than an error here, because terminals don't reach
    workers, so it can only come from the step's own code.
    """
    try:
        return call(positions)
    except (SystemExit, *FATAL):
        raise
    except BaseException as error:
        return Trouble(error, tries)


def divide(
    call: Call, positions: Sequence[int], trouble: Trouble
) -> Iterator[tuple[Sequence[int], list[Any] | Trouble]]:
    """Halve rows that failed together until each half works or is a single row.

    Only for row-wise steps: results of different halves are put side by side.

    Yields:
        Consecutive positions with what the step made of them, or one position with its trouble.
    """
    if len(positions) == 1:
        yield positions, trouble
        return
    for half in _halves(positions):
        made = attempt(call, half, trouble.tries + 1)
        if isinstance(made, Trouble):
            yield from divide(call, half, made)
        else:
            yield half, made


def culprits(call: Call, positions: Sequence[int], trouble: Trouble) -> dict[int, Trouble]:
    """Locate the rows that fail alone. Results are thrown away.

    Returns:
        Empty if the rows fail only in company.
    """
    if len(positions) == 1:
        return {positions[0]: trouble}
    found: dict[int, Trouble] = {}
    for half in _halves(positions):
        made = attempt(call, half, trouble.tries + 1)
        if isinstance(made, Trouble):
            found |= culprits(call, half, made)
    return found


def _halves(positions: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    middle = len(positions) // 2
    return positions[:middle], positions[middle:]
