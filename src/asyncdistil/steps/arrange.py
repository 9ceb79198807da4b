"""Steps that put rows in order, draw some of them, or make one text of several columns."""

from random import Random
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, NonNegativeInt, model_validator

from asyncdistil.batch import Row
from asyncdistil.errors import StepError
from asyncdistil.mixins import RUNTIME_PARAMETER, RuntimeParameter
from asyncdistil.steps.global_step import GlobalStep
from asyncdistil.steps.row_step import RowStep
from asyncdistil.typing import StepColumns, StepInput, StepOutput


class Sort(GlobalStep):
    """Put all rows in order; equal ones keep theirs.

    Inputs: ``columns``. Outputs: none besides.

    Attributes:
        columns: Columns to sort by, the first one first.
        descending: Whether the greatest come first; rows with ``None`` come last either way.

    Example:
        >>> from asyncdistil.steps import Sort
        >>> rows = [{"a": 1}, {"a": None}, {"a": 3}]
        >>> next(Sort(columns=["a"], descending=True).process(rows))
        [{'a': 3}, {'a': 1}, {'a': None}]
    """

    version: ClassVar[int] = 1

    columns: Annotated[list[str], Field(min_length=1)]
    descending: bool = False

    @property
    def inputs(self) -> StepColumns:
        """The columns."""
        return self.columns

    def process(self, inputs: StepInput) -> StepOutput:
        """Yield the rows in order, once.

        Raises:
            StepError: Values of a column can't be compared.
        """
        rows = list(inputs)
        # Sorting is stable: by the last column first.
        for column in reversed(self.columns):
            some = [row for row in rows if row[column] is not None]
            none = [row for row in rows if row[column] is None]
            try:
                some.sort(key=_value(column), reverse=self.descending)
            except TypeError as error:
                raise StepError(
                    f"column {column!r} can't be sorted by step {self.name!r}: {error}"
                ) from error
            rows = some + none
        yield rows


def _value(column: str) -> Any:
    return lambda row: row[column]


class Sample(GlobalStep):
    """Draw some of all rows, each at most once; they keep their order.

    Which ones depends on ``seed`` and on how many rows there are.

    Inputs: any. Outputs: none besides.

    Attributes:
        size: Rows to draw; all if there are fewer.
        fraction: Share of the rows to draw instead, 0 to 1.
        seed: Change it for another draw.

    Example:
        >>> from asyncdistil.steps import Sample
        >>> len(next(Sample(fraction=0.5).process([{"n": n} for n in range(10)])))
        5
    """

    version: ClassVar[int] = 1

    size: RuntimeParameter[NonNegativeInt] | None = Field(default=None, description="Rows to draw.")
    fraction: RuntimeParameter[Annotated[float, Field(ge=0, le=1)]] | None = Field(
        default=None, description="Share of the rows to draw."
    )
    seed: Annotated[int, RUNTIME_PARAMETER] = Field(default=42, description="Seed of the draw.")

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.size is None) == (self.fraction is None):
            raise ValueError("give either size or fraction")
        return self

    def process(self, inputs: StepInput) -> StepOutput:
        """Yield the rows that were drawn, once."""
        count = len(inputs)
        wanted = round(count * self.fraction) if self.fraction is not None else self.size or 0
        drawn = Random(self.seed).sample(range(count), min(wanted, count))
        yield [inputs[place] for place in sorted(drawn)]


class JoinColumns(RowStep):
    """Join several columns into one text, such as the text to embed.

    Inputs: ``columns``. Outputs: ``output_column``, a text. Columns that are ``None`` are left out.

    Attributes:
        columns: The columns, in order; numbers are written as Python does.
        separator: What stands between them.
        output_column: Column for the text.

    Example:
        >>> from asyncdistil.steps import JoinColumns
        >>> step = JoinColumns(columns=["title", "body"], separator=": ")
        >>> next(step.process([{"title": "Rain", "body": "It is wet."}]))[0]["text"]
        'Rain: It is wet.'
    """

    version: ClassVar[int] = 1

    columns: Annotated[list[str], Field(min_length=1)]
    separator: str = "\n\n"
    output_column: str = "text"

    @property
    def inputs(self) -> StepColumns:
        """The columns."""
        return self.columns

    @property
    def outputs(self) -> StepColumns:
        """The text."""
        return [self.output_column]

    def transform(self, *rows: Row) -> Row:
        """Return the row with the text."""
        (row,) = rows
        values = [row[column] for column in self.columns]
        text = self.separator.join(str(value) for value in values if value is not None)
        return {**row, self.output_column: text}
