"""Finding data files, naming them by content, reading rows out of them.

Imports fsspec and pyarrow only when called.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any, Literal, NamedTuple, TypeAlias

import msgspec
from xxhash import xxh3_128, xxh3_128_digest

from asyncdistil.batch import Row
from asyncdistil.errors import DataError
from asyncdistil.steps.tables import TABLE_CHUNK_ROWS, rows_of_table, table_chunks

FileType: TypeAlias = Literal["json", "jsonl", "csv", "tsv", "parquet", "text"]

_SUFFIXES: Mapping[str, FileType] = {
    "json": "json",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "csv": "csv",
    "tsv": "tsv",
    "parquet": "parquet",
    "txt": "text",
    "text": "text",
}
_COMPRESSED = frozenset({"gz", "bz2", "xz", "zst"})
_READ_BYTES = 4 * 1024 * 1024


class DataFile(NamedTuple):
    """A file in some file system.

    Attributes:
        system: An ``fsspec`` file system.
        path: Path within it.
        type: How its rows are written.
    """

    system: Any
    path: str
    type: FileType

    @property
    def local(self) -> bool:
        """Whether it lies on this machine."""
        return bool(getattr(self.system, "local_file", False))

    def open(self) -> IO[bytes]:
        """Open it for reading, decompressed if its name says that it is compressed."""
        from fsspec.core import OpenFile

        compression = "infer" if self.type != "parquet" else None
        handle: IO[bytes] = OpenFile(
            self.system, self.path, mode="rb", compression=_compression(self.path, compression)
        ).open()
        return handle


def _compression(path: str, compression: str | None) -> str | None:
    from fsspec.core import get_compression

    found: str | None = get_compression(path, compression)
    return found


def type_of(path: str) -> FileType | None:
    """Return how a file is written, by its suffix; ``None`` if the suffix says nothing."""
    parts = path.rsplit("/", 1)[-1].lower().split(".")
    if len(parts) > 2 and parts[-1] in _COMPRESSED:
        parts.pop()
    return _SUFFIXES.get(parts[-1]) if len(parts) > 1 else None


def find_files(
    places: Iterable[str],
    *,
    filetype: FileType | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> list[DataFile]:
    """Find the files that paths, glob patterns and directories stand for.

    A directory stands for all files below it whose suffix is known, hidden ones left out. What
    one place stands for is sorted by path; the places keep their order.

    Args:
        places: Paths or ``fsspec`` URLs.
        filetype: How the files are written, whatever their suffix.
        storage_options: For the file system.

    Raises:
        DataError: A place stands for no file, or for files of an unknown or of several types.
    """
    from fsspec.core import url_to_fs

    files: list[DataFile] = []
    for place in places:
        system, path = url_to_fs(place, **(storage_options or {}))
        if system.isfile(path):
            found, strict = [path], True
        elif system.isdir(path):
            found, strict = sorted(filter(_visible(path), system.find(path))), False
        else:
            found = sorted(match for match in system.glob(path) if system.isfile(match))
            strict = True
        typed = [(match, filetype or type_of(match)) for match in found]
        if strict and (unknown := [match for match, kind in typed if kind is None]):
            raise DataError(
                f"the suffix of {unknown[0]!r} does not say what it is: set filetype to one of "
                f"{sorted(set(_SUFFIXES.values()))}"
            )
        known = [DataFile(system, match, kind) for match, kind in typed if kind is not None]
        if not known:
            raise DataError(f"{place!r} stands for no data file: check the path or the pattern")
        files += known
    kinds = {"json" if file.type == "jsonl" else file.type for file in files}
    if len(kinds) > 1:
        raise DataError(
            f"the data files are of several types, {', '.join(sorted(kinds))}: name files of one "
            f"type, for instance with a pattern such as '*.jsonl'"
        )
    return files


def _visible(root: str) -> Callable[[str], bool]:
    def visible(path: str) -> bool:
        return not any(part.startswith((".", "__")) for part in path[len(root) :].split("/"))

    return visible


def digest_of_files(files: Iterable[DataFile]) -> bytes:
    """Name files by what is in them, 16 bytes: local ones by content, others by version.

    Paths don't count, so moved files are the same data.
    """
    whole = b"".join(
        _content(file.system, file.path) if file.local else _version(file) for file in files
    )
    return xxh3_128_digest(b"asyncdistil/files/1:" + whole)


def _content(system: Any, path: str) -> bytes:
    content = xxh3_128()
    with system.open(path, "rb") as handle:
        while block := handle.read(_READ_BYTES):
            content.update(block)
    return content.digest()


def _version(file: DataFile) -> bytes:
    # What the file system says changes with the file: an ETag, a checksum, size and time.
    return xxh3_128_digest(f"{file.path}:{file.system.ukey(file.path)}".encode())


class Skip:
    """Rows that are still to be skipped, across files."""

    __slots__ = ("rows",)

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def of(self, there: int) -> int:
        """Return how many of the next rows are skipped, and count them as skipped."""
        skipped = min(there, self.rows)
        self.rows -= skipped
        return skipped


def read_files(
    files: Iterable[DataFile], *, offset: int = 0, streaming: bool = False
) -> Iterator[list[Row]]:
    """Yield the rows of files, one file after the other, in chunks of about a thousand.

    Args:
        files: What to read.
        offset: Rows to skip, counted over all files.
        streaming: Whether to read CSV in pieces, its column types settled by the first of them;
            otherwise all of a CSV file decides. JSON Lines, Parquet and text are always
            streamed, a JSON array never.

    Raises:
        DataError: A file can't be read as what it is said to be; names file and place.
    """
    import pyarrow as pa

    skip = Skip(offset)
    for file in files:
        try:
            if file.type in ("json", "jsonl"):
                yield from _read_json(file, skip)
            elif file.type == "text":
                yield from _read_text(file, skip)
            elif file.type == "parquet":
                yield from _read_parquet(file, skip)
            else:
                yield from _read_csv(file, skip, streaming=streaming)
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise DataError(f"{file.path!r} can't be read as {file.type}: {error}") from error


def _read_json(file: DataFile, skip: Skip) -> Iterator[list[Row]]:
    with file.open() as handle:
        if file.type == "json" and _begins_with_array(handle):
            rows = _whole(handle.read(), file)
            yield rows[skip.of(len(rows)) :]
            return
        number = 0
        while lines := handle.readlines(_READ_BYTES):
            first = number
            number += len(lines)
            filled = [(n, line) for n, line in enumerate(lines, first + 1) if line.strip()]
            if first == 0 and file.type == "json" and not _is_object(filled[:1]):
                # Not a line each: one object, spread over the file.
                rows = _whole(b"".join(lines) + handle.read(), file)
                yield rows[skip.of(len(rows)) :]
                return
            start = skip.of(len(filled))
            for begin in range(start, len(filled), TABLE_CHUNK_ROWS):
                yield [
                    _row(line, f"line {n} of {file.path!r}")
                    for n, line in filled[begin : begin + TABLE_CHUNK_ROWS]
                ]


def _begins_with_array(handle: IO[bytes]) -> bool:
    while (byte := handle.read(1)).isspace():
        pass
    handle.seek(0)
    return byte == b"["


def _is_object(lines: list[tuple[int, bytes]]) -> bool:
    try:
        return all(isinstance(_decoded(line), dict) for _, line in lines)
    except ValueError:
        return False


def _whole(text: bytes, file: DataFile) -> list[Row]:
    try:
        value = _decoded(text)
    except ValueError as error:
        raise DataError(f"{file.path!r} can't be read as {file.type}: {error}") from error
    rows = [value] if isinstance(value, dict) else value
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{file.path!r} must hold an array of objects, or an object per line")
    return rows


def _row(line: bytes, where: str) -> Row:
    try:
        value = _decoded(line)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{where} holds a {type(value).__name__}: every line must be an object")
    return value


def _decoded(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        # The standard library also takes NaN and Infinity, and says where it stopped.
        return json.loads(text)


def _read_text(file: DataFile, skip: Skip) -> Iterator[list[Row]]:
    with file.open() as handle:
        while lines := handle.readlines(TABLE_CHUNK_ROWS * 128):
            start = skip.of(len(lines))
            yield [{"text": line.decode("utf-8").rstrip("\r\n")} for line in lines[start:]]


def _read_parquet(file: DataFile, skip: Skip) -> Iterator[list[Row]]:
    import pyarrow.parquet as pq

    with file.open() as handle:
        parquet = pq.ParquetFile(handle)
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            start = skip.of(rows)
            if start == rows:
                continue
            for batch in parquet.iter_batches(TABLE_CHUNK_ROWS, row_groups=[group]):
                if start < batch.num_rows:
                    yield rows_of_table(batch.slice(start))
                start = max(start - batch.num_rows, 0)


def _read_csv(file: DataFile, skip: Skip, *, streaming: bool) -> Iterator[list[Row]]:
    import pyarrow as pa
    from pyarrow import csv

    parse = csv.ParseOptions(delimiter="\t" if file.type == "tsv" else ",", newlines_in_values=True)
    with file.open() as handle:
        schema = csv.open_csv(handle, parse_options=parse).schema
    # Dates and times stay the text that they are: rows feed prompts, not calendars.
    convert = csv.ConvertOptions(
        column_types={f.name: pa.string() for f in schema if pa.types.is_temporal(f.type)}
    )
    with file.open() as handle:
        if streaming:
            for batch in csv.open_csv(handle, parse_options=parse, convert_options=convert):
                start = skip.of(batch.num_rows)
                yield rows_of_table(batch.slice(start))
            return
        table = csv.read_csv(handle, parse_options=parse, convert_options=convert)
    yield from table_chunks(table, skip.of(table.num_rows))
