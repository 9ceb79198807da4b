"""The tables behind a Distiset: files of an export, or tables in memory.

Importing this module is cheap; pyarrow and ``datasets`` are imported at the first touch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xxhash import xxh3_128, xxh3_128_hexdigest

from asyncdistil.batch import Digest
from asyncdistil.errors import CorruptRecord, StorageError

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

SPLIT = "train"
_READ_BYTES = 2**20
_DAMAGED = ".damaged"
_REMEDY = "run the pipeline again, which rebuilds it from the rows in the log and computes nothing"


class MemoryTable:
    """A table that someone holds already."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self._table.num_rows)

    def table(self) -> pa.Table:
        """The table."""
        return self._table

    def dataset(self) -> datasets.Dataset:
        """The table as a `datasets.Dataset`, without a copy."""
        import datasets
        from datasets.table import InMemoryTable

        return datasets.Dataset(InMemoryTable(self._table), split=datasets.NamedSplit(SPLIT))


class StoredTable:
    """Arrow streams of an export, mapped into memory when they are first touched.

    Args:
        root: Directory of the store.
        files: Paths relative to it, with their XXH3-128; at least one.
        rows: Rows in all of them.
        verified: Whether the files were written a moment ago by this run. Otherwise they are
            hashed before their first use.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[tuple[str, Digest]],
        *,
        rows: int,
        verified: bool = False,
    ) -> None:
        self._files = [(root / path, digest) for path, digest in files]
        self._rows = rows
        self._verified = verified
        self._table: pa.Table | None = None

    @property
    def rows(self) -> int:
        """Number of rows, as the run recorded it."""
        return self._rows

    @property
    def fingerprint(self) -> str:
        """32 hex digits; equal ones stand for equal files."""
        return xxh3_128_hexdigest(b"".join(digest for _, digest in self._files))

    def table(self) -> pa.Table:
        """All rows as one memory-mapped table.

        Raises:
            CorruptRecord: A file is gone, or is not what was written.
        """
        if self._table is None:
            import pyarrow as pa

            self._verify()
            streams = [_batches(path) for path, _ in self._files]
            batches = [batch for _, each in streams for batch in each]
            # Not concat_tables: it forgets how many rows a table without columns has.
            self._table = pa.Table.from_batches(batches, streams[0][0])
        return self._table

    def dataset(self) -> datasets.Dataset:
        """All rows as a `datasets.Dataset` over the mapped files.

        Raises:
            CorruptRecord: A file is gone, or is not what was written.
        """
        import datasets
        import pyarrow as pa
        from datasets.table import MemoryMappedTable, concat_tables

        self._verify()
        tables = []
        for path, _ in self._files:
            schema, batches = _batches(path)
            table = pa.Table.from_batches(batches, schema)
            tables.append(MemoryMappedTable(table, str(path)))
        return datasets.Dataset(
            concat_tables(tables) if len(tables) > 1 else tables[0],
            split=datasets.NamedSplit(SPLIT),
            # Two runs with equal rows share what `map` caches, and nothing is hashed for it.
            fingerprint=self.fingerprint[:16],
        )

    def _verify(self) -> None:
        for path, expected in self._files:
            try:
                # One that we have just written is only looked for.
                found = expected if self._verified and path.is_file() else _digest(path)
            except FileNotFoundError:
                message = f"the dataset file {path} is gone: {_REMEDY}"
                raise CorruptRecord(message, path=str(path)) from None
            except OSError as error:
                message = f"the dataset file {path} can't be read ({error}): {_REMEDY}"
                raise StorageError(message) from error
            if found != expected:
                # Out of the way, so that the next run sees that it has to be built again.
                with suppress(OSError):
                    os.replace(path, path.with_name(path.name + _DAMAGED))
                message = f"the dataset file {path} was changed after it was written: {_REMEDY}"
                raise CorruptRecord(message, path=str(path))
        self._verified = True


def exports_in_place(root: Path, files: Sequence[tuple[str, Digest]]) -> bool:
    """Whether all files of an export are there; their content is checked at the first touch."""
    return all((root / path).is_file() for path, _ in files)


def table_of_dataset(dataset: Any) -> pa.Table:
    """Rows of a `datasets.Dataset` as Arrow, in their order in the dataset."""
    import pyarrow as pa

    if dataset._indices is None:
        return dataset.data.table
    table = dataset.with_format("arrow")[:]
    assert isinstance(table, pa.Table)
    return table


def _batches(path: Path) -> tuple[pa.Schema, list[pa.RecordBatch]]:
    """Schema and record batches of a stream, which point into the mapped file."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
        return stream.schema, list(stream)


def _digest(path: Path) -> Digest:
    whole = xxh3_128()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_READ_BYTES):
            whole.update(piece)
    return Digest(whole.digest())
