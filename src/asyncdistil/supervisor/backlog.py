"""Chunks that wait for a worker, smallest key first."""

from __future__ import annotations

import heapq
from bisect import bisect_right, insort
from collections.abc import Iterator

from asyncdistil.batch import RowId
from asyncdistil.supervisor import ids
from asyncdistil.supervisor.chunk import Chunk, concatenate, cut


class Backlog:
    """A queue by key that knows which keys went ahead of it.

    Small chunks of a row-wise step are joined into one call. The rows of a joined chunk come out
    together, so it must not span a key that was replayed or handed out on its own.
    """

    def __init__(self) -> None:
        self.size_bytes = 0
        self.rows = 0
        self._heap: list[tuple[RowId, int, Chunk]] = []
        self._arrivals = 0
        self._ahead: list[RowId] = []

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def first(self) -> Chunk:
        """The chunk that is next; there must be one."""
        return self._heap[0][2]

    @property
    def key(self) -> RowId:
        """Smallest key that waits, or ``END``."""
        return self._heap[0][0] if self._heap else ids.END

    def waiting(self) -> Iterator[Chunk]:
        """Every chunk that waits, smallest key first."""
        return (chunk for _, _, chunk in sorted(self._heap))

    def push(self, chunk: Chunk) -> None:
        """Let a chunk wait."""
        self._arrivals += 1
        self.size_bytes += chunk.size_bytes
        self.rows += chunk.rows
        heapq.heappush(self._heap, (chunk.key, self._arrivals, chunk))

    def pop(self) -> Chunk:
        """Take the first chunk."""
        _, _, chunk = heapq.heappop(self._heap)
        self.size_bytes -= chunk.size_bytes
        self.rows -= chunk.rows
        return chunk

    def pop_sized(self, limit: int, frontier: RowId) -> Chunk:
        """Take about ``limit`` rows: the first chunk, cut or filled up with those behind it.

        Args:
            limit: Most rows.
            frontier: Nothing with a smaller key will arrive any more.
        """
        chunk = self.pop()
        alone = chunk.key >= frontier
        if alone:
            # Rows in front of it may still arrive: they must not be joined to rows behind it.
            self.went_ahead(chunk.key)
        if chunk.rows > limit:
            self.push(cut(chunk, limit, chunk.rows))
            return cut(chunk, 0, limit)
        if alone:
            return chunk
        parts, rows = [chunk], chunk.rows
        while self._heap and self._may_follow(parts[-1], rows, limit, frontier):
            parts.append(self.pop())
            rows += parts[-1].rows
        return concatenate(parts)

    def _may_follow(self, last: Chunk, rows: int, limit: int, frontier: RowId) -> bool:
        following = self.first
        if rows + following.rows > limit or following.key >= frontier:
            return False
        if len(following.ports) != len(last.ports):
            return False
        position = bisect_right(self._ahead, last.key)
        return position == len(self._ahead) or self._ahead[position] >= following.key

    def went_ahead(self, key: RowId) -> None:
        """Remember that rows with this key are not in the queue but not done in order either."""
        insort(self._ahead, key)

    def forget_below(self, frontier: RowId) -> None:
        """Drop what was remembered of keys that nothing in the queue can span any more."""
        if self._ahead:
            del self._ahead[: bisect_right(self._ahead, frontier)]
