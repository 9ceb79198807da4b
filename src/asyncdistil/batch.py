"""The nouns: a row, its identity, and a reference to a batch of rows on disk.

A batch is encoded once, appended to a segment file, and from then on spoken of by reference. A
`BatchRef` names one segment record; a `RowSlice` names some consecutive rows of it. Row ids are
never stored inside a row: they are computed by the supervisor from the ids of a step's input and
the `Origins` that the commit recorded, so that a replayed batch gets the ids of *this* run.
"""

from __future__ import annotations

from typing import Any, NewType, TypeAlias

import msgspec

Row: TypeAlias = dict[str, Any]
"""One row: column name to value. Any value the codec covers."""

StepName = NewType("StepName", str)
Lsn = NewType("Lsn", int)
"""Dense number of a record in the commit log, from 1; never reused."""
SegmentId = NewType("SegmentId", int)
"""Number of a segment file within one store, from 1; never reused."""
Digest = NewType("Digest", bytes)
"""16 bytes of XXH3-128, big-endian (``xxh3_128_digest``)."""
RunId = NewType("RunId", str)
"""32 hex digits, random; a run that is taken up again keeps its id."""

RowId: TypeAlias = tuple[int, ...]
"""Source ordinal, then child ordinals. Compared as a tuple it gives source order."""


class IdRun(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Consecutive row ids ``prefix + (start,)`` to ``prefix + (start + count - 1,)``."""

    prefix: RowId
    start: int
    count: int


class BatchRef(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One segment record holding encoded rows.

    Attributes:
        segment: Which segment file of the store.
        offset: First byte of the record in that file.
        length: Bytes of the whole record, padding included.
        rows: Rows in the record, at least 1.
        checksum: XXH3-64 of meta and body, as in the record header.
        digest: Unseeded XXH3-128 over the concatenated row digests; names the *content*.
    """

    segment: SegmentId
    offset: int
    length: int
    rows: int
    checksum: int
    digest: Digest


class RowSlice(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Rows ``start`` (included) to ``stop`` (excluded) of one record."""

    ref: BatchRef
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """Number of rows in the slice."""
        return self.stop - self.start

    @property
    def whole(self) -> bool:
        """Whether the slice is the entire record."""
        return self.start == 0 and self.stop == self.ref.rows


class Origins(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where each output row of a commit comes from, relative to the rows of its input.

    Attributes:
        kind: ``same``: output row i is input row i. ``subset``: output row i is input row
            ``index[i]`` (rows were filtered). ``children``: output row i is child
            ``child[i]`` of input row ``index[i]``, or that row itself where ``child[i]`` is -1.
            ``fresh``: the outputs belong to no single input row.
        index: Input row positions, ascending; empty for ``same`` and ``fresh``.
        child: Child ordinals, as long as ``index``; empty unless ``children``.
    """

    kind: str
    index: tuple[int, ...] = ()
    child: tuple[int, ...] = ()


SAME_ORIGINS = Origins("same")
FRESH_ORIGINS = Origins("fresh")


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """Why one row failed. A record, never a value in the row.

    Attributes:
        kind: Qualified name of the exception class, or a reply class such as ``refused``.
        message: One paragraph; secrets already removed.
        attempts: Tries made, at least 1.
        detail: Traceback or raw reply, cut at 16 KiB.
    """

    kind: str
    message: str
    attempts: int = 1
    detail: str = ""


class RowFailure(msgspec.Struct, frozen=True, array_like=True):
    """A failed row of a commit.

    Attributes:
        input_row: Position of the row in the commit's input.
        output_row: Position of its null form in the commit's output, or -1 if it has none.
        failure: Why.
    """

    input_row: int
    output_row: int
    failure: Failure


class Usage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the model calls of one batch took.

    Attributes:
        requests: Requests answered by the service.
        cached: Requests answered from the memo.
        input_tokens: Paid prompt tokens.
        output_tokens: Paid completion tokens.
        cost_microusd: Paid, in millionths of a US dollar.
        cached_cost_microusd: What the cached answers had cost when they were paid.
    """

    requests: int = 0
    cached: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_microusd: int = 0
    cached_cost_microusd: int = 0
