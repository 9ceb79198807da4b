"""A chunk: consecutive rows of a stream, known by reference, with their ids in this run."""

from __future__ import annotations

import msgspec

from asyncdistil.batch import RowId, RowSlice
from asyncdistil.graph.plan import OnError
from asyncdistil.supervisor import ids
from asyncdistil.supervisor.ids import Runs

Slices = tuple[RowSlice, ...]


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """Rows that travel together.

    Attributes:
        key: Orders chunks of one stream. Never greater than the id of the first row; smaller
            when rows at the front were filtered out.
        ports: Slices per input port of the reader; a producer's chunk has one port.
        runs: Ids of the rows; rows at one position of every port share one id.
        rows: Number of rows.
        failed: Positions of rows that are the null form of a failed row.
        ticket: Append that made the rows count, numbered by `RunState.append`; 0 if they were
            stored before this run.
        replayed: Whether the commit was written before this run read it.
    """

    key: RowId
    ports: tuple[Slices, ...]
    runs: Runs
    rows: int
    failed: tuple[int, ...] = ()
    ticket: int = 0
    replayed: bool = False

    @property
    def size_bytes(self) -> int:
        """Stored size of its rows; a part of a record counts in proportion."""
        total = 0
        for slices in self.ports:
            for part in slices:
                total += part.ref.length * (part.stop - part.start) // part.ref.rows
        return total


def cut_slices(slices: Slices, start: int, stop: int) -> Slices:
    """Rows ``start`` to ``stop`` of concatenated slices."""
    if start == 0 and len(slices) == 1 and slices[0].stop - slices[0].start == stop:
        return slices
    kept: list[RowSlice] = []
    position = 0
    for part in slices:
        rows = part.stop - part.start
        low, high = max(start - position, 0), min(stop - position, rows)
        if low < high:
            kept.append(RowSlice(part.ref, part.start + low, part.start + high))
        position += rows
        if position >= stop:
            break
    return tuple(kept)


def cut(chunk: Chunk, start: int, stop: int) -> Chunk:
    """Rows ``start`` to ``stop`` of a chunk; the first part keeps the chunk's key."""
    if start == 0 and stop == chunk.rows:
        return chunk
    runs = ids.between(chunk.runs, start, stop)
    return Chunk(
        key=chunk.key if start == 0 else ids.first_id(runs),
        ports=tuple(cut_slices(slices, start, stop) for slices in chunk.ports),
        runs=runs,
        rows=stop - start,
        failed=tuple(p - start for p in chunk.failed if start <= p < stop),
        ticket=chunk.ticket,
        replayed=chunk.replayed,
    )


def concatenate(chunks: list[Chunk]) -> Chunk:
    """One chunk of consecutive ones, at least one, all with as many ports."""
    if len(chunks) == 1:
        return chunks[0]
    failed: list[int] = []
    rows = 0
    for chunk in chunks:
        failed.extend(rows + position for position in chunk.failed)
        rows += chunk.rows
    return Chunk(
        key=chunks[0].key,
        ports=tuple(
            tuple(part for chunk in chunks for part in chunk.ports[port])
            for port in range(len(chunks[0].ports))
        ),
        runs=ids.join([chunk.runs for chunk in chunks]),
        rows=rows,
        failed=tuple(failed),
        ticket=max(chunk.ticket for chunk in chunks),
        replayed=all(chunk.replayed for chunk in chunks),
    )


def read_by(chunk: Chunk, policy: OnError) -> list[Chunk]:
    """What a reader sees of a chunk: all of it, or all but the failed rows."""
    if policy != "skip" or not chunk.failed:
        return [chunk]
    parts: list[Chunk] = []
    start = 0
    for position in (*chunk.failed, chunk.rows):
        if start < position:
            parts.append(cut(chunk, start, position))
        start = position + 1
    return parts
