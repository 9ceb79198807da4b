"""`DataSampler`: rows of drawn examples."""

from random import Random
from typing import Annotated, ClassVar

from pydantic import Field, PlainValidator, PositiveInt

from asyncdistil.batch import Row
from asyncdistil.errors import DataError
from asyncdistil.mixins import RUNTIME_PARAMETER
from asyncdistil.steps.batching import columns_of, digest_of_rows
from asyncdistil.steps.generator import GeneratorStep
from asyncdistil.steps.load_dicts import list_of_dicts
from asyncdistil.typing import GeneratorStepOutput, StepColumns


class DataSampler(GeneratorStep):
    """Draw examples, with repetition, from rows given in the program: shots for prompts.

    Each row that it yields has, per column, a list with the values of ``size`` drawn rows. The draw
    depends on ``seed`` and on the number of the row alone, so a run that was stopped goes on with
    the examples that it would have had.

    Inputs: none. Outputs: the columns of the data, each a list of ``size`` values.

    Attributes:
        data: The rows to draw from. They are neither changed nor consumed.
        size: Rows drawn for each row.
        samples: Rows to yield.
        seed: Change it for another draw.

    Example:
        >>> from asyncdistil.steps import DataSampler
        >>> sampler = DataSampler(data=[{"shot": "a"}, {"shot": "b"}], size=3, samples=2)
        >>> rows, last = next(sampler.process())
        >>> len(rows), len(rows[0]["shot"]), last
        (2, 3, True)
    """

    version: ClassVar[int] = 1
    resumable: ClassVar[bool] = True
    signature_ignore: ClassVar[set[str]] = {"data"}

    data: Annotated[list[Row], PlainValidator(list_of_dicts)] = Field(
        default_factory=list, exclude=True, repr=False
    )
    size: Annotated[PositiveInt, RUNTIME_PARAMETER] = Field(
        default=2, description="Rows drawn for each row."
    )
    samples: Annotated[PositiveInt, RUNTIME_PARAMETER] = Field(
        default=100, description="Rows to yield."
    )
    seed: Annotated[int, RUNTIME_PARAMETER] = Field(default=42, description="Seed of the draw.")

    @property
    def outputs(self) -> StepColumns:
        """The columns of the data."""
        return columns_of(self._checked())

    def process(self, offset: int = 0) -> GeneratorStepOutput:
        """Yield the rows after the first ``offset``.

        Raises:
            DataError: There is nothing to draw from.
        """
        data, columns = self._checked(), columns_of(self.data)
        for start in range(offset, max(self.samples, offset + 1), self.batch_size):
            end = min(start + self.batch_size, self.samples)
            yield [self._row(data, columns, n) for n in range(start, end)], end >= self.samples

    def expected_rows(self) -> int:
        """As many as were asked for."""
        return self.samples

    def data_identity(self) -> bytes:
        """Digest of the data to draw from; how it is drawn is in the fields."""
        return digest_of_rows(self.data, step=self.name)

    def _row(self, data: list[Row], columns: list[str], number: int) -> Row:
        # Python promises the same draws for the same text.
        drawn = Random(f"{self.seed}/{number}").choices(data, k=self.size)
        return {column: [row.get(column) for row in drawn] for column in columns}

    def _checked(self) -> list[Row]:
        if not self.data:
            raise DataError(f"step {self.name!r} has nothing to draw from: give it data=[{{...}}]")
        return self.data
