"""What the memo holds, and how it gets smaller: reports, clearing by model or age, compaction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from asyncdistil.errors import FormatError, StoreLocked
from asyncdistil.log.failpoint import failpoint
from asyncdistil.log.files import Files, make_durable_dir
from asyncdistil.log.record import FILE_HEADER_BYTES
from asyncdistil.memo.catalogue import Catalogue
from asyncdistil.memo.entry import DIGEST_BYTES, NO_RUN, Entry
from asyncdistil.memo.packed import PLACE
from asyncdistil.memo.segment import (
    MemoWriter,
    has_header,
    refused,
    segment_numbers,
    segment_path,
)
from asyncdistil.memo.shelf import Shelf

QUARANTINE = "quarantine"
"""Directory of segments that were set aside because they are damaged."""

UNKNOWN_MODEL = "unknown: the record of its name is damaged"
"""Model of entries whose model record can't be read."""


class EntryInfo(NamedTuple):
    """What decides whether an entry is kept.

    Attributes:
        model: Readable identity of who answered.
        digest: Digest of its key.
        sample: Its number in the pool of the key.
        stamp: When, in nanoseconds of Unix time; grows with each answer that takes its place.
        size_bytes: Its record on disk.
        run: Digest of the run that wrote it, zeros if none did.
    """

    model: str
    digest: bytes
    sample: int
    stamp: int
    size_bytes: int
    run: bytes = NO_RUN

    @property
    def written_seconds(self) -> float:
        """When, as Unix time."""
        return self.stamp / 1e9


@dataclass(slots=True)
class ModelShare:
    """What one model has in the memo; times are Unix times."""

    entries: int = 0
    size_bytes: int = 0
    oldest_seconds: float = float("inf")
    newest_seconds: float = 0.0


@dataclass(slots=True)
class Statistics:
    """What a memo holds.

    Attributes:
        entries: Intact entries that can be served.
        size_bytes: All segments, what was superseded or damaged included.
        segments: Files.
        damaged: Entries that can't be served.
        models: By readable identity.
    """

    entries: int = 0
    size_bytes: int = 0
    segments: int = 0
    damaged: int = 0
    models: dict[str, ModelShare] = field(default_factory=dict)


class Compaction(NamedTuple):
    """What a compaction did.

    Attributes:
        kept: Entries moved.
        dropped: Entries left out because they were not wanted.
        damaged: Entries left out because they were damaged.
        freed_bytes: By which the segments got smaller.
    """

    kept: int
    dropped: int
    damaged: int
    freed_bytes: int


def statistics(catalogue: Catalogue, shelf: Shelf) -> Statistics:
    """Count what a memo holds; reads and verifies all of it."""
    numbers = segment_numbers(shelf.files, shelf.directory)
    found = Statistics(segments=len(numbers), size_bytes=_size(shelf, numbers))
    for info, _ in _entries(catalogue, shelf, lambda _number: True):
        if info is None:
            found.damaged += 1
            continue
        found.entries += 1
        share = found.models.setdefault(info.model, ModelShare())
        share.entries += 1
        share.size_bytes += info.size_bytes
        share.oldest_seconds = min(share.oldest_seconds, info.written_seconds)
        share.newest_seconds = max(share.newest_seconds, info.written_seconds)
    return found


def entries(catalogue: Catalogue, shelf: Shelf) -> Iterator[tuple[EntryInfo, Entry]]:
    """Every intact entry that can be served, with its preimage, in the order in which they lie."""
    for info, entry in _entries(catalogue, shelf, lambda _number: True):
        if info is not None and entry is not None:
            yield info, entry


def compact(
    catalogue: Catalogue,
    shelf: Shelf,
    keep: Callable[[EntryInfo], bool],
    aside: Collection[int] = (),
) -> Compaction:
    """Write what is wanted of all segments without a writer into a new one; remove the old ones.

    Those in ``aside`` are moved to quarantine instead.

    Segments that are being written stay as they are. Killed at any moment, this loses nothing:
    the old segments are removed only when the new one is durable.

    Raises:
        StoreLocked: Another process is at it.
        StorageError: The disk refused; nothing is lost.
    """
    held: dict[int, int] = {}
    try:
        with catalogue.housekeeping() as alone:
            if not alone:
                raise StoreLocked(
                    f"{shelf.directory} is being tidied up by another process: wait for its end"
                )
            _hold_ended(shelf, held)
            catalogue.look()
            return _rewrite(catalogue, shelf, list(held), keep, aside)
    except OSError as error:
        raise refused(shelf.directory, "be compacted", error) from error
    finally:
        for fd in held.values():
            shelf.files.close(fd)


def _hold_ended(shelf: Shelf, held: dict[int, int]) -> None:
    """Lock every segment without a writer."""
    files = shelf.files
    for number in segment_numbers(files, shelf.directory):
        path = segment_path(shelf.directory, number)
        fd = files.open_read(path)
        if not files.try_lock(fd):
            files.close(fd)
            continue
        held[number] = fd
        if files.size(fd) < FILE_HEADER_BYTES:
            # Its maker died, or waits for this lock and will then see that the file is gone.
            files.unlink(path)
            files.close(held.pop(number))
        elif _is_newer(files, fd, number):
            files.close(held.pop(number))


def _is_newer(files: Files, fd: int, number: int) -> bool:
    """Whether only a newer asyncdistil may judge the file."""
    try:
        has_header(files, fd, number)
    except FormatError:
        return True
    return False


def _rewrite(
    catalogue: Catalogue,
    shelf: Shelf,
    old: list[int],
    keep: Callable[[EntryInfo], bool],
    aside: Collection[int],
) -> Compaction:
    files, directory = shelf.files, shelf.directory
    before = _size(shelf, old)
    writer = MemoWriter.create(files, directory)
    kept: dict[bytes, bytes] = {}
    dropped = damaged = 0
    try:
        for info, entry in _entries(catalogue, shelf, set(old).__contains__):
            if info is None or entry is None:
                damaged += 1
            elif keep(info):
                at, length = writer.append(entry, info.model)
                kept[entry.name] = PLACE.pack(writer.number, at >> 3, length >> 3)
            else:
                dropped += 1
        failpoint("memo.compact.before_sync")
        files.fdatasync(writer.fd)
        # What supersedes a removed entry may lie in a segment that nobody has synced yet.
        for number in {*segment_numbers(files, directory)} - {*old, writer.number}:
            files.fdatasync(shelf.descriptor(number)[0])
        failpoint("memo.compact.before_unlink")
        if aside:
            make_durable_dir(files, directory / QUARANTINE)
        for number in old:
            path = segment_path(directory, number)
            if number in aside:
                files.replace(path, directory / QUARANTINE / path.name)
            else:
                files.unlink(path)
            failpoint("memo.compact.after_unlink")
        if aside:
            # The new names first: a power cut must not take them along with the old ones.
            files.fsync_dir(directory / QUARANTINE)
        files.fsync_dir(directory)
    finally:
        writer.close()
    catalogue.moved(old, writer.number, writer.end, kept)
    catalogue.pack()
    return Compaction(len(kept), dropped, damaged, before - writer.end)


def _size(shelf: Shelf, numbers: Iterable[int]) -> int:
    total = 0
    for number in numbers:
        with suppress(FileNotFoundError):
            total += shelf.files.size(shelf.descriptor(number)[0])
    return total


def _entries(
    catalogue: Catalogue, shelf: Shelf, wanted: Callable[[int], bool]
) -> Iterator[tuple[EntryInfo | None, Entry | None]]:
    """Entries that the index knows, in the order in which they lie; ``None`` for damaged ones."""
    places = [place for place in catalogue.places() if wanted(PLACE.unpack(place)[0])]
    places.sort(key=PLACE.unpack)
    models: dict[tuple[int, int], str] = {}
    for place in places:
        number, _, length = PLACE.unpack(place)
        entry = shelf.whole(place)
        if entry is None:
            yield None, None
            continue
        at = number, entry.model_at
        if at not in models:
            models[at] = shelf.model(*at) or UNKNOWN_MODEL
        yield (
            EntryInfo(
                models[at],
                entry.name[:DIGEST_BYTES],
                int.from_bytes(entry.name[DIGEST_BYTES:], "big"),
                entry.stamp,
                length << 3,
                entry.run,
            ),
            entry,
        )
