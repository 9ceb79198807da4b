"""What the graph knows about a step: its declarations, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from asyncdistil.batch import StepName
from asyncdistil.graph.plan import StepKind


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """One step as validation sees it.

    Columns are the step's own names, before its mappings. `reads` and `writes` give the names that
    the rows carry.

    Attributes:
        name: Unique in the pipeline.
        kind: ``generator``, ``row``, ``batch`` or ``global``.
        required: Columns that must be there.
        optional: Columns that are used if they are there.
        outputs: Columns that the step adds or replaces.
        input_mappings: Step column to row column.
        output_mappings: Step column to the new name.
        drops: Row columns that do not survive the step.
        drops_rest: Whether only the outputs survive (a projection such as ``KeepColumns``).
        open_columns: Whether rows may hold columns that were not declared, because they are known
            only once data is read; nothing below is then refused for a missing column.
        input_batch_size: Rows of a call, at least 1; a generator's ``batch_size``.
        accepts_many: Whether ``process`` takes ``*inputs``.
        inner_join: Whether a row id that is missing in one port is dropped.
    """

    name: StepName
    kind: StepKind
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    input_mappings: Mapping[str, str] = field(default_factory=dict)
    output_mappings: Mapping[str, str] = field(default_factory=dict)
    drops: tuple[str, ...] = ()
    drops_rest: bool = False
    open_columns: bool = False
    input_batch_size: int = 50
    accepts_many: bool = False
    inner_join: bool = False

    @property
    def is_generator(self) -> bool:
        """Whether the step makes rows out of nothing."""
        return self.kind == "generator"

    @property
    def is_global(self) -> bool:
        """Whether the step waits for all of its rows."""
        return self.kind == "global"

    @property
    def reads(self) -> tuple[str, ...]:
        """Row columns that must be there, in the order declared."""
        return tuple(self.input_mappings.get(column, column) for column in self.required)

    @property
    def writes(self) -> tuple[str, ...]:
        """Row columns that the step adds or replaces, in the order declared.

        A column that is input and output goes back to the row column it was read from, unless the
        output mappings send it elsewhere.
        """
        return tuple(
            self.output_mappings.get(column, self.input_mappings.get(column, column))
            for column in self.outputs
        )
