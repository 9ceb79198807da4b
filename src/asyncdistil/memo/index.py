"""Which entry lies where: a packed table for what was, a dict for what has come since.

The index is derived from the segments and verified against them on every hit; losing it costs time.
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
        """Samples of a key. Reads the whole index: about 20 ms for a million entries."""
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
