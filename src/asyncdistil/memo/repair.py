"""Damage of the memo: found, told, and left behind when what is good is written anew.

Damaged answers are never served, so nothing has to be repaired for a run to go on; but each is
asked for again, and a damaged segment is searched by every process that opens the memo.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from asyncdistil.errors import FormatError
from asyncdistil.log.files import Files
from asyncdistil.log.names import memo_dir
from asyncdistil.memo.entry import FIRST_RECORD
from asyncdistil.memo.memo import Memo
from asyncdistil.memo.segment import (
    has_header,
    namespace_dir,
    seed_of,
    segment_numbers,
    segment_path,
    walk,
)


class DamagedSegment(NamedTuple):
    """A segment of the memo with damaged bytes.

    Attributes:
        path: Of the file.
        number: Of the segment.
        damaged_bytes: Between good records.
        where: Offset of the first of them.
    """

    path: Path
    number: int
    damaged_bytes: int
    where: int


def examine_memo(cache_dir: Path, files: Files) -> list[DamagedSegment]:
    """Read every byte of the memo. Writes nothing.

    A tail that is not whole is no damage: whoever wrote it died over it, and nothing relies on it.

    Raises:
        OSError: The disk refused.
    """
    directory = namespace_dir(memo_dir(cache_dir))
    found = []
    for number in segment_numbers(files, directory):
        path = segment_path(directory, number)
        fd = files.open_read(path)
        try:
            damaged = _damaged(files, fd, number)
        except FormatError:
            continue  # only a newer asyncdistil may judge it
        finally:
            files.close(fd)
        if damaged:
            found.append(DamagedSegment(path, number, sum(map(len, damaged)), damaged[0].start))
    return found


def _damaged(files: Files, fd: int, number: int) -> list[range]:
    size = files.size(fd)
    if size <= FIRST_RECORD:
        return []
    holes = [] if has_header(files, fd, number) else [range(FIRST_RECORD)]
    for record in walk(files, fd, seed_of(number), FIRST_RECORD, size):
        if record.header is None:
            holes.append(range(record.at, record.at + record.size))
    return holes


def repair_memo(cache_dir: Path, files: Files) -> list[DamagedSegment]:
    """Write what is good of damaged segments anew, and set these aside.

    Segments that a living process writes stay as they are.

    Returns:
        What was damaged.

    Raises:
        StoreLocked: Another process tidies up.
        StorageError: The disk refused; nothing good is lost.
    """
    found = examine_memo(cache_dir, files)
    if found:
        with closing(Memo.open(memo_dir(cache_dir), files=files)) as memo:
            memo.compact(aside={segment.number for segment in found})
    return found
