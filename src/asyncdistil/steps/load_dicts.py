"""`LoadDataFromDicts`: rows given in the program."""

from typing import Annotated, Any, ClassVar

from pydantic import Field, PlainValidator

from asyncdistil.batch import Row
from asyncdistil.errors import DataError
from asyncdistil.mixins import RUNTIME_PARAMETER
from asyncdistil.steps.batching import batches_of, columns_of, digest_of_rows
from asyncdistil.steps.generator import GeneratorStep
from asyncdistil.typing import GeneratorStepOutput, StepColumns

_DICT = frozenset({dict})


def list_of_dicts(value: Any) -> list[Row]:
    """Check rows without copying them, as pydantic's own check of a list of dicts would."""
    if not isinstance(value, list):
        raise ValueError(f"must be a list of dicts, not a {type(value).__name__}")
    if not _DICT.issuperset(map(type, value)):
        for position, row in enumerate(value):
            if not isinstance(row, dict):
                raise ValueError(f"row {position} must be a dict, not a {type(row).__name__}")
    return value


class LoadDataFromDicts(GeneratorStep):
    """Yield rows that are given in the program.

    Inputs: none. Outputs: all columns of the rows.

    Attributes:
        data: The rows. They are neither changed nor consumed.

    Example:
        >>> from asyncdistil.steps import LoadDataFromDicts
        >>> load = LoadDataFromDicts(data=[{"n": 1}, {"n": 2}, {"n": 3}], batch_size=2)
        >>> list(load.process())
        [([{'n': 1}, {'n': 2}], False), ([{'n': 3}], True)]
    """

    version: ClassVar[int] = 1
    resumable: ClassVar[bool] = True
    signature_ignore: ClassVar[set[str]] = {"data"}

    data: Annotated[list[Row], PlainValidator(list_of_dicts), RUNTIME_PARAMETER] = Field(
        default_factory=list, exclude=True, repr=False, description="The rows."
    )

    @property
    def outputs(self) -> StepColumns:
        """The columns of the first rows.

        Raises:
            DataError: There are no rows.
        """
        self._refuse_nothing()
        return columns_of(self.data)

    def process(self, offset: int = 0) -> GeneratorStepOutput:
        """Yield the rows after the first ``offset``, ``batch_size`` at a time.

        Raises:
            DataError: There are no rows.
        """
        self._refuse_nothing()
        yield from batches_of(self.data, offset, self.batch_size)

    def expected_rows(self) -> int:
        """As many as were given."""
        return len(self.data)

    def data_identity(self) -> bytes:
        """Digest of the rows."""
        return digest_of_rows(self.data, step=self.name)

    def _refuse_nothing(self) -> None:
        if not self.data:
            raise DataError(f"step {self.name!r} was given no rows: give it data=[{{...}}, ...]")
