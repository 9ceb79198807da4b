"""One leaf becomes Arrow files, in memory that does not grow with its rows.

Rows are collected into chunks. Each chunk is written, as a record batch, with the columns known
by then: the file on disk is an Arrow IPC *stream*, the format that ``datasets`` maps into memory
and reopens in its own worker processes. When a chunk shows that a column needs a wider type, the
stream is ended and a new one begun. At the end only streams that are too narrow are written once
more, batch by batch; the others are files of the export as they are.

Nothing appears under its final name before it is whole and synced (temporary name, fsync, rename,
fsync of the directory). Names of steps and runs never become paths.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from xxhash import xxh3_128

from asyncdistil.batch import Digest, Row
from asyncdistil.distiset.arrow import arrow_schema, batch_of, widened
from asyncdistil.distiset.columns import columns_of
from asyncdistil.distiset.shape import NULL, Shape, members_layout, merge_members, notes
from asyncdistil.log.files import Files, LocalFiles, make_durable_dir, write_all

CHUNK_ROWS = 10_000
CHUNK_BYTES = 16 * 2**20
SHARD_BYTES = 500 * 2**20
_TEMPORARY = ".part"


class ExportFiles(NamedTuple):
    """What an export left on disk.

    Attributes:
        files: Paths relative to the store, with their XXH3-128.
        rows: Rows in all of them.
        notes: Columns that had to change form, one sentence each.
    """

    files: tuple[tuple[str, Digest], ...]
    rows: int
    notes: tuple[str, ...]


class _HashingFile(io.RawIOBase):
    """A new file that knows the XXH3-128 of what was written to it."""

    def __init__(self, path: Path, files: Files) -> None:
        self._files = files
        self._descriptor = files.create(path)
        self._hash = xxh3_128()
        self.size_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        with memoryview(data).cast("B") as view:
            self._hash.update(view)
            written = write_all(self._files, self._descriptor, view)
        self.size_bytes += written
        return written

    def sync(self) -> Digest:
        self._files.fdatasync(self._descriptor)
        return Digest(self._hash.digest())

    def close(self) -> None:
        if not self.closed:
            self._files.close(self._descriptor)
        super().close()


@dataclass(slots=True)
class _Part:
    """One stream: its columns when it was begun, and what is in it."""

    path: Path
    shapes: dict[str, Shape]
    file: _HashingFile
    stream: pa.RecordBatchStreamWriter
    rows: int = 0
    digest: Digest = field(default=Digest(b""))

    def write(self, batch: pa.RecordBatch) -> None:
        self.stream.write_batch(batch)
        self.rows += batch.num_rows


class LeafWriter:
    """Collects the rows of one leaf and writes them as Arrow IPC streams.

    Args:
        store: Directory of the store.
        folder: Directory of the files, relative to the store.
        name: Start of the file names: 32 hex digits that stand for the leaf.
        columns: Columns known beforehand; they exist even if no row arrives.
        files: The disk.
        chunk_rows: Most rows of a record batch.
        chunk_bytes: Encoded bytes of rows after which a record batch is written.
        shard_bytes: Size at which a file is ended and the next one begun.

    Raises:
        OSError: From any method; the disk refused.
    """

    def __init__(
        self,
        store: Path,
        folder: str,
        name: str,
        *,
        columns: Iterable[str] = (),
        files: Files | None = None,
        chunk_rows: int = CHUNK_ROWS,
        chunk_bytes: int = CHUNK_BYTES,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self._files = files or LocalFiles()
        self._store = store
        self._folder = folder
        self._name = name
        self._chunk_rows = chunk_rows
        self._chunk_bytes = chunk_bytes
        self._shard_bytes = shard_bytes
        self._shapes: dict[str, Shape] = dict.fromkeys(columns, NULL)
        self._waiting: list[Row] = []
        self._waiting_bytes = 0
        self._parts: list[_Part] = []
        self._open: _Part | None = None
        self._serial = 0
        self._make_directories()
        self._remove_leftovers()

    def add(self, rows: Sequence[Row], size_bytes: int) -> None:
        """Take rows that follow the ones before.

        Args:
            rows: In source order.
            size_bytes: Their encoded size, an estimate of the memory they take.
        """
        taken = 0
        while taken < len(rows):
            piece = rows[taken : taken + self._chunk_rows - len(self._waiting)]
            self._waiting.extend(piece)
            self._waiting_bytes += size_bytes * len(piece) // len(rows)
            taken += len(piece)
            if len(self._waiting) >= self._chunk_rows or self._waiting_bytes >= self._chunk_bytes:
                self._write_chunk()

    def finish(self) -> ExportFiles:
        """Bring all files to one schema, sync them and give them their names."""
        if self._waiting or not self._parts:
            self._write_chunk()
        self._end_part()
        parts = self._in_one_schema()
        named = []
        for number, part in enumerate(parts):
            relative = f"{self._folder}/{self._name}-{number}.arrow"
            self._files.replace(part.path, self._store / relative)
            named.append((relative, part.digest))
        self._files.fsync_dir(self._store / self._folder)
        return ExportFiles(tuple(named), sum(part.rows for part in parts), notes(self._shapes))

    def abandon(self) -> None:
        """Give up: close and remove what was written."""
        if self._open is not None:
            self._open.file.close()
            self._open = None
        self._remove_leftovers()

    def _write_chunk(self) -> None:
        rows, self._waiting, self._waiting_bytes = self._waiting, [], 0
        columns = columns_of(rows)
        seen = {name: column.shape for name, column in columns.items()}
        self._shapes = merge_members(self._shapes, seen)
        part = self._part_for(self._shapes)
        if rows:
            part.write(batch_of(columns, self._shapes, len(rows)))

    def _part_for(self, shapes: dict[str, Shape]) -> _Part:
        part = self._open
        if part is not None and (
            part.file.size_bytes >= self._shard_bytes
            or members_layout(part.shapes) != members_layout(shapes)
        ):
            self._end_part()
        if self._open is None:
            self._open = self._begin_part(shapes)
            self._parts.append(self._open)
        return self._open

    def _begin_part(self, shapes: dict[str, Shape]) -> _Part:
        path = self._store / self._folder / f"{self._name}-{self._serial}{_TEMPORARY}"
        self._serial += 1
        file = _HashingFile(path, self._files)
        return _Part(path, dict(shapes), file, pa.ipc.new_stream(file, arrow_schema(shapes)))

    def _end_part(self) -> None:
        part, self._open = self._open, None
        if part is not None:
            part.stream.close()
            part.digest = part.file.sync()
            part.file.close()

    def _in_one_schema(self) -> list[_Part]:
        """Write streams with too narrow types once more, neighbours into one."""
        final = members_layout(self._shapes)
        narrow, self._parts = self._parts, []
        done: list[_Part] = []
        for part in narrow:
            if members_layout(part.shapes) == final:
                self._end_part()
                done.append(part)
                continue
            with pa.memory_map(str(part.path)) as source, pa.ipc.open_stream(source) as batches:
                for batch in batches:
                    target = self._part_for(self._shapes)
                    if not done or done[-1] is not target:
                        done.append(target)
                    target.write(widened(batch, part.shapes, self._shapes))
            self._files.unlink(part.path)
        self._end_part()
        return done

    def _make_directories(self) -> None:
        path = self._store
        for name in Path(self._folder).parts:
            path /= name
            make_durable_dir(self._files, path)

    def _remove_leftovers(self) -> None:
        folder = self._store / self._folder
        for name in self._files.listdir(folder):
            if name.startswith(f"{self._name}-") and name.endswith(_TEMPORARY):
                self._files.unlink(folder / name)
