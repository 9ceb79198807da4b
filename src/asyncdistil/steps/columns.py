"""Steps that rearrange the columns of a row."""

from typing import Annotated, ClassVar

from pydantic import Field

from asyncdistil.batch import Row
from asyncdistil.steps.row_step import RowStep
from asyncdistil.typing import StepColumns


class KeepColumns(RowStep):
    """Keep some columns of every row, in the order given, and drop the others.

    Attributes:
        columns: The columns to keep; each row must have all of them.
    """

    version: ClassVar[int] = 1
    drops_rest: ClassVar[bool] = True

    columns: Annotated[list[str], Field(min_length=1)]

    @property
    def inputs(self) -> StepColumns:
        """The columns."""
        return self.columns

    @property
    def outputs(self) -> StepColumns:
        """The columns."""
        return self.columns

    def transform(self, *rows: Row) -> Row:
        """Return the row with these columns only."""
        (row,) = rows
        return {column: row[column] for column in self.columns}
