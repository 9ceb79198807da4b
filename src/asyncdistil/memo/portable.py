"""Answers of the memo in a pack: those that a run took or wrote.

The member ``memo`` holds frames: length (``u32``), then a MessagePack array of the fields of
`PackedAnswer`. The digest of a key is made anew from its preimage, so that an answer can't be put
under another request than its own.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
from xxhash import xxh3_128_digest

from asyncdistil.errors import CorruptRecord, FormatError, StorageError
from asyncdistil.log.files import Files
from asyncdistil.log.names import memo_dir
from asyncdistil.log.pack import PackReader, PackWriter
from asyncdistil.log.portable import Portable
from asyncdistil.memo.entry import NO_RUN, name_of
from asyncdistil.memo.key import Key
from asyncdistil.memo.memo import Memo
from asyncdistil.memo.segment import namespace_dir, segment_path

MEMBER = "memo"

_FRAME = struct.Struct("<I")
_MOST_SAMPLES = 1 << 32


class PackedAnswer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One sample of a pool.

    Attributes:
        model: Who answered, readable, UTF-8.
        preimage: Of the key.
        sample: Its number.
        run: Digest of the run that wrote it.
        body: What was stored.
    """

    model: bytes
    preimage: bytes
    sample: int
    run: bytes
    body: bytes


class Answers(NamedTuple):
    """What became of the answers of a pack: how many were new, how many were there already."""

    new: int
    known: int


def write_answers(pack: PackWriter, made: Portable, cache_dir: Path, files: Files) -> int:
    """Put the answers of a run into a pack.

    Returns:
        How many.

    Raises:
        StorageError: The disk refused.
    """
    memo = Memo.peek(memo_dir(cache_dir), files=files)
    if memo is None:
        return 0
    taken = {name_of(digest, n) for one in made.demand.commits for digest, n in one.samples}
    writers = {xxh3_128_digest(run.encode()) for run in made.writers}
    count = 0

    def frames() -> Iterator[bytes]:
        nonlocal count
        for info, entry in memo.entries():
            if entry.name not in taken and entry.run not in writers:
                continue
            count += 1
            model = info.model.encode("utf-8", "surrogatepass")
            answer = PackedAnswer(model, entry.preimage, info.sample, entry.run, entry.body)
            data = msgspec.msgpack.encode(answer)
            yield _FRAME.pack(len(data)) + data

    try:
        pack.add(MEMBER, frames())
    finally:
        memo.close()
    return count


def check_answers(pack: PackReader) -> int:
    """Check the answers of a pack.

    Returns:
        How many there are.

    Raises:
        FormatError: One is not what an export writes.
        CorruptRecord: One passes the end.
    """
    return sum(1 for _ in _answers(pack))


def take_in_answers(pack: PackReader, cache_dir: Path, files: Files) -> Answers:
    """Put the answers of a pack into the memo of this machine; what is there stays as it is.

    They are durable when this returns.

    Raises:
        StorageError: The disk refused.
    """
    if not pack.size(MEMBER):
        return Answers(0, 0)
    segments: set[int] = set()
    new = known = 0
    folder = memo_dir(cache_dir)
    memo = Memo.open(folder, files=files, on_segment=segments.add)
    try:
        for answer in _answers(pack):
            key = Key.of(answer.preimage, model=answer.model.decode("utf-8", "surrogatepass"))
            if memo.get(key, answer.sample) is not None:
                known += 1
                continue
            memo.put(key, answer.sample, answer.body, run=answer.run)
            new += 1
        if new:
            _sync(segments, namespace_dir(folder), files)
    finally:
        memo.close()
    return Answers(new, known)


def _sync(segments: Collection[int], directory: Path, files: Files) -> None:
    for number in segments:
        path = segment_path(directory, number)
        try:
            fd = files.open_read(path)
            try:
                files.fdatasync(fd)
            finally:
                files.close(fd)
        except OSError as error:
            raise StorageError(
                f"{path} can't be synced ({error.strerror}): see to the disk, then import again"
            ) from error


def _answers(pack: PackReader) -> Iterator[PackedAnswer]:
    at, size = 0, pack.size(MEMBER)
    decode = msgspec.msgpack.Decoder(PackedAnswer).decode
    while at < size:
        head = pack.part(MEMBER, at, _FRAME.size)
        length = _FRAME.unpack(head)[0] if len(head) == _FRAME.size else size
        at += _FRAME.size
        if at + length > size:
            raise CorruptRecord(f"{pack.path}: an answer passes the end of its member")
        try:
            answer = decode(pack.part(MEMBER, at, length))
            answer.model.decode("utf-8", "surrogatepass")
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise _foreign(pack, str(error)) from None
        if len(answer.run) != len(NO_RUN) or not 0 <= answer.sample < _MOST_SAMPLES:
            raise _foreign(pack, "it has no run or sample")
        at += length
        yield answer


def _foreign(pack: PackReader, reason: str) -> FormatError:
    return FormatError(
        f"{pack.path} can't be taken in: an answer can't be understood ({reason}). Nothing was "
        "taken in; get a file that `asyncdistil cache export` wrote"
    )
