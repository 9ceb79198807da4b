"""`LoadDataFromDataset`: a table that the program holds already."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Optional

from pydantic import Field, PlainValidator, PositiveInt
from xxhash import xxh3_128_digest

from asyncdistil.batch import Row
from asyncdistil.codec import canonical_bytes
from asyncdistil.errors import DataError
from asyncdistil.mixins import RuntimeParameter
from asyncdistil.steps.batching import recut
from asyncdistil.steps.generator import GeneratorStep
from asyncdistil.steps.load_dicts import LoadDataFromDicts
from asyncdistil.steps.resources import StepResources
from asyncdistil.steps.tables import (
    TABLE_CHUNK_ROWS,
    digest_of_table,
    table_chunks,
    table_of_frame,
)
from asyncdistil.typing import GeneratorStepOutput, StepColumns

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    import pyarrow as pa


def is_a(value: object, module: str, name: str) -> bool:
    """Whether a value is an instance of a class of a library that may not be imported yet."""
    return any(
        kind.__module__.split(".")[0] == module and kind.__name__ == name
        for kind in type(value).__mro__
    )


def dataset_chunks(dataset: Any, offset: int) -> Iterator[list[Row]]:
    """Yield the rows of a ``datasets`` dataset after the first ``offset``.

    Images and sounds stay what they are on disk, bytes and a path: decoded they would be objects
    that no row can hold.
    """
    if is_a(dataset, "datasets", "IterableDataset"):
        yield from _stream_chunks(dataset, offset)
        return
    arrow = dataset.with_format("arrow")
    for start in range(offset, len(dataset), TABLE_CHUNK_ROWS):
        yield from table_chunks(arrow[start : start + TABLE_CHUNK_ROWS])


def _stream_chunks(dataset: Any, offset: int) -> Iterator[list[Row]]:
    if dataset.features is not None:
        dataset = dataset.decode(False)
    chunk: list[Row] = []
    # Small chunks first: the first rows of a slow stream should not wait for a thousand others.
    wanted = 1
    for row in dataset.skip(offset) if offset else dataset:
        chunk.append(dict(row))
        if len(chunk) >= wanted:
            yield chunk
            chunk, wanted = [], min(wanted * 2, TABLE_CHUNK_ROWS)
    if chunk:
        yield chunk


def _known_table(value: Any) -> Any:
    if any(
        is_a(value, *kind)
        for kind in (
            ("datasets", "Dataset"),
            ("datasets", "IterableDataset"),
            ("pandas", "DataFrame"),
            ("pyarrow", "Table"),
        )
    ):
        return value
    hint = "; choose a split of it" if is_a(value, "datasets", "DatasetDict") else ""
    raise ValueError(
        f"must be a Dataset, an IterableDataset, a pandas DataFrame or a pyarrow Table, not a "
        f"{type(value).__name__}{hint}"
    )


class LoadDataFromDataset(GeneratorStep):
    """Yield the rows of a table that the program holds.

    Inputs: none. Outputs: the columns of the table.

    Attributes:
        dataset: A ``datasets.Dataset`` or ``IterableDataset``, a pandas DataFrame (its index is
            left out) or a pyarrow Table.
        num_examples: Rows to load; ``None`` for all.

    Example:
        >>> import pyarrow as pa
        >>> from asyncdistil.steps import LoadDataFromDataset
        >>> load = LoadDataFromDataset(dataset=pa.table({"n": [1, 2]}))
        >>> load.load()
        >>> list(load.process())
        [([{'n': 1}, {'n': 2}], True)]
    """

    version: ClassVar[int] = 1
    resumable: ClassVar[bool] = True
    signature_ignore: ClassVar[set[str]] = {"dataset", "num_examples"}

    dataset: Annotated[Any, PlainValidator(_known_table)] = Field(exclude=True, repr=False)
    num_examples: Optional[RuntimeParameter[PositiveInt]] = Field(  # noqa: UP045
        default=None, description="Rows to load; all if not given."
    )

    @property
    def outputs(self) -> StepColumns:
        """The columns of the table."""
        if is_a(self.dataset, "pandas", "DataFrame"):
            return [str(column) for column in self.dataset.columns]
        return list(self.dataset.column_names or [])

    @property
    def open_columns(self) -> bool:
        """Whether a stream does not know its columns."""
        return not self.outputs

    def process(self, offset: int = 0) -> GeneratorStepOutput:
        """Yield the rows after the first ``offset``, ``batch_size`` at a time."""
        limit = None if self.num_examples is None else self.num_examples - offset
        yield from recut(self._chunks(offset), self.batch_size, limit)

    def expected_rows(self) -> int | None:
        """Rows of the table, or fewer if fewer are loaded; a stream does not know."""
        known = None if is_a(self.dataset, "datasets", "IterableDataset") else len(self.dataset)
        counts = [count for count in (known, self.num_examples) if count is not None]
        return min(counts, default=None)

    def data_identity(self) -> bytes | None:
        """Digest of a table's content, fingerprint of a ``Dataset``; a stream has none."""
        content: Any
        if is_a(self.dataset, "datasets", "IterableDataset"):
            return None
        if is_a(self.dataset, "datasets", "Dataset"):
            content = self.dataset._fingerprint
        else:
            content = digest_of_table(self._table())
        return xxh3_128_digest(
            canonical_bytes("asyncdistil/dataset/1", [content, self.num_examples])
        )

    def _table(self) -> "pa.Table":
        if is_a(self.dataset, "pandas", "DataFrame"):
            return table_of_frame(self.dataset)
        return self.dataset

    def _chunks(self, offset: int) -> Iterator[list[Row]]:
        if is_a(self.dataset, "pyarrow", "Table") or is_a(self.dataset, "pandas", "DataFrame"):
            return table_chunks(self._table(), offset)
        return dataset_chunks(self.dataset, offset)


def make_generator_step(
    dataset: "datasets.Dataset | datasets.IterableDataset | pd.DataFrame | pa.Table | list[Row]",
    pipeline: Any = None,
    batch_size: int = 50,
    input_mappings: dict[str, str] | None = None,
    output_mappings: dict[str, str] | None = None,
    resources: StepResources | None = None,
    *,
    name: str | None = None,
) -> GeneratorStep:
    """Make a loader of a table or a list of dicts.

    Args:
        dataset: The rows.
        pipeline: Where the loader belongs, if not to the surrounding ``with Pipeline()``.
        batch_size: Rows of a yield.
        input_mappings: There for scripts that pass it; a loader has no inputs.
        output_mappings: Column to new name.
        resources: As for every step.
        name: As for every step.

    Raises:
        DataError: It is neither a known table nor a list of dicts, or it has no rows.
    """
    make: Callable[..., GeneratorStep]
    if isinstance(dataset, list):
        if not dataset:
            raise DataError("the list of rows is empty: give at least one row")
        for position, row in enumerate(dataset):
            if not isinstance(row, dict):
                raise DataError(
                    f"row {position} of the list is a {type(row).__name__}: give rows as dicts of"
                    " column names and values"
                )
        make, rows = LoadDataFromDicts, "data"
    else:
        try:
            _known_table(dataset)
        except ValueError as error:
            raise DataError(f"the dataset {error}; a list of dicts will do too") from None
        make, rows = LoadDataFromDataset, "dataset"
    return make(
        **{rows: dataset},
        name=name,
        pipeline=pipeline,
        batch_size=batch_size,
        input_mappings=input_mappings or {},
        output_mappings=output_mappings or {},
        resources=resources or StepResources(),
    )
