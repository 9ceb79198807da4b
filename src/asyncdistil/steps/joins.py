"""Steps that make one row of the rows of several branches."""

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from asyncdistil.batch import Row
from asyncdistil.steps.metadata import METADATA_COLUMN, merge_metadata
from asyncdistil.steps.row_step import RowStep
from asyncdistil.typing import StepColumns


class GroupColumns(RowStep):
    """Put a column of every branch into one list, in the order in which they were connected.

    Of another column that several branches have the last one counts; ``distilabel_metadata`` is
    merged.

    Inputs: ``columns``, of every branch. Outputs: a list for each.

    Attributes:
        columns: Columns that every branch has.
        output_columns: Name of each list; ``grouped_<column>`` if not given.

    Example:
        >>> from asyncdistil.steps import GroupColumns
        >>> step = GroupColumns(columns=["answer"], output_columns=["answers"])
        >>> one, other = [{"n": 1, "answer": "a"}], [{"n": 1, "answer": "b"}]
        >>> next(step.process(one, other))
        [{'n': 1, 'answers': ['a', 'b']}]
    """

    version: ClassVar[int] = 1
    several_ports: ClassVar[bool] = True

    columns: Annotated[list[str], Field(min_length=1)]
    output_columns: list[str] | None = None

    @model_validator(mode="after")
    def _one_name_each(self) -> Self:
        if self.output_columns is not None and len(self.output_columns) != len(self.columns):
            raise ValueError(
                f"output_columns needs one name per column: {len(self.columns)}, "
                f"not {len(self.output_columns)}"
            )
        return self

    @property
    def inputs(self) -> StepColumns:
        """The columns to group."""
        return self.columns

    @property
    def outputs(self) -> StepColumns:
        """The lists."""
        return self.output_columns or [f"grouped_{column}" for column in self.columns]

    @property
    def dropped_columns(self) -> tuple[str, ...]:
        """The grouped columns."""
        return tuple(column for column in self.columns if column not in self.outputs)

    def transform(self, *rows: Row) -> Row:
        """Return one row with the lists in place of the columns."""
        names = dict(zip(self.columns, self.outputs, strict=True))
        grouped = {name: [row[column] for row in rows] for column, name in names.items()}
        combined: Row = {}
        for row in rows:
            # A list stands where its column stood.
            combined |= {names.get(column, column): value for column, value in row.items()}
        return combined | _merged(rows) | grouped


class CombineOutputs(RowStep):
    """Put the columns of every branch into one row.

    Of a column that several branches have the last one counts, in the order in which they were
    connected; ``distilabel_metadata`` is merged.

    Inputs: none in particular. Outputs: all columns of all branches.

    Example:
        >>> from asyncdistil.steps import CombineOutputs
        >>> next(CombineOutputs().process([{"n": 1, "a": 2}], [{"n": 1, "b": 3}]))
        [{'n': 1, 'a': 2, 'b': 3}]
    """

    version: ClassVar[int] = 1
    several_ports: ClassVar[bool] = True

    def transform(self, *rows: Row) -> Row:
        """Return one row with the columns of all."""
        combined: Row = {}
        for row in rows:
            combined |= row
        return combined | _merged(rows)


def _merged(rows: tuple[Row, ...]) -> Row:
    if not any(METADATA_COLUMN in row for row in rows):
        return {}
    return {METADATA_COLUMN: merge_metadata(rows)}
