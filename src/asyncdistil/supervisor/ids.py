"""Arithmetic on runs of row ids. Pure; ids are computed here and stored nowhere else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from asyncdistil.batch import IdRun, Origins, RowId

END: RowId = (1 << 62,)
"""Greater than the id of any row: a stream whose frontier is ``END`` has ended."""

START: RowId = ()
"""Not greater than the id of any row."""

Runs = tuple[IdRun, ...]


def row_id(run: IdRun, position: int) -> RowId:
    """Id of the row at ``position`` of one run."""
    return (*run.prefix, run.start + position)


def first_id(runs: Runs) -> RowId:
    """Id of the first row; ``END`` if there is none."""
    return row_id(runs[0], 0) if runs else END


def last_id(runs: Runs) -> RowId:
    """Id of the last row; ``START`` if there is none."""
    return row_id(runs[-1], runs[-1].count - 1) if runs else START


def successor(row: RowId) -> RowId:
    """Smallest id greater than ``row`` and than all of its descendants."""
    return (*row[:-1], row[-1] + 1)


def count(runs: Runs) -> int:
    """Number of rows."""
    return sum(run.count for run in runs)


def split(runs: Runs, rows: int) -> tuple[Runs, Runs]:
    """Cut after the first ``rows`` rows."""
    head: list[IdRun] = []
    for position, run in enumerate(runs):
        if rows <= 0:
            return tuple(head), runs[position:]
        if run.count > rows:
            head.append(IdRun(run.prefix, run.start, rows))
            rest = IdRun(run.prefix, run.start + rows, run.count - rows)
            return tuple(head), (rest, *runs[position + 1 :])
        head.append(run)
        rows -= run.count
    return tuple(head), ()


def between(runs: Runs, start: int, stop: int) -> Runs:
    """The ids of rows ``start`` to ``stop``."""
    if start == 0 and len(runs) == 1 and stop == runs[0].count:
        return runs
    return split(split(runs, start)[1], stop - start)[0]


def join(parts: Sequence[Runs]) -> Runs:
    """Concatenate, merging runs that continue one another."""
    merged: list[IdRun] = []
    for runs in parts:
        for run in runs:
            if merged:
                last = merged[-1]
                if last.prefix == run.prefix and last.start + last.count == run.start:
                    merged[-1] = IdRun(last.prefix, last.start, last.count + run.count)
                    continue
            merged.append(run)
    return tuple(merged)


def each(runs: Runs) -> Iterator[RowId]:
    """Every id, in order."""
    for run in runs:
        for number in range(run.start, run.start + run.count):
            yield (*run.prefix, number)


def derive(runs: Runs, origins: Origins) -> Runs:
    """Ids of output rows, from the ids of the input rows and where each output row came from.

    Args:
        runs: Ids of the input rows.
        origins: As a commit recorded them. ``fresh`` outputs become children of the first input
            row, which keeps them in source order; the caller notes that they stand for no row.
    """
    if origins.kind == "same":
        return runs
    ids = list(each(runs))
    if origins.kind == "subset":
        return join([(IdRun(ids[i][:-1], ids[i][-1], 1),) for i in origins.index])
    if origins.kind == "children":
        return join(
            [
                (IdRun(ids[i][:-1], ids[i][-1], 1),) if child < 0 else (IdRun(ids[i], child, 1),)
                for i, child in zip(origins.index, origins.child, strict=True)
            ]
        )
    raise ValueError(f"origins of kind {origins.kind!r} have no ids of their own")
