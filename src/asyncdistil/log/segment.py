"""Segments: files of encoded rows, each written by one worker and read by anybody.

A segment record is one encoded run of rows with a table in front: where each row starts and the
digest of each row. So a slice decodes only its own rows, and the content digest of a slice needs
only the table. Nothing in a segment means anything until a commit names it by `BatchRef`.
"""

from __future__ import annotations

import errno
import struct
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from xxhash import xxh3_128_digest

from asyncdistil.batch import BatchRef, Digest, Row, RowSlice, SegmentId
from asyncdistil.codec import MAX_ROW_BYTES, EncodedRows, content_digest, decode_rows
from asyncdistil.errors import CorruptRecord, StorageError, UnencodableValue
from asyncdistil.log.failpoint import failpoint
from asyncdistil.log.files import LOST, Files, LocalFiles, unreadable, write_all
from asyncdistil.log.record import (
    HEADER_BYTES,
    FileKind,
    RecordType,
    encode_record,
    file_seed,
    parse_header,
    payload_fits,
)

MAX_RECORD_BYTES = 16 << 20
"""Rows of one record: a batch is cut where it would pass this."""

_TABLE = struct.Struct("<II")
_DIGEST_BYTES = 16
_OPEN_SEGMENTS = 128
_CACHED_BYTES = 32 << 20


def segment_path(root: Path, lineage: bytes, segment: int) -> Path:
    """Where the store at ``root`` keeps a segment."""
    return root / f"segments/{lineage.hex()}/{segment:010d}.ads"


def segment_files(root: Path, files: Files) -> Iterator[tuple[int, Path]]:
    """Every segment file of a store, by its number; scans the directories."""
    top = root / "segments"
    for lineage in files.listdir(top):
        folder = top / lineage
        for name in files.listdir(folder):
            stem, _, ending = name.partition(".")
            if ending == "ads" and stem.isdecimal():
                yield int(stem), folder / name


class SegmentWriter:
    """Appends encoded rows to one segment; its worker is the only writer."""

    def __init__(
        self,
        fd: int,
        segment: SegmentId,
        store_id: bytes,
        files: Files | None = None,
        start: int = 0,
    ) -> None:
        """Take over a segment.

        Args:
            fd: Open for appending; made by `Store.create_segment`.
            segment: Its number.
            store_id: Id of the store.
            files: The disk.
            start: Where the next record goes; 0 asks the file for its length.
        """
        self._fd = fd
        self._segment = segment
        self._files = files or LocalFiles()
        self._seed = file_seed(store_id, FileKind.SEGMENT, segment)
        self._end = start or self._files.size(fd)

    def append(self, rows: EncodedRows) -> tuple[BatchRef, ...]:
        """Append rows and return what names them, in order; nothing for no rows.

        Raises:
            StorageError: The disk refused; nothing counts, and appending may be tried again.
            UnencodableValue: A row has more than 1 GiB.
        """
        body, offsets, digests = rows
        last = len(offsets) - 1
        if last <= 0:
            return ()
        if offsets[-1] <= MAX_RECORD_BYTES:
            return (self._append_record(body, offsets, digests),)
        refs = []
        start = 0
        view = memoryview(body)
        while start < last:
            base = offsets[start]
            stop = bisect_right(offsets, base + MAX_RECORD_BYTES, start) - 1
            stop = min(max(stop, start + 1), last)
            if offsets[stop] - base > MAX_ROW_BYTES:
                raise UnencodableValue(
                    f"row {start} of the batch takes {offsets[stop] - base} bytes, a row may take "
                    f"{MAX_ROW_BYTES}; store large data in a file and its path in the row"
                )
            refs.append(
                self._append_record(
                    bytes(view[base : offsets[stop]]),
                    [offset - base for offset in offsets[start : stop + 1]],
                    digests[start * _DIGEST_BYTES : stop * _DIGEST_BYTES],
                )
            )
            start = stop
        return tuple(refs)

    def _append_record(
        self, body: bytes | bytearray, offsets: Sequence[int], digests: bytes
    ) -> BatchRef:
        count = len(offsets) - 1
        table = struct.pack(f"<{count + 3}I", count, 0, *offsets)
        offset = (self._end + 7) & ~7
        head, payload, _, checksum = encode_record(
            self._seed, RecordType.ROWS, offset, body, meta=table + digests
        )
        data = head + payload
        # A torn record before this one may have ended anywhere.
        self._write(data if offset == self._end else bytes(offset - self._end) + data)
        self._end = offset + len(data)
        return BatchRef(
            self._segment,
            offset,
            len(data),
            count,
            checksum,
            Digest(xxh3_128_digest(digests)),
        )

    def _write(self, data: bytes) -> None:
        try:
            cut = failpoint("segment.append")
            if cut is not None:
                self._files.writev(self._fd, (data[:cut],))
                raise OSError(errno.ENOSPC, "No space left on device (failpoint segment.append)")
            write_all(self._files, self._fd, data)
        except OSError as error:
            self._end = self._files.size(self._fd)
            raise StorageError(
                f"segment {self._segment} refused {len(data)} bytes ({error.strerror}); what is "
                "committed is safe: make room and run again"
            ) from error


class _Record(NamedTuple):
    """A verified record in memory."""

    data: bytes
    offsets: Sequence[int]
    digests_at: int
    body_at: int


class SegmentReader:
    """Reads rows by reference. Keeps files open and the last large record in memory.

    Not for use from several threads at once.
    """

    def __init__(self, root: Path, store_id: bytes, files: Files | None = None) -> None:
        self._root = root
        self._store_id = store_id
        self._files = files or LocalFiles()
        self._paths: dict[int, Path] = {}
        self._open: OrderedDict[int, tuple[int, int]] = OrderedDict()
        self._records: OrderedDict[tuple[int, int], _Record] = OrderedDict()
        self._cached_bytes = 0

    def rows(self, slice_: RowSlice) -> list[Row]:
        """Decode the rows of a slice.

        Raises:
            CorruptRecord: The bytes are missing or are not those that were committed.
        """
        ref, start, stop = slice_.ref, slice_.start, slice_.stop
        record = self._record(ref, keep=not slice_.whole)
        first, last = record.offsets[start], record.offsets[stop]
        body = memoryview(record.data)[record.body_at + first : record.body_at + last]
        return decode_rows(body, stop - start)

    def row_digests(self, slice_: RowSlice) -> bytes:
        """Digests of a slice's rows, 16 bytes each, read from the table alone.

        Raises:
            CorruptRecord: The bytes are missing or are not those that were committed.
        """
        ref = slice_.ref
        size = ref.rows * _DIGEST_BYTES
        record = self._records.get((ref.segment, ref.offset))
        if record is not None:
            digests = record.data[record.digests_at : record.body_at]
        else:
            at = ref.offset + HEADER_BYTES + _TABLE.size + 4 * (ref.rows + 1)
            if at + size > ref.offset + ref.length:
                raise self._corrupt(ref, "its table passes its end")
            digests = self._pread(ref, size, at)
        if xxh3_128_digest(digests) != ref.digest:
            raise self._corrupt(ref, "its row digests are not those that were committed")
        return digests[slice_.start * _DIGEST_BYTES : slice_.stop * _DIGEST_BYTES]

    def digest(self, slices: Iterable[RowSlice]) -> Digest:
        """Content digest of slices taken together, in order."""
        parts = list(slices)
        if len(parts) == 1 and parts[0].whole:
            return parts[0].ref.digest
        return content_digest(b"".join(map(self.row_digests, parts)))

    def verify(self, ref: BatchRef) -> None:
        """Read a whole record and compare every hash.

        Raises:
            CorruptRecord: The bytes are missing or are not those that were committed.
        """
        record = self._record(ref, keep=False)
        digests = record.data[record.digests_at : record.body_at]
        if xxh3_128_digest(digests) != ref.digest:
            raise self._corrupt(ref, "its row digests are not those that were committed")

    def path(self, segment: int) -> Path:
        """Find a segment file by its number; scans the directories only for one not yet seen.

        Raises:
            FileNotFoundError: There is none.
        """
        path = self._paths.get(segment)
        if path is None:
            self._paths.update(segment_files(self._root, self._files))
            path = self._paths.get(segment)
            if path is None:
                raise FileNotFoundError(
                    errno.ENOENT,
                    "segment file is missing",
                    str(self._root / "segments" / f"*/{segment:010d}.ads"),
                )
        return path

    def read_from_disk(self, segment: int) -> None:
        """Make sure that later reads of a segment see the disk (after an unclean close).

        The file is synced first: pages that are still dirty can't be dropped.
        """
        fd, _ = self._descriptor(segment)
        self._files.fdatasync(fd)
        self._files.drop_cached(fd)

    def close(self) -> None:
        """Close every file."""
        for fd, _ in self._open.values():
            self._files.close(fd)
        self._open.clear()
        self._records.clear()
        self._cached_bytes = 0

    def _record(self, ref: BatchRef, *, keep: bool) -> _Record:
        key = (ref.segment, ref.offset)
        record = self._records.get(key)
        if record is not None:
            return record
        if not HEADER_BYTES < ref.length <= MAX_ROW_BYTES + MAX_RECORD_BYTES:
            raise self._corrupt(ref, "its length is impossible")
        data = self._pread(ref, ref.length, ref.offset)
        _, seed = self._open[ref.segment]
        header = parse_header(data, 0, seed)
        if header is None or header.position != ref.offset or header.type != RecordType.ROWS:
            raise self._corrupt(ref, "its header is damaged or belongs elsewhere")
        if header.checksum != ref.checksum or not payload_fits(
            header, memoryview(data)[HEADER_BYTES:], seed
        ):
            raise self._corrupt(ref, "its checksum does not fit")
        body_at = HEADER_BYTES + header.meta_bytes
        count, _reserved = _TABLE.unpack_from(data, HEADER_BYTES)
        if count != ref.rows or header.meta_bytes != _TABLE.size + 20 * count + 4:
            raise self._corrupt(ref, f"it holds {count} rows instead of {ref.rows}")
        digests_at = body_at - _DIGEST_BYTES * count
        offsets = struct.unpack_from(f"<{count + 1}I", data, HEADER_BYTES + _TABLE.size)
        record = _Record(data, offsets, digests_at, body_at)
        if keep:
            self._keep(key, record)
        return record

    def _keep(self, key: tuple[int, int], record: _Record) -> None:
        self._records[key] = record
        self._cached_bytes += len(record.data)
        while self._cached_bytes > _CACHED_BYTES and len(self._records) > 1:
            _, dropped = self._records.popitem(last=False)
            self._cached_bytes -= len(dropped.data)

    def _pread(self, ref: BatchRef, size: int, offset: int) -> bytes:
        try:
            fd, _ = self._descriptor(ref.segment)
            data = self._files.pread(fd, size, offset)
        except FileNotFoundError:
            raise self._corrupt(ref, "its file is missing") from None
        except OSError as error:
            if error.errno in LOST:
                raise self._corrupt(ref, f"the disk can't read it ({error.strerror})") from error
            raise unreadable(self._root, error) from error
        if len(data) < size:
            raise self._corrupt(ref, "its file ends too early")
        return data

    def _descriptor(self, segment: int) -> tuple[int, int]:
        found = self._open.get(segment)
        if found is not None:
            self._open.move_to_end(segment)
            return found
        fd = self._files.open_read(self.path(segment))
        found = fd, file_seed(self._store_id, FileKind.SEGMENT, segment)
        self._open[segment] = found
        if len(self._open) > _OPEN_SEGMENTS:
            _, (old, _) = self._open.popitem(last=False)
            self._files.close(old)
        return found

    def _corrupt(self, ref: BatchRef, reason: str) -> CorruptRecord:
        path = str(self._paths.get(ref.segment, f"segment {ref.segment}"))
        return CorruptRecord(
            f"{path}: the record at offset {ref.offset} is damaged: {reason}. Its {ref.rows} rows "
            "can be recomputed: run `asyncdistil cache repair`, or pass "
            'on_corruption="recompute" to run()',
            path=path,
            offset_bytes=ref.offset,
        )
