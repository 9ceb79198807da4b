"""`RowStep`: a row-wise step that is one function of a row."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from asyncdistil.batch import Row
from asyncdistil.errors import StepError
from asyncdistil.steps.rows import Entries, Entry
from asyncdistil.steps.step import Step, flat
from asyncdistil.typing import StepOutput


class RowStep(Step):
    """A row-wise step whose work on one row is `transform`; a row that fails fails alone.

    Inputs and outputs: as ``inputs`` and ``outputs`` say.

    Example:
        >>> from asyncdistil.steps import RowStep
        >>> class Words(RowStep):
        ...     @property
        ...     def inputs(self):
        ...         return ["text"]
        ...
        ...     @property
        ...     def outputs(self):
        ...         return ["words"]
        ...
        ...     def transform(self, row):
        ...         return row | {"words": row["text"].split()}
        >>> next(Words().process([{"text": "good day"}]))
        [{'text': 'good day', 'words': ['good', 'day']}]
    """

    several_ports: ClassVar[bool] = False

    row_wise: Literal[True] = True

    @property
    def takes_many_ports(self) -> bool:
        """Whether `transform` takes one row per step before this one."""
        return self.several_ports

    def transform(self, *rows: Row) -> Entry:
        """Turn a row, one per port if there are several, into its entry."""
        raise NotImplementedError

    def process(self, *inputs: list[Row], **kwargs: Any) -> StepOutput:
        """Yield the resulting rows as one list, filtered ones left out, expanded ones flat."""
        yield flat([self.transform(*rows) for rows in self._aligned(inputs)])

    def entries(self, *ports: list[Row]) -> Iterator[Entries]:
        """Yield one entry per row; a row for which `transform` raises is a failed one."""
        entries: Entries = []
        for rows in self._aligned(ports):
            try:
                entries.append(self.transform(*rows))
            except Exception as error:
                entries.append(self.failed_row(rows[0], error))
        yield entries

    def _aligned(self, ports: tuple[list[Row], ...]) -> Iterator[tuple[Row, ...]]:
        if len({len(rows) for rows in ports}) > 1:
            raise StepError(
                f"step {self.name!r} got {', '.join(str(len(rows)) for rows in ports)} rows from "
                f"the steps before it: it needs equally many from each"
            )
        return zip(*ports, strict=True)
