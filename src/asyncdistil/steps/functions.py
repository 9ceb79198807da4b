"""Steps for one small function of a row."""

from collections.abc import Callable
from typing import Any, ClassVar

from pydantic import Field

from asyncdistil.batch import Row
from asyncdistil.steps.row_step import RowStep
from asyncdistil.steps.rows import Entry
from asyncdistil.typing import StepColumns


class Map(RowStep):
    """Call a function with every row; what it returns takes the row's place.

    The function's code is part of the step's identity: changing it makes the step run again. What
    it raises fails its row alone.

    Inputs: ``columns``. Outputs: ``output_columns``.

    Attributes:
        function: Takes a row, returns a row, a list of rows, or ``None`` to drop it.
        columns: Columns that it reads.
        output_columns: Columns that it adds or replaces, if they are to be declared.

    Example:
        >>> from asyncdistil.steps import Map
        >>> words = Map(function=lambda row: [{"word": word} for word in row["text"].split()])
        >>> next(words.process([{"text": "to be"}, {"text": "or not"}]))
        [{'word': 'to'}, {'word': 'be'}, {'word': 'or'}, {'word': 'not'}]
    """

    version: ClassVar[int] = 1

    function: Callable[[Row], Entry]
    columns: list[str] = Field(default_factory=list)
    output_columns: list[str] = Field(default_factory=list)

    @property
    def inputs(self) -> StepColumns:
        """The columns that the function reads."""
        return self.columns

    @property
    def outputs(self) -> StepColumns:
        """The columns that the function writes."""
        return self.output_columns

    @property
    def open_columns(self) -> bool:
        """Whether the columns that the function writes are not declared."""
        return not self.output_columns

    def transform(self, *rows: Row) -> Entry:
        """Return what the function makes of the row."""
        return self.function(rows[0])


class FilterRows(RowStep):
    """Keep the rows for which a predicate holds; the others count as filtered, not as failed.

    Inputs: ``columns``. Outputs: none besides.

    Attributes:
        predicate: Takes a row; the row stays if the answer is true. What it raises fails its row.
        columns: Columns that it reads.

    Example:
        >>> from asyncdistil.steps import FilterRows
        >>> long = FilterRows(predicate=lambda row: len(row["text"]) > 3)
        >>> next(long.process([{"text": "no"}, {"text": "indeed"}]))
        [{'text': 'indeed'}]
    """

    version: ClassVar[int] = 1

    predicate: Callable[[Row], Any]
    columns: list[str] = Field(default_factory=list)

    @property
    def inputs(self) -> StepColumns:
        """The columns that the predicate reads."""
        return self.columns

    def transform(self, *rows: Row) -> Entry:
        """Return the row, or ``None`` to drop it."""
        return rows[0] if self.predicate(rows[0]) else None
