"""Looking into commit-log files: headers, and what is intact between damaged bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from asyncdistil.log.files import Files
from asyncdistil.log.names import commit_path
from asyncdistil.log.record import (
    HEADER_BYTES,
    FileHeader,
    FileKind,
    Header,
    RecordType,
    file_seed,
    parse_file_header,
    parse_header,
    payload_fits,
    stray_headers,
)

# More than any format's first record, so that a newer one is recognised as intact.
_FIRST_BYTES = 4096


class LogFile(NamedTuple):
    """A commit-log file.

    Attributes:
        number: From its name.
        size: Bytes in it.
        header: Its first record, ``None`` if that is torn or damaged.
        digest: Hash of that record's header, start of the chain.
    """

    number: int
    size: int
    header: FileHeader | None
    digest: int


class LogFiles:
    """Reads pieces of commit-log files. Takes the store's id from the first intact file."""

    def __init__(self, root: Path, files: Files) -> None:
        self.store_id: bytes | None = None
        self._root = root
        self._files = files
        self._from_disk: set[int] = set()

    def file(self, number: int) -> LogFile:
        """Look at a file's size and first record."""
        fd = self._files.open_read(commit_path(self._root, number))
        try:
            size = self._files.size(fd)
            data = self._files.pread(fd, _FIRST_BYTES, 0)
        finally:
            self._files.close(fd)
        parsed = parse_file_header(data, FileKind.COMMIT_LOG, number, self.store_id)
        # One that goes on from itself, or from a later file, was forged.
        if parsed is None or parsed[0].previous_number >= number:
            return LogFile(number, size, None, 0)
        self.store_id = parsed[0].store_id
        return LogFile(number, size, *parsed)

    def seed(self, number: int) -> int:
        """Seed of a file's hashes."""
        assert self.store_id is not None, "no file of this store was intact"
        return file_seed(self.store_id, FileKind.COMMIT_LOG, number)

    def read(self, number: int, start: int, end: int) -> bytes:
        """Bytes of a file; fewer if it ends before."""
        fd = self._files.open_read(commit_path(self._root, number))
        try:
            return self._files.pread(fd, end - start, start) if end > start else b""
        finally:
            self._files.close(fd)

    def read_from_disk(self, number: int) -> None:
        """Make sure that later reads see what is on the disk, not what failed to get there."""
        if number in self._from_disk:
            return
        self._from_disk.add(number)
        fd = self._files.open_read(commit_path(self._root, number))
        try:
            self._files.fdatasync(fd)
            self._files.drop_cached(fd)
        finally:
            self._files.close(fd)

    def header_at(self, number: int, offset: int) -> Header | None:
        """The header at an offset, if it is intact."""
        return parse_header(self.read(number, offset, offset + HEADER_BYTES), 0, self.seed(number))

    def intact_headers(self, files: Iterable[LogFile], start: int) -> Iterator[Header]:
        """Intact headers anywhere in some files, in the first of them from ``start`` on."""
        for file in files:
            data = self.read(file.number, start, file.size)
            start = 0
            for _, header in stray_headers(data, 0, self.seed(file.number)):
                yield header

    def intact_bodies(self, files: Iterable[LogFile], kind: RecordType) -> Iterator[bytes]:
        """Bodies of the intact records of one type anywhere in some files."""
        for file in files:
            data = self.read(file.number, 0, file.size)
            seed = self.seed(file.number)
            for at, header in stray_headers(data, 0, seed, kind=kind):
                payload = data[at + HEADER_BYTES : at + header.size]
                if payload_fits(header, payload, seed):
                    yield payload[header.meta_bytes : header.meta_bytes + header.body_bytes]
