"""Which entry lies where: a packed table for what was, a dict for what has come since.

The index is derived from the segments and verified against them on every hit; losing it costs time.

Why own segments with this index, and no database. One million names of 20 bytes, places of 12, on
two busy cores (`benchmarks/memo_index.py`; look-ups and building in CPU time, CPython 3.11):

| | packed table | dict | LMDB 3 | SQLite, WAL |
|---|---|---|---|---|
| hits a second | 680,000 | 670,000 | 660,000 | 150,000 |
| misses a second | 1,060,000 | 1,300,000 | 980,000 | 180,000 |
| private memory an entry | 33 B | 165 B | 3 B, the rest mapped | 1 B, the rest mapped |
| build | 2.8 s | 1.4 s | 1.8 s | 9.1 s |
| open in a new process | 0.1 s | as long as to read the segments | 0.005 s | 0.003 s |
| four processes add, entries/s | through segments | through segments | 14,000 | 4,200 |
| a flipped bit | found, made anew | - | answers missing, unnoticed | answers missing, unnoticed |

- A database has one writer at a time, for all pipelines and workers of a cache directory; segments
  have one each, and nobody waits for a lock that a stopped process holds.
- Neither database has checksums over its pages, so the answers would need framed files of their
  own all the same; and LMDB maps the file, so that damage can kill the process that reads it.
- The table is as fast as LMDB, needs no dependency, and is read whole, so a checksum covers it.

The memo around it: 134,000 whole hits a second (place, read, two hashes, preimage compared),
400,000 misses, 33 B an entry in a process that opens it, 0.09 s to open, 6.3 s to make the index
of a million answers anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from asyncdistil.memo.entry import NAME_BYTES
from asyncdistil.memo.packed import Covered, Packed


class Index:
    """Names to places, the newest place of each."""

    def __init__(self, packed: Packed | None = None) -> None:
        """Start from a table; nothing by default."""
        self._packed = packed or Packed.empty()
        self._recent: dict[bytes, bytes] = {}
        self._new = 0

    def __len__(self) -> int:
        return len(self._packed) + self._new

    @property
    def recent(self) -> int:
        """Entries that are not in the table."""
        return len(self._recent)

    @property
    def covered(self) -> Mapping[int, Covered]:
        """Segments whose entries are in the table."""
        return self._packed.covered

    def find(self, name: bytes) -> bytes | None:
        """Packed place of an entry, or ``None``."""
        return self._recent.get(name) or self._packed.find(name)

    def put(self, name: bytes, place: bytes) -> None:
        """Set the place of an entry."""
        if name not in self._recent and self._packed.find(name) is None:
            self._new += 1
        self._recent[name] = place

    def count(self, digest: bytes) -> int:
        """Samples of a key. Reads the whole index: some 10 ms for a million entries."""
        recent = sum(name.startswith(digest) for name in self._recent)
        return recent + self._packed.count(digest, self._recent)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every name with its place."""
        recent = self._recent
        yield from recent.items()
        for entry in self._packed.items():
            name = entry[:NAME_BYTES]
            if name not in recent:
                yield name, entry[NAME_BYTES:]

    def pack(self, covered: Mapping[int, Covered]) -> Packed:
        """A table of everything, for these segments."""
        return self._packed.merged(self._recent, covered)
