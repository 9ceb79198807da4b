"""Annotations for the signatures of steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from asyncdistil.batch import Row

# A package in distilabel: its modules are found below this one by name only.
__path__: list[str] = []


class StepInputMark:
    """Type of the mark in `StepInput`; tells the rows apart from a function's parameters."""

    __slots__ = ()

    def __signature__(self) -> str:
        """What counts of the mark in the identity of code that uses it."""
        return "StepInput"


StepInput: TypeAlias = Annotated[list[Row], StepInputMark()]
"""Rows handed to ``process``: one list per input port."""

StepOutput: TypeAlias = Iterator[list[Any]]
"""What ``process`` yields: lists of rows; of entries (row, ``None``, list) if row-wise."""

GeneratorStepOutput: TypeAlias = Iterator[tuple[list[Row], bool]]
"""What the ``process`` of a generator yields: rows, and whether they are the last ones."""

StepColumns: TypeAlias = list[str] | dict[str, bool]
"""Columns by name; the dict says for each whether it is required."""

__all__ = ["GeneratorStepOutput", "StepColumns", "StepInput", "StepOutput"]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Names that distilabel has in this module; type checkers are not to see them."""
        from asyncdistil.compat.aliases import old_names

        return old_names(__name__)(name)
