"""Steps that rearrange the columns of a row."""

import json
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from asyncdistil.batch import Row
from asyncdistil.errors import StepError
from asyncdistil.steps.metadata import METADATA_COLUMN, split_statistics
from asyncdistil.steps.row_step import RowStep
from asyncdistil.steps.rows import Entry
from asyncdistil.typing import StepColumns

# A package in distilabel: its modules are found below this one by name only.
__path__: list[str] = []


class KeepColumns(RowStep):
    """Keep some columns of every row, in the order given, and drop the others.

    Inputs and outputs: ``columns``.

    Attributes:
        columns: The columns to keep; each row must have all of them.

    Example:
        >>> from asyncdistil.steps import KeepColumns
        >>> next(KeepColumns(columns=["b", "a"]).process([{"a": 1, "b": 2, "c": 3}]))
        [{'b': 2, 'a': 1}]
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


class ExpandColumns(RowStep):
    """Turn a row with lists into one row per item.

    Several columns are expanded side by side: the n-th row gets the n-th item of each, ``None``
    where a list is shorter. An empty list gives no row; ``None`` in place of a list, as a failed
    row has it, gives one row with ``None``.

    Inputs: ``columns``. Outputs: the same, or the names given for their items.

    Attributes:
        columns: Columns with lists; as a dict, each with the name for its items (``None`` for
            the same name). A list whose items get another name stays in every row.
        encoded: Whether the lists are JSON text, or which of the columns are.
        split_statistics: Whether token counts in ``distilabel_metadata`` are shared out among
            the rows, so that their sum stays what it was.

    Example:
        >>> from asyncdistil.steps import ExpandColumns
        >>> step = ExpandColumns(columns={"texts": "text"})
        >>> next(step.process([{"n": 1, "texts": ["a", "b"]}]))
        [{'n': 1, 'texts': ['a', 'b'], 'text': 'a'}, {'n': 1, 'texts': ['a', 'b'], 'text': 'b'}]
        >>> next(ExpandColumns(columns=["texts"]).process([{"texts": ["a", "b"]}]))
        [{'texts': 'a'}, {'texts': 'b'}]
    """

    version: ClassVar[int] = 1

    columns: dict[str, str | None]
    encoded: bool | list[str] = False
    split_statistics: bool = False

    @field_validator("columns", mode="before")
    @classmethod
    def _list_or_dict(cls, value: Any) -> Any:
        if not value:
            raise ValueError("name at least one column")
        return dict.fromkeys(value) if isinstance(value, list) else value

    @property
    def inputs(self) -> StepColumns:
        """The columns with lists."""
        return list(self.columns)

    @property
    def outputs(self) -> StepColumns:
        """The columns for their items."""
        return [name or column for column, name in self.columns.items()]

    def transform(self, *rows: Row) -> Entry:
        """Return one row per item."""
        (row,) = rows
        lists = {column: self._items(column, row) for column in self.columns}
        present = [items for items in lists.values() if items is not None]
        count = max(map(len, present)) if present else 1
        if count == 0:
            return None
        metadata = (
            split_statistics(row[METADATA_COLUMN], count)
            if self.split_statistics and METADATA_COLUMN in row
            else None
        )
        expanded: list[Row] = []
        for place in range(count):
            one = dict(row)
            for column, items in lists.items():
                there = items is not None and place < len(items)
                one[self.columns[column] or column] = items[place] if items and there else None
            if metadata is not None:
                one[METADATA_COLUMN] = metadata[place]
            expanded.append(one)
        return expanded

    def _items(self, column: str, row: Row) -> list[Any] | tuple[Any, ...] | None:
        value = row[column]
        encoded = self.encoded if isinstance(self.encoded, bool) else column in self.encoded
        if encoded and isinstance(value, str):
            value = json.loads(value)
        if value is not None and not isinstance(value, list | tuple):
            raise StepError(
                f"column {column!r} holds a {type(value).__name__}, not a list: step "
                f"{self.name!r} expands lists"
                + ("" if encoded else "; if it is JSON text, set encoded=True")
            )
        return value


class MergeColumns(RowStep):
    """Put the values of several columns into one list, in the order of the columns.

    A column that holds a list gives its items. The merged columns leave the row.

    Inputs: ``columns``. Outputs: ``output_column``.

    Attributes:
        columns: The columns to merge.
        output_column: Name of the list.

    Example:
        >>> from asyncdistil.steps import MergeColumns
        >>> step = MergeColumns(columns=["one", "more"], output_column="all")
        >>> next(step.process([{"one": 1, "more": [2, 3], "other": 4}]))
        [{'other': 4, 'all': [1, 2, 3]}]
    """

    version: ClassVar[int] = 1

    columns: Annotated[list[str], Field(min_length=1)]
    output_column: str = "merged_column"

    @property
    def inputs(self) -> StepColumns:
        """The columns to merge."""
        return self.columns

    @property
    def outputs(self) -> StepColumns:
        """The list."""
        return [self.output_column]

    @property
    def dropped_columns(self) -> tuple[str, ...]:
        """The merged columns."""
        return tuple(column for column in self.columns if column != self.output_column)

    def transform(self, *rows: Row) -> Row:
        """Return the row with the list in place of the columns."""
        (row,) = rows
        merged: list[Any] = []
        for column in self.columns:
            value = row[column]
            if isinstance(value, list):
                merged += value
            else:
                merged.append(value)
        rest = {name: value for name, value in row.items() if name not in self.columns}
        return rest | {self.output_column: merged}
