"""Arrow tables as rows. Imports pyarrow only when called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from xxhash import xxh3_128

from asyncdistil.batch import Row
from asyncdistil.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

TABLE_CHUNK_ROWS = 1000
_HASHED_ROWS = 65_536


def rows_of_table(table: pa.Table | pa.RecordBatch) -> list[Row]:
    """Return the rows of a table.

    Raises:
        DataError: A time is more exact than the microsecond that Python's times hold.
    """
    rows: list[Row] = _in_microseconds(table).to_pylist()
    return rows


def _in_microseconds(table: pa.Table | pa.RecordBatch) -> pa.Table | pa.RecordBatch:
    """Cast nanosecond columns, which Arrow would otherwise give as pandas objects."""
    import pyarrow as pa

    fields = list(table.schema)
    for position, field in enumerate(fields):
        if pa.types.is_timestamp(field.type) and field.type.unit == "ns":
            kind = pa.timestamp("us", field.type.tz)
        elif pa.types.is_duration(field.type) and field.type.unit == "ns":
            kind = pa.duration("us")
        else:
            continue
        try:
            column = table.column(position).cast(kind)
        except pa.ArrowInvalid as error:
            raise DataError(
                f"column {field.name!r} has times with nanoseconds, which rows can't hold "
                f"({error}): round it to microseconds"
            ) from None
        table = table.set_column(position, field.with_type(kind), column)
    return table


def table_chunks(table: pa.Table, offset: int = 0) -> Iterator[list[Row]]:
    """Yield the rows after the first ``offset`` in chunks of `TABLE_CHUNK_ROWS`."""
    for start in range(offset, table.num_rows, TABLE_CHUNK_ROWS):
        yield rows_of_table(table.slice(start, TABLE_CHUNK_ROWS))


def table_of_frame(frame: object) -> pa.Table:
    """Return a pandas DataFrame as a table, its index left out.

    Raises:
        DataError: A column mixes types.
    """
    import pyarrow as pa

    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(
            f"the DataFrame can't be read as a table: {error}; give each column one type, or pass "
            f"frame.to_dict('records')"
        ) from error


class _HashingSink:
    """A binary file that keeps nothing but the hash of what was written."""

    closed = False

    def __init__(self, seed: bytes) -> None:
        self.hash = xxh3_128(seed)

    def write(self, data: bytes | memoryview) -> int:
        self.hash.update(data)
        return len(data)

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def digest_of_table(table: pa.Table) -> bytes:
    """Name a table by its schema and content, 16 bytes, however its columns are chunked."""
    import pyarrow as pa

    sink = _HashingSink(f"asyncdistil/table/1:{table.num_rows}:".encode())
    # Metadata such as pandas' own notes can't change a row.
    plain = table.replace_schema_metadata(None).unify_dictionaries()
    with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), plain.schema) as stream:
        for start in range(0, plain.num_rows, _HASHED_ROWS):
            # Fixed blocks, copied row by row: the bytes depend neither on how the table was
            # chunked nor on where its slices began.
            block = plain.slice(start, _HASHED_ROWS).combine_chunks()
            stream.write_table(block.take(pa.array(range(block.num_rows))))
    return sink.hash.digest()
