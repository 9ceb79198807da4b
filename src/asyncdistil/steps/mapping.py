"""Renaming of columns on the way into a step and out of it. Pure.

``input_mappings={"step column": "row column"}`` renames on the way in and back on the way out;
``output_mappings={"step column": "new name"}`` renames on the way out and wins over the way
back. A column of the row that a renaming would overwrite is *carried*: it travels in the row
under a name that no step uses and takes its own name again on the way out, unless the step
wrote a column of that name. So it goes wherever the step lets the rest of the row go: into
every copy of it, and nowhere if the step drops it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from asyncdistil.batch import Row
from asyncdistil.steps.rows import Entry, FailedRow

_CARRIED = "\x00carried"
_PLANS_KEPT = 256

# Who wins when two columns of a row end up with one name; the higher one.
_WAS_CARRIED, _RENAMED_BACK, _KEPT, _RENAMED_OUT = range(4)


class ColumnMapping:
    """The renaming of one step.

    Args:
        inputs: Step column to row column.
        outputs: Step column to new name.
        reads: Columns that the step reads, in its own names.
    """

    def __init__(
        self, inputs: Mapping[str, str], outputs: Mapping[str, str], reads: Collection[str] = ()
    ) -> None:
        self.inputs = dict(inputs)
        self.outputs = {column: name for column, name in outputs.items() if column != name}
        self._into: dict[str, list[str]] = {}
        for column, source in inputs.items():
            self._into.setdefault(source, []).append(column)
        self._reads = frozenset(reads) | frozenset(inputs)
        self._back = {column: source for column, source in inputs.items() if column != source}
        self._enter_plans: dict[tuple[str, ...], list[tuple[str, str]]] = {}
        self._leave_plans: dict[tuple[str, ...], list[tuple[str, str]]] = {}

    @property
    def trivial(self) -> bool:
        """Whether rows pass as they are."""
        return not self._back and not self.outputs

    def made_from(self, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> bool:
        """Whether these mappings give this renaming."""
        return self.inputs == inputs and self.outputs == {
            column: name for column, name in outputs.items() if column != name
        }

    def enter(self, row: Row) -> Row:
        """Return the row in the step's column names."""
        columns = tuple(row)
        plan = self._enter_plans.get(columns)
        if plan is None:
            plan = self._remember(self._enter_plans, columns, self._plan_enter(columns))
        return {target: row[source] for target, source in plan}

    def leave(self, row: Row) -> Row:
        """Return a row that the step gave in the pipeline's column names."""
        columns = tuple(row)
        plan = self._leave_plans.get(columns)
        if plan is None:
            plan = self._remember(self._leave_plans, columns, self._plan_leave(columns))
        return {target: row[source] for target, source in plan}

    def leave_entry(self, entry: Entry) -> Entry:
        """Apply `leave` to whatever one input row became."""
        if entry is None:
            return None
        if isinstance(entry, FailedRow):
            return FailedRow(self.leave(entry.row), entry.failure)
        if isinstance(entry, dict):
            return self.leave(entry)
        return [
            FailedRow(self.leave(row.row), row.failure)
            if isinstance(row, FailedRow)
            else self.leave(row)
            for row in entry
        ]

    @staticmethod
    def _remember(
        plans: dict[tuple[str, ...], list[tuple[str, str]]],
        columns: tuple[str, ...],
        plan: list[tuple[str, str]],
    ) -> list[tuple[str, str]]:
        # Rows mostly share their columns; rows that never do must not fill the memory.
        if len(plans) >= _PLANS_KEPT:
            plans.clear()
        plans[columns] = plan
        return plan

    def _plan_enter(self, columns: tuple[str, ...]) -> list[tuple[str, str]]:
        plan: list[tuple[str, str]] = []
        # A row's own column of a mapped name makes way even if the row column is missing: it is
        # not what the step was told to read.
        taken = self.inputs.keys()
        for source in columns:
            targets = self._into.get(source, [])
            if not targets and source not in taken and source not in self.outputs:
                plan.append((source, source))
                continue
            # What the step makes of a column that is renamed on the way out goes elsewhere, so
            # the original must stay; and one under a name that is taken must make way.
            if not targets or any(column in self.outputs for column in targets):
                plan.append((source + _CARRIED, source))
            if targets:
                plan += [(column, source) for column in targets]
            elif source not in taken and source in self._reads:
                plan.append((source, source))
        return plan

    def _plan_leave(self, columns: tuple[str, ...]) -> list[tuple[str, str]]:
        chosen: dict[str, tuple[int, str]] = {}
        for source in columns:
            if source.endswith(_CARRIED):
                rank, target = _WAS_CARRIED, source.removesuffix(_CARRIED)
            elif source in self.outputs:
                rank, target = _RENAMED_OUT, self.outputs[source]
            elif source in self._back:
                rank, target = _RENAMED_BACK, self._back[source]
            else:
                rank, target = _KEPT, source
            if target not in chosen or rank > chosen[target][0]:
                chosen[target] = (rank, source)
        return [(target, source) for target, (_, source) in chosen.items()]
