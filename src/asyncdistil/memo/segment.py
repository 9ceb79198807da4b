"""Memo segments: found, walked, written. Each has one writer and is locked while it lives."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from asyncdistil.errors import StorageError
from asyncdistil.log.failpoint import failpoint
from asyncdistil.log.files import Files, remedy, write_all
from asyncdistil.log.names import MEMO_ENDING, name_digest
from asyncdistil.log.record import (
    FILE_HEADER_BYTES,
    HEADER_BYTES,
    FileHeader,
    FileKind,
    Header,
    encode_file_header,
    file_seed,
    parse_file_header,
    parse_header,
    payload_fits,
    stray_headers,
)
from asyncdistil.memo.entry import (
    DIGEST_BYTES,
    NAMESPACE,
    STORE_ID,
    Entry,
    encode_entry,
    encode_model,
)

MAX_SEGMENT_BYTES = 16 << 30
"""A writer begins a new segment here; places reach twice as far."""

_WINDOW_BYTES = 4 << 20
_SEARCH_BYTES = 64 << 20
_REMEMBERED_BYTES = 8 << 20
_LOCK_POLL_SECONDS = 0.0005
_NAME = re.compile(r"(\d{10})" + re.escape(MEMO_ENDING))


def namespace_dir(memo_dir: Path) -> Path:
    """Where the memo of this format lies below a cache's memo directory."""
    return memo_dir / name_digest(NAMESPACE)


def segment_path(directory: Path, number: int) -> Path:
    """A segment of the memo whose files lie in ``directory``."""
    return directory / f"{number:010d}{MEMO_ENDING}"


def segment_numbers(files: Files, directory: Path) -> list[int]:
    """Numbers of all segments, ascending."""
    return sorted(int(m[1]) for name in files.listdir(directory) if (m := _NAME.fullmatch(name)))


def seed_of(number: int) -> int:
    """What seeds the hashes of a segment."""
    return file_seed(STORE_ID, FileKind.MEMO, number)


def has_header(files: Files, fd: int, number: int) -> bool:
    """Whether the segment begins as it must.

    Raises:
        FormatError: It was written by a newer format.
    """
    data = files.pread(fd, FILE_HEADER_BYTES, 0)
    return parse_file_header(data, FileKind.MEMO, number, STORE_ID) is not None


def is_written(files: Files, path: Path) -> bool:
    """Whether somebody still holds the segment open for writing."""
    probe = files.open_read(path)
    try:
        return not files.try_lock(probe)
    finally:
        files.close(probe)


class Found(NamedTuple):
    """A verified record, or a hole: bytes that are damaged, with good records behind them.

    Attributes:
        at: Its offset.
        size: Its bytes.
        header: ``None`` for a hole.
        payload: Meta, body, padding; valid until the next one is taken.
    """

    at: int
    size: int
    header: Header | None
    payload: memoryview


_NOTHING = memoryview(b"")


def walk(files: Files, fd: int, seed: int, start: int, stop: int) -> Iterator[Found]:
    """Yield the records between two offsets.

    It ends before a record that is not whole and has no good one behind it: a torn tail, or one
    being written this moment.

    Raises:
        FormatError: A record carries a critical flag of a newer format.
        OSError: The disk can't read it.
    """
    at, base = start, start
    window = b""
    view = _NOTHING
    while at + HEADER_BYTES <= stop:
        if at - base + HEADER_BYTES > len(window):
            base, window = at, files.pread(fd, min(_WINDOW_BYTES, stop - at), at)
            view = memoryview(window)
        header = parse_header(window, at - base, seed)
        size = header.size if header is not None else 0
        if header is not None and header.position == at and at + size <= stop:
            if at - base + size > len(window):
                base, window = at, files.pread(fd, min(max(_WINDOW_BYTES, size), stop - at), at)
                view = memoryview(window)
            payload = view[at - base + HEADER_BYTES : at - base + size]
            if payload_fits(header, payload, seed):
                yield Found(at, size, header, payload)
                at += size
                continue
        behind = _next_good(files, fd, seed, at, stop)
        if behind is None:
            return
        yield Found(at, behind - at, None, _NOTHING)
        at = behind


def _next_good(files: Files, fd: int, seed: int, bad: int, stop: int) -> int | None:
    """Offset of the first whole record behind a bad one."""
    base = bad
    while base + HEADER_BYTES <= stop:
        data = files.pread(fd, min(_SEARCH_BYTES, stop - base), base)
        for at, header in stray_headers(data, 1, seed):
            place, size = base + at, header.size
            if header.position == place and place + size <= stop:
                payload = files.pread(fd, size - HEADER_BYTES, place + HEADER_BYTES)
                if payload_fits(header, payload, seed):
                    return place
        # The next window begins where a header could still have been cut off.
        base += max(len(data) - HEADER_BYTES, 1)
    return None


class MemoWriter:
    """Appends to a segment of its own, made for it and locked until `close`.

    Attributes:
        number: Of the segment.
        fd: Open for appending and reading.
        seed: Of its hashes.
        end: Bytes in the file.
        broken: Whether a write failed: what came after a torn record would look like damage to
            readers, so nothing more may be appended.
    """

    def __init__(self, files: Files, number: int, fd: int) -> None:
        """Take over a file made by `create`."""
        self.number = number
        self.fd = fd
        self.seed = seed_of(number)
        self.end = 0
        self.broken = False
        self._files = files
        self._models: dict[str, int] = {}
        self._requests: dict[bytes, tuple[int, bytes]] = {}
        self._remembered_bytes = 0

    @classmethod
    def create(cls, files: Files, directory: Path) -> MemoWriter:
        """Make a segment under the next free number, its name durable.

        Raises:
            OSError: The disk refused.
        """
        number = max(segment_numbers(files, directory), default=0)
        while True:
            number += 1
            path = segment_path(directory, number)
            try:
                fd = files.create(path)
            except FileExistsError:
                continue
            failpoint("memo.after_create")
            # Readers probe the lock for a moment; whoever clears up removes the file under it.
            while not files.try_lock(fd):
                time.sleep(_LOCK_POLL_SECONDS)
            if files.exists(path):
                break
            files.close(fd)
        writer = cls(files, number, fd)
        header = FileHeader(STORE_ID, FileKind.MEMO, number, created_seconds=time.time())
        try:
            # Only behind the lock, so that a header without one means a writer that is gone.
            writer._write(encode_file_header(header)[0])
            files.fsync_dir(directory)
        except BaseException:
            files.close(fd)
            raise
        return writer

    @property
    def full(self) -> bool:
        """Whether the next entry belongs into another segment."""
        return self.broken or self.end >= MAX_SEGMENT_BYTES

    def append(self, entry: Entry, model: str) -> tuple[int, int]:
        """Append an entry in one write.

        The offsets in ``entry`` are filled in here. Its preimage is left out if a recent entry of
        this segment holds the same.

        Returns:
            Offset and length of its record.

        Raises:
            OSError: The disk refused; nothing counts.
        """
        data, digest = b"", entry.name[:DIGEST_BYTES]
        model_at = self._models.get(model)
        if model_at is None:
            model_at = self.end
            data = encode_model(self.seed, model_at, model)
        at = self.end + len(data)
        request_at, preimage = self._requests.get(digest, (0, b""))
        if preimage == entry.preimage and request_at:
            entry = entry._replace(model_at=model_at, request_at=request_at, preimage=b"")
        else:
            entry = entry._replace(model_at=model_at, request_at=0)
        record = encode_entry(self.seed, at, entry)
        self._write(data + record)
        self._models[model] = model_at
        if not entry.request_at:
            self._remember(digest, at, entry.preimage)
        return at, len(record)

    def _remember(self, digest: bytes, at: int, preimage: bytes) -> None:
        """Keep in mind where a preimage stands, for more samples of the same key."""
        _, former = self._requests.pop(digest, (0, b""))
        self._requests[digest] = at, preimage
        self._remembered_bytes += len(preimage) - len(former)
        while self._remembered_bytes > _REMEMBERED_BYTES:
            _, dropped = self._requests.pop(next(iter(self._requests)))
            self._remembered_bytes -= len(dropped)

    def close(self) -> None:
        """Close the file and let go of its lock."""
        self._files.close(self.fd)

    def _write(self, data: bytes) -> None:
        try:
            cut = failpoint("memo.append")
            if cut is not None:
                write_all(self._files, self.fd, data[:cut])
                raise OSError(errno.ENOSPC, "No space left on device (failpoint memo.append)")
            write_all(self._files, self.fd, data)
        except OSError:
            self.broken = True
            raise
        self.end += len(data)


def refused(directory: Path, act: str, error: OSError) -> StorageError:
    """Say that the disk refused."""
    return StorageError(
        f"{directory}: the memo can't {act} ({error.strerror}); what is stored is safe: "
        f"{remedy(error)}, then run again"
    )
