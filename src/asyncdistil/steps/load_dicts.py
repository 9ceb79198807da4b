"""`LoadDataFromDicts`: rows given in the program."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field, PlainValidator
from xxhash import xxh3_128

from asyncdistil.batch import Row
from asyncdistil.codec import encode_rows
from asyncdistil.errors import DataError
from asyncdistil.mixins import RUNTIME_PARAMETER
from asyncdistil.steps.generator import GeneratorStep
from asyncdistil.typing import GeneratorStepOutput, StepColumns

_HASHED_ROWS = 4096
_COLUMNS_FROM_ROWS = 100
_DICT = frozenset({dict})


def _list_of_dicts(value: Any) -> list[Row]:
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

    Attributes:
        data: The rows. They are neither changed nor consumed.
    """

    version: ClassVar[int] = 1
    resumable: ClassVar[bool] = True
    signature_ignore: ClassVar[set[str]] = {"data"}

    data: Annotated[list[Row], PlainValidator(_list_of_dicts), RUNTIME_PARAMETER] = Field(
        default_factory=list, exclude=True, repr=False, description="The rows."
    )

    @property
    def outputs(self) -> StepColumns:
        """The columns of the first rows.

        Raises:
            DataError: There are no rows.
        """
        self._refuse_nothing()
        return columns_of(self.data[:_COLUMNS_FROM_ROWS])

    def process(self, offset: int = 0) -> GeneratorStepOutput:
        """Yield the rows after the first ``offset``, ``batch_size`` at a time.

        Raises:
            DataError: There are no rows.
        """
        self._refuse_nothing()
        yield from batches_of(self.data, offset, self.batch_size)

    def data_identity(self) -> bytes:
        """Digest of the rows."""
        return digest_of_rows(self.data, step=self.name)

    def _refuse_nothing(self) -> None:
        if not self.data:
            raise DataError(f"step {self.name!r} was given no rows: give it data=[{{...}}, ...]")


def columns_of(rows: Sequence[Row]) -> list[str]:
    """Columns of some rows, in the order in which they first appear."""
    return list(dict.fromkeys(column for row in rows for column in row))


def batches_of(
    rows: Sequence[Row], offset: int, batch_size: int
) -> Iterator[tuple[list[Row], bool]]:
    """Cut rows into batches; the last one says so, and is empty if no row is left.

    The rows are copies, so that a step that changes them in place leaves the given ones alone.
    """
    for start in range(offset, max(len(rows), offset + 1), batch_size):
        batch = [dict(row) for row in rows[start : start + batch_size]]
        yield batch, start + batch_size >= len(rows)


def digest_of_rows(rows: Sequence[Row], *, step: str) -> bytes:
    """Name rows by their content, 16 bytes.

    Raises:
        UnencodableValue: A row holds a value that no codec type covers.
    """
    whole = xxh3_128(f"asyncdistil/rows/1:{len(rows)}:".encode())
    for start in range(0, len(rows), _HASHED_ROWS):
        whole.update(encode_rows(rows[start : start + _HASHED_ROWS], step=step).body)
    return whole.digest()
