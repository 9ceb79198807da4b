"""The writer of the commit log: frames events, appends them, goes on in a new file after trouble.

A file is only ever appended to by the process that made it. A torn or refused write, and a sync
that failed, end a file: the header of the next one says up to where the old one counts.
"""

from __future__ import annotations

import errno
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from asyncdistil.batch import Lsn
from asyncdistil.errors import StorageError
from asyncdistil.log.failpoint import failpoint
from asyncdistil.log.files import Files, remedy, write_all
from asyncdistil.log.index import pack_place
from asyncdistil.log.names import commit_path
from asyncdistil.log.record import (
    FILE_HEADER_BYTES,
    FileHeader,
    FileKind,
    encode_file_header,
    encode_record,
    file_seed,
)


class Tail(NamedTuple):
    """Where the commit log ends.

    Attributes:
        number: File that holds the last record; 0 if there is none.
        end: Byte after the last record.
        lsn: LSN of the last record; 0 if there is none.
        digest: Header hash of the last record, or of the file header before the first.
    """

    number: int
    end: int
    lsn: int
    digest: int


class Entry(NamedTuple):
    """A record to append: type, part readable without decoding, payload."""

    tag: int
    meta: bytes
    body: bytes


class _Kept(NamedTuple):
    """An appended record that is not durable yet, with the tail before it."""

    before: Tail
    entry: Entry


class CommitLog:
    """Appends records. Every method but `lock` itself must be called with ``lock`` held."""

    def __init__(
        self, root: Path, store_id: bytes, tail: Tail, *, next_number: int, files: Files, keep: bool
    ) -> None:
        """Go on from a recovered tail; no file is made before the first append.

        Args:
            root: Store directory.
            store_id: Seeds the hashes.
            tail: Where the log ends.
            next_number: Number of the next file.
            files: The disk.
            keep: Whether to keep records until they are durable, so that they can be appended
                again after a failed sync.
        """
        self.lock = threading.Lock()
        self.durable = 0
        self.stamped = 0
        self.tail = tail
        self._root = root
        self._store_id = store_id
        self._next_number = next_number
        self._files = files
        self._keep = keep
        self._kept: deque[_Kept] = deque()
        self._fd = -1
        self._seed = 0
        self._open: list[int] = []

    def append(self, entries: Sequence[Entry]) -> list[int]:
        """Append records in one write.

        Returns:
            Their places; their LSNs are those that follow the tail's.

        Raises:
            StorageError: The disk refused. None of them counts; a later append goes to a new
                file.
        """
        if self._fd < 0:
            self._begin_file()
        tail, durable, seed = self.tail, self.durable, self._seed
        number, end, lsn, digest = tail
        parts: list[bytes] = []
        places = []
        kept = []
        for entry in entries:
            tag, meta, body = entry
            if self._keep:
                kept.append(_Kept(Tail(number, end, lsn, digest), entry))
            lsn += 1
            head, payload, digest, _ = encode_record(
                seed, tag, lsn, body, meta=meta, durable=durable, previous=digest
            )
            parts += head, payload
            places.append(pack_place(number, end))
            end += len(head) + len(payload)
        self._write(b"".join(parts))
        self.tail = Tail(number, end, lsn, digest)
        self.stamped = durable
        self._kept.extend(kept)
        failpoint("log.after_append")
        return places

    def descriptors(self) -> list[int]:
        """Files that hold records which are not durable yet, oldest first."""
        return list(self._open)

    def settle(self, durable: Lsn) -> None:
        """Note that everything up to ``durable`` is; forget what was kept for it."""
        self.durable = max(self.durable, durable)
        kept = self._kept
        while kept and kept[0].before.lsn < durable:
            kept.popleft()
        if self._fd >= 0 and durable >= self.tail.lsn:
            for fd in self._open[:-1]:
                self._files.close(fd)
            del self._open[:-1]

    def append_again(self) -> dict[int, int]:
        """After a failed sync: write everything not durable into a new file.

        Returns:
            New places by LSN.

        Raises:
            StorageError: The disk refused that too.
        """
        again = [item.entry for item in self._kept]
        if self._kept:
            self.tail = self._kept[0].before
        self._kept.clear()
        self.close()
        first = self.tail.lsn + 1
        self._begin_file()
        places = self.append(again) if again else []
        return {first + i: place for i, place in enumerate(places)}

    def close(self) -> None:
        """Close all files. A later append begins a new one."""
        for fd in self._open:
            self._files.close(fd)
        self._open.clear()
        self._fd = -1

    def _begin_file(self) -> None:
        number, end, lsn, digest = self.tail
        header = FileHeader(
            self._store_id,
            FileKind.COMMIT_LOG,
            self._next_number,
            base=lsn + 1,
            previous_number=number,
            previous_end=end,
            previous_digest=digest,
            durable=self.durable,
            created_seconds=time.time(),
        )
        data, digest = encode_file_header(header)
        path = commit_path(self._root, self._next_number)
        self._next_number += 1
        fd = -1
        try:
            fd = self._files.create(path)
            failpoint("log.after_create")
            write_all(self._files, fd, data)
            # From here on a file longer than its header has an intact header, or is damaged.
            self._files.fdatasync(fd)
            self._files.fsync_dir(path.parent)
        except OSError as error:
            if fd >= 0:
                self._files.close(fd)
            raise _refused(path, error) from error
        self._fd = fd
        self._open.append(fd)
        self._seed = file_seed(self._store_id, FileKind.COMMIT_LOG, header.number)
        self.tail = Tail(header.number, FILE_HEADER_BYTES, lsn, digest)
        failpoint("log.after_begin")

    def _write(self, data: bytes) -> None:
        try:
            cut = failpoint("log.append")
            if cut is not None:
                self._files.writev(self._fd, (data[:cut],))
                raise OSError(errno.ENOSPC, "No space left on device (failpoint log.append)")
            write_all(self._files, self._fd, data)
        except OSError as error:
            # Part of it may be in the file. What stands before it must still be synced, so the
            # file stays open; the next append goes to a new one.
            self._fd = -1
            raise _refused(commit_path(self._root, self.tail.number), error) from error


def _refused(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} can't be written ({error.strerror}); what was acknowledged is safe: "
        f"{remedy(error)}, then run again, it goes on from there"
    )
