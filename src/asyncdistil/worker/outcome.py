"""What a call of a step comes to: output rows, where each is from, which rows failed. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from operator import contains
from typing import TYPE_CHECKING, NamedTuple

from asyncdistil.batch import (
    FRESH_ORIGINS,
    SAME_ORIGINS,
    Failure,
    Origins,
    Row,
    RowFailure,
    RowSlice,
)

if TYPE_CHECKING:
    from asyncdistil.steps import Entry, FailedRow

_DICT = frozenset({dict})


class Outcome(NamedTuple):
    """Output of some input rows, in the terms of `asyncdistil.transport.messages.Result`."""

    rows: list[Row]
    origins: Origins
    failures: tuple[RowFailure, ...] = ()
    filtered: int = 0


def of_entries(entries: Sequence[Entry]) -> Outcome:
    """Flatten the entries of a row-wise step, one per input row."""
    if _DICT.issuperset(map(type, entries)):
        return Outcome(list(entries), SAME_ORIGINS)  # type: ignore[arg-type]
    rows: list[Row] = []
    index: list[int] = []
    child: list[int] = []
    failures: list[RowFailure] = []
    filtered = 0
    expanded = False
    for position, entry in enumerate(entries):
        if isinstance(entry, list):
            # A row that becomes no rows was dropped on purpose, like ``None``.
            filtered += not entry
            expanded = True
            for each in entry:
                if isinstance(each, tuple):
                    failures.append(RowFailure(position, len(rows), each.failure))
                    each = each.row
                rows.append(each)
            index += repeat(position, len(entry))
            child += range(len(entry))
            continue
        if entry is None:
            filtered += 1
            continue
        if isinstance(entry, tuple):
            failures.append(RowFailure(position, len(rows), entry.failure))
            entry = entry.row
        rows.append(entry)
        index.append(position)
        child.append(-1)
    if expanded:
        origins = Origins("children", tuple(index), tuple(child))
    elif filtered:
        origins = Origins("subset", tuple(index))
    else:
        origins = SAME_ORIGINS
    return Outcome(rows, origins, tuple(failures), filtered)


def of_batch(made: list[Row], count: int, failed: Mapping[int, FailedRow]) -> Outcome:
    """Put the output of a batch-wise step together with the null forms of its failed rows.

    A step that made as many rows as it was given keeps row ids, and null forms stand in the place
    of their rows; otherwise they follow at the end.

    Args:
        made: What the step gave for the rows that did not fail.
        count: Input rows, failed ones included.
        failed: By input position.
    """
    if len(made) == count - len(failed):
        if not failed:
            return Outcome(made, SAME_ORIGINS)
        rest = iter(made)
        rows = [failed[n].row if n in failed else next(rest) for n in range(count)]
        failures = tuple(RowFailure(n, n, failed[n].failure) for n in sorted(failed))
        return Outcome(rows, SAME_ORIGINS, failures)
    order = sorted(failed)
    return Outcome(
        made + [failed[n].row for n in order],
        FRESH_ORIGINS,
        tuple(RowFailure(n, len(made) + k, failed[n].failure) for k, n in enumerate(order)),
    )


def missing_column(rows: Sequence[Row], columns: Sequence[str]) -> str | None:
    """The first of ``columns`` that some row lacks, or ``None``."""
    for column in columns:
        if not all(map(contains, rows, repeat(column))):
            return column
    return None


def cut(slices: Sequence[RowSlice], start: int, stop: int) -> tuple[RowSlice, ...]:
    """Rows ``start`` to ``stop`` of some slices taken together."""
    parts: list[RowSlice] = []
    for piece in slices:
        size = piece.rows
        first, last = max(start, 0), min(stop, size)
        if first < last:
            parts.append(RowSlice(piece.ref, piece.start + first, piece.start + last))
        start -= size
        stop -= size
        if stop <= 0:
            break
    return tuple(parts)


def spans_of(positions: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending positions as spans of consecutive ones, the end of each excluded."""
    spans: list[tuple[int, int]] = []
    for position in positions:
        if spans and spans[-1][1] == position:
            spans[-1] = spans[-1][0], position + 1
        else:
            spans.append((position, position + 1))
    return spans


def with_short_details(failures: Sequence[RowFailure], most_chars: int) -> tuple[RowFailure, ...]:
    """Drop the details of later failures once they come to ``most_chars`` in all.

    Ten thousand rows that fail alike would otherwise not fit into a frame.
    """
    kept: list[RowFailure] = []
    for failed in failures:
        failure = failed.failure
        most_chars -= len(failure.detail) + len(failure.message)
        if most_chars < 0:
            failure = Failure(failure.kind, failure.message[:200], failure.attempts)
        kept.append(RowFailure(failed.input_row, failed.output_row, failure))
    return tuple(kept)
