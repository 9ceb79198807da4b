"""What loaders share: cutting rows into batches, naming rows by their content."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from xxhash import xxh3_128

from asyncdistil.batch import Row
from asyncdistil.codec import encode_rows

_HASHED_ROWS = 4096
COLUMNS_FROM_ROWS = 100
"""Rows that a loader looks at to learn the columns of its data."""


def columns_of(rows: Sequence[Row]) -> list[str]:
    """Columns of the first rows, in the order in which they first appear."""
    return list(dict.fromkeys(column for row in rows[:COLUMNS_FROM_ROWS] for column in row))


def batches_of(
    rows: Sequence[Row], offset: int, batch_size: int
) -> Iterator[tuple[list[Row], bool]]:
    """Cut rows into batches; the last one says so, and is empty if no row is left.

    The rows are copies, so that a step that changes them in place leaves the given ones alone.
    """
    for start in range(offset, max(len(rows), offset + 1), batch_size):
        batch = [dict(row) for row in rows[start : start + batch_size]]
        yield batch, start + batch_size >= len(rows)


def digest_of_rows(rows: Sequence[Row], *, step: str) -> bytes:
    """Name rows by their content, 16 bytes.

    Raises:
        UnencodableValue: A row holds a value that no codec type covers.
    """
    whole = xxh3_128(f"asyncdistil/rows/1:{len(rows)}:".encode())
    for start in range(0, len(rows), _HASHED_ROWS):
        whole.update(encode_rows(rows[start : start + _HASHED_ROWS], step=step).body)
    return whole.digest()


def recut(
    chunks: Iterable[list[Row]], batch_size: int, limit: int | None = None
) -> Iterator[tuple[list[Row], bool]]:
    """Cut a stream of rows into batches; the last one says so, and is empty if there are no rows.

    It reads ahead by one chunk at most, because only that tells which batch is the last.

    Args:
        chunks: Rows in pieces of any size.
        batch_size: Rows of a batch, at least 1.
        limit: Rows after which the stream is left; ``None`` for all.
    """
    held: list[Row] = []
    left = limit
    for chunk in chunks if limit is None or limit > 0 else ():
        if left is not None:
            chunk = chunk[:left]
            left -= len(chunk)
        held += chunk
        start = 0
        # One row stays held, so that the last batch is known when it goes.
        while len(held) - start > batch_size:
            yield held[start : start + batch_size], False
            start += batch_size
        del held[:start]
        if left == 0:
            break
    yield held, True
