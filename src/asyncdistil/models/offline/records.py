"""What is known of every batch that was submitted: one file each, written before and after.

A record is durable before its batch is sent, so that a process that dies at any point leaves
behind what the next one needs to find the batch again instead of paying for a second one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from asyncdistil.errors import CorruptRecord, StorageError
from asyncdistil.log.failpoint import failpoint
from asyncdistil.log.files import Files, LocalFiles, make_durable_dir, write_all
from asyncdistil.memo import Key
from asyncdistil.transport import brokers

_KEPT_SECONDS = 35 * 24 * 3600
"""Providers keep the files of a batch for a month: a fetched record is of no use after that."""
_LOCK_POLL_SECONDS = 0.05
_MAX_RECORD_BYTES = 64 << 20
_ENDING = ".json"
_DRAFT = ".tmp"


class LineId(msgspec.Struct, frozen=True):
    """Names a line of a batch by what it asks for; the provider hands the name back.

    Attributes:
        request: 32 hex digits that stand for the request and the model's identity.
        first: Number of its first sample in the pool of that request.
        count: Samples that it asks for.
    """

    request: str
    first: int
    count: int = 1

    @classmethod
    def of(cls, key: Key, first: int, count: int = 1) -> LineId:
        """Name a line by the key of its request.

        The digest is a cryptographic one, not the key's own: answers are joined by it alone.
        """
        return cls(blake2b(key.preimage, digest_size=16).hexdigest(), first, count)

    @classmethod
    def parse(cls, text: str) -> LineId | None:
        """Read a name; ``None`` if it is none of ours."""
        parts = text.split("-")
        if len(parts) != 3 or not (parts[1].isdecimal() and parts[2].isdecimal()):
            return None
        return cls(parts[0], int(parts[1]), int(parts[2]))

    def __str__(self) -> str:
        return f"{self.request}-{self.first}-{self.count}"

    def samples(self) -> list[LineId]:
        """The samples that it asks for, one by one."""
        return [LineId(self.request, self.first + place) for place in range(self.count)]


class BatchRecord(msgspec.Struct, kw_only=True):
    """One batch.

    Attributes:
        name: Made of its lines, see `batch_name`; the provider keeps it in the batch's metadata.
        service: Provider and URL, no secrets.
        state: ``intended``: it may or may not have been sent. ``waiting``: the provider has it.
            ``fetched``: it ended and its answers were taken.
        run: Id of the run that submitted it, empty outside of a run.
        batch_id: The provider's id, empty as long as it is ``intended``.
        lines: Lines, as texts.
        lost: Lines that came to no answer; nothing is to be expected of them any more.
        tries: How often its lines were submitted, this time included.
        made_seconds: When it was intended, Unix time.
    """

    name: str
    service: str
    state: Literal["intended", "waiting", "fetched"] = "intended"
    run: str = ""
    batch_id: str = ""
    lines: list[str] = []
    lost: list[str] = []
    tries: int = 1
    made_seconds: float = 0.0

    def covers(self) -> set[LineId]:
        """Samples that it has, or will have, answers to."""
        ids = (LineId.parse(line) for line in set(self.lines).difference(self.lost))
        return {sample for line in ids if line is not None for sample in line.samples()}


def batch_name(service: str, lines: Sequence[str], *, tries: int, run: str) -> str:
    """Name a batch by all that it is, so that a twin of it can be told from another batch.

    Args:
        service: Provider and URL.
        lines: Its lines.
        tries: How often these were submitted, this time included.
        run: Id of the run if only this run may use it, else empty.

    Returns:
        32 hex digits.
    """
    whole = msgspec.json.encode(["asyncdistil/batch/1", service, sorted(lines), tries, run])
    return blake2b(whole, digest_size=16).hexdigest()


class Journal(Protocol):
    """Where records are kept: `FileJournal` in a cache, `ModelJournal` without one."""

    def read(self) -> list[BatchRecord]:
        """All records, oldest first."""
        ...

    def write(self, record: BatchRecord) -> None:
        """Keep a record in the place of the former one of its name."""
        ...

    def locked(self) -> AbstractAsyncContextManager[None]:
        """Keep others from submitting and writing meanwhile."""
        ...

    def place(self, record: BatchRecord) -> str:
        """Where a record is kept, for messages."""
        ...


class FileJournal:
    """Records as JSON files in a directory of the cache, shared by all of its pipelines."""

    def __init__(self, directory: Path, files: Files | None = None) -> None:
        """Plan a journal; the directory is made with the first record.

        Args:
            directory: ``<cache>/offline``.
            files: The disk.
        """
        self.directory = directory
        self._files = files or LocalFiles()

    def read(self) -> list[BatchRecord]:
        """All records, oldest first; those too old to be of use are removed.

        Raises:
            CorruptRecord: One can't be read: it may stand for a batch that was paid for.
            StorageError: The disk refused.
        """
        try:
            names = self._files.listdir(self.directory)
            records = [self._read(name) for name in names if name.endswith(_ENDING)]
        except OSError as error:
            raise self._refused("read", error) from error
        oldest = time.time() - _KEPT_SECONDS
        kept: list[BatchRecord] = []
        for record in records:
            if record.state == "fetched" and record.made_seconds < oldest:
                self._files.unlink(self.directory / (record.name + _ENDING))
            else:
                kept.append(record)
        return sorted(kept, key=lambda record: (record.made_seconds, record.name))

    def _read(self, name: str) -> BatchRecord:
        path = self.directory / name
        fd = self._files.open_read(path)
        try:
            data = self._files.pread(fd, _MAX_RECORD_BYTES, 0)
        finally:
            self._files.close(fd)
        try:
            return _decode(data)
        except msgspec.DecodeError as error:
            raise CorruptRecord(
                f"{path}, the record of a provider's batch, can't be read ({error}): look the batch"
                " up at the provider, and remove the file to have its rows submitted anew",
                path=str(path),
            ) from None

    def write(self, record: BatchRecord) -> None:
        """Make a record durable; it is there whole or not at all, whatever happens.

        The caller holds the lock.

        Raises:
            StorageError: The disk refused.
        """
        files = self._files
        path = self.directory / (record.name + _ENDING)
        draft = self.directory / f"{record.name}{_DRAFT}"
        try:
            fd = files.create(draft)
            try:
                write_all(files, fd, msgspec.json.encode(record))
                files.fdatasync(fd)
            finally:
                files.close(fd)
            failpoint("offline.record.replace")
            files.replace(draft, path)
            files.fsync_dir(self.directory)
        except OSError as error:
            raise self._refused("written", error) from error

    def place(self, record: BatchRecord) -> str:
        """The record's file."""
        return str(self.directory / (record.name + _ENDING))

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Hold the directory's lock; it is let go when the process ends, however it ends."""
        try:
            make_durable_dir(self._files, self.directory)
            fd = self._files.open_lock(self.directory / "lock")
        except OSError as error:
            raise self._refused("locked", error) from error
        try:
            while not self._files.try_lock(fd):  # noqa: ASYNC110 - another process holds it
                await asyncio.sleep(_LOCK_POLL_SECONDS)
            for name in self._files.listdir(self.directory):
                if name.endswith(_DRAFT):  # of a writer that died
                    self._files.unlink(self.directory / name)
            yield
        finally:
            self._files.close(fd)

    def _refused(self, act: str, error: OSError) -> StorageError:
        return StorageError(
            f"records of provider batches in {self.directory} can't be {act} ({error.strerror});"
            " nothing was submitted without one: make room or mend the disk, and run again"
        )


class ModelJournal:
    """Records in memory, for a model that is used without a cache."""

    def __init__(self) -> None:
        self._records: dict[str, BatchRecord] = {}

    def read(self) -> list[BatchRecord]:
        """All records, oldest first."""
        return list(self._records.values())

    def write(self, record: BatchRecord) -> None:
        """Keep a record."""
        self._records[record.name] = record

    def place(self, record: BatchRecord) -> str:
        """Nowhere that could be named."""
        return "the model's memory"

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Nobody else is there."""
        yield


def journal_around(otherwise: Journal) -> Journal:
    """The journal of the cache that a worker works for; outside of one, the one given."""
    around = brokers.current()
    if around is None or not around.memo:
        return otherwise
    return FileJournal(Path(around.memo).parent / "offline")


_decode = msgspec.json.Decoder(BatchRecord).decode
