"""``asyncdistil inspect``: the rows of a stored run, also while it goes on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from asyncdistil.batch import Row
from asyncdistil.cli.ending import UsageError, show_json
from asyncdistil.cli.plain import json_ready, printable, table
from asyncdistil.cli.stored import condition_of, opened_run
from asyncdistil.supervisor.stored_run import StoredRun

if TYPE_CHECKING:
    from asyncdistil.pipeline.condition import Condition

_HEAD_ROWS = 10
_SEED = 0
_CELL_CHARACTERS = 200


def inspect(
    wanted: str,
    step: str | None,
    cache_dir: Path | None,
    *,
    head: int | None,
    sample: int | None,
    schema: bool,
    where: str | None,
    to: Path | None,
    as_json: bool,
) -> None:
    """Show rows of a step, their columns, or write them to a file.

    Raises:
        UsageError: Nothing of the name is stored, or the condition can't be read.
        UserError: The run has no such step, or its rows no such column.
    """
    name, run = opened_run(wanted, cache_dir)
    with run:
        if step is None and not (schema or head or sample or where or to):
            _show_steps(name, run, as_json=as_json)
            return
        step = step or _only_leaf(run)
        rows: Iterable[Row] = run.rows(step)
        if where:
            rows = _found(run, step, condition_of(where))
        if sample is not None:
            rows = _sampled(rows, sample)
        elif head is not None or not (schema or to):
            rows = islice(rows, _HEAD_ROWS if head is None else head)
        if to is not None:
            _write(to, rows, as_json=as_json)
        elif schema:
            _show_schema(rows, as_json=as_json)
        else:
            _show_rows(rows, as_json=as_json)


def _only_leaf(run: StoredRun) -> str:
    leaves = run.leaves
    if len(leaves) != 1:
        known = ", ".join(run.steps) or "none yet"
        raise UsageError(f"say of which step: the run has {known}")
    return leaves[0]


def _show_steps(name: str, run: StoredRun, *, as_json: bool) -> None:
    steps = [
        {
            "step": step.name,
            "kind": step.kind,
            "rows": step.rows,
            "inputs_computed": step.inputs_computed,
            "inputs_replayed": step.inputs_replayed,
            "failed": step.failed,
        }
        for step in run.steps.values()
    ]
    if as_json:
        show_json(
            {"pipeline": name, "run": run.begin.run, "completed": run.completed, "steps": steps}
        )
        return
    state = "complete" if run.completed else "not complete"
    typer.echo(f"{name}, run {run.begin.run[:8]} ({state})")
    lines: list[Sequence[str]] = [("step", "kind", "rows", "computed", "replayed", "failed")]
    lines += [[f"{v:,}" if isinstance(v, int) else str(v) for v in s.values()] for s in steps]
    for line in table(lines):
        typer.echo(line)


def _found(run: StoredRun, step: str, condition: Condition) -> Iterator[Row]:
    """Rows of a step that meet a condition; it may ask how a row failed."""
    columns: set[str] = set()
    for part, _, commit, first in run.parts(step):
        failures = {each.output_row: each.failure for each in commit.failures}
        for output, row in enumerate(run.read(part), first):
            columns.update(map(str, row))
            if condition(row, failures.get(output)):
                yield row
    if columns:
        condition.check_columns(columns)


def _sampled(rows: Iterable[Row], count: int) -> list[Row]:
    """Rows drawn evenly, in their order; the same ones each time."""
    chosen: list[tuple[int, Row]] = []
    draw = random.Random(_SEED)
    for number, row in enumerate(rows):
        if len(chosen) < count:
            chosen.append((number, row))
        elif (place := draw.randrange(number + 1)) < count:
            chosen[place] = number, row
    return [row for _, row in sorted(chosen, key=lambda pair: pair[0])]


def _show_rows(rows: Iterable[Row], *, as_json: bool) -> None:
    if as_json:
        show_json([json_ready(row) for row in rows])
        return
    shown = 0
    for shown, row in enumerate(rows, 1):
        typer.echo(f"--- {shown}")
        for column, value in row.items():
            typer.echo(f"{printable(column)}: {printable(_cut(value))}")
    if not shown:
        typer.echo("no rows")


def _show_schema(rows: Iterable[Row], *, as_json: bool) -> None:
    kinds: dict[str, Counter[str]] = {}
    total = 0
    for row in rows:
        total += 1
        for column, value in row.items():
            kinds.setdefault(column, Counter())[type(value).__name__] += 1
    if as_json:
        columns = {column: dict(found) for column, found in kinds.items()}
        show_json(json_ready({"rows": total, "columns": columns}))
        return
    typer.echo(f"{total:,} rows")
    lines = [("column", "types", "missing")]
    for column, found in kinds.items():
        types = ", ".join(f"{kind} {count:,}" for kind, count in found.most_common())
        lines.append((printable(column), types, f"{total - found.total():,}"))
    for line in table(lines):
        typer.echo(line)


def _write(path: Path, rows: Iterable[Row], *, as_json: bool) -> None:
    if path.suffix != ".parquet":
        raise UsageError(f"--to {path}: rows are written as Parquet, so the name ends in .parquet")
    import pyarrow.parquet as pq

    from asyncdistil.distiset.arrow import table_of

    made, notes = table_of(list(rows))
    try:
        pq.write_table(made, path)
    except OSError as error:
        raise UsageError(f"{path} can't be written: {error}") from None
    if as_json:
        show_json({"path": str(path), "rows": made.num_rows, "notes": list(notes)})
        return
    typer.echo(f"{made.num_rows:,} rows are in {path}")
    for note in notes:
        typer.echo(note)


def _cut(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _CELL_CHARACTERS else f"{text[: _CELL_CHARACTERS - 1]}…"
