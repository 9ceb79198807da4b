"""`GlobalStep`: all rows at once."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from asyncdistil.batch import Row
from asyncdistil.errors import StepError
from asyncdistil.graph.plan import OnError, StepKind
from asyncdistil.steps.step import Step
from asyncdistil.typing import StepOutput

if TYPE_CHECKING:
    import pyarrow as pa


class GlobalStep(Step):
    """A step that needs all rows before it can begin: deduplication, clustering, an index.

    Override ``process(rows)``, or ``process_table(table)`` to work on an Arrow table, which
    takes a fraction of the memory.

    Inputs and outputs: as ``inputs`` and ``outputs`` say.

    Example:
        >>> from asyncdistil.steps import GlobalStep, StepInput
        >>> class Share(GlobalStep):
        ...     @property
        ...     def inputs(self):
        ...         return ["n"]
        ...
        ...     @property
        ...     def outputs(self):
        ...         return ["share"]
        ...
        ...     def process(self, inputs: StepInput):
        ...         total = sum(row["n"] for row in inputs)
        ...         yield [row | {"share": row["n"] / total} for row in inputs]
        >>> next(Share().process([{"n": 1}, {"n": 3}]))
        [{'n': 1, 'share': 0.25}, {'n': 3, 'share': 0.75}]
    """

    on_error: OnError = "raise"

    def kind(self) -> StepKind:
        """``global``."""
        return "global"

    @property
    def takes_table(self) -> bool:
        """Whether the step works by `process_table`."""
        return type(self).process_table is not GlobalStep.process_table

    def process(self, *args: Any, **kwargs: Any) -> StepOutput:
        """Turn all rows into rows; see `Step.process`."""
        if not self.takes_table:
            yield from super().process(*args, **kwargs)
            return
        import pyarrow as pa

        for made in self.process_table(*(pa.Table.from_pylist(rows) for rows in args)):
            yield _rows(made)

    def process_table(self, *args: Any, **kwargs: Any) -> "Iterator[pa.Table | list[Row]]":
        """Turn a table of all rows into tables or lists of rows.

        Args:
            args: One ``pyarrow.Table`` per step before this one.
            kwargs: None; there so that an override may have any signature.

        Yields:
            Tables or lists of rows; all of them count.
        """
        raise StepError(f"step {self.name!r} has no `process_table`")

    def apply_table(self, *tables: "pa.Table") -> Iterator[list[Row]]:
        """Work on tables of the pipeline, columns mapped in and out.

        Args:
            tables: One per step before this one, in the pipeline's column names.

        Raises:
            StepError: The step yielded something else than tables and lists of rows.
        """
        mapping = self.mapping()
        entered = [_renamed(table, mapping.enter) for table in tables]
        for made in self.process_table(*entered):
            if not isinstance(made, list) and not hasattr(made, "to_pylist"):
                raise StepError(
                    f"`process_table` of step {self.name!r} yielded a {type(made).__name__}: "
                    f"yield Arrow tables or lists of rows"
                )
            rows = _rows(made)
            yield rows if mapping.trivial else [mapping.leave(row) for row in rows]


def _rows(made: Any) -> list[Row]:
    rows: list[Row] = made if isinstance(made, list) else made.to_pylist()
    return rows


def _renamed(table: "pa.Table", enter: Any) -> "pa.Table":
    """Apply the renaming of a row to the columns of a table."""
    import pyarrow as pa

    names = enter({name: name for name in table.column_names})
    if all(name == source for name, source in names.items()):
        return table
    columns = [table.column(source) for source in names.values()]
    return pa.Table.from_arrays(columns, names=list(names))
