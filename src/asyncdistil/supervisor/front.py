"""Fronts: how the chunks that reach a step become the chunks it works on.

Every stream carries chunks that may arrive out of order, and a *frontier*: an id below which
nothing more will come. A front turns the streams of a step's input ports into one list of chunks:

- `Direct` passes them on as they come (row-wise steps with one port);
- `Ordered` waits for source order and cuts batches of an exact size;
- `Aligned` joins ports by row id, or by position;
- `Converging` joins the branches of a router, batch by batch;
- `Barrier` waits for the end of every port (global steps).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Protocol

from asyncdistil.batch import RowId, StepName
from asyncdistil.errors import GraphError, StepError
from asyncdistil.supervisor import ids
from asyncdistil.supervisor.chunk import Chunk, concatenate, cut
from asyncdistil.supervisor.ids import END, START

_MISSING_SHOWN = 10


class Front(Protocol):
    """What a step does with its input streams."""

    def receive(self, port: int, chunk: Chunk) -> None:
        """Take a chunk that arrived at a port."""
        ...

    def advance(self, port: int, frontier: RowId) -> None:
        """Learn that nothing with an id below ``frontier`` will arrive at a port any more."""
        ...

    def take(self) -> list[Chunk]:
        """Hand out the chunks that became ready, in an order the step may work in."""
        ...

    @property
    def frontier(self) -> RowId:
        """No chunk with a smaller key will ever be taken again."""
        ...

    @property
    def waiting_rows(self) -> int:
        """Rows that arrived and are not taken yet."""
        ...


class Direct:
    """One port, any order."""

    def __init__(self) -> None:
        self._arrived: list[Chunk] = []
        self._frontier: RowId = START

    def receive(self, port: int, chunk: Chunk) -> None:
        """Keep the chunk for the next `take`."""
        self._arrived.append(chunk)

    def advance(self, port: int, frontier: RowId) -> None:
        """Remember the frontier."""
        self._frontier = frontier

    def take(self) -> list[Chunk]:
        """Everything that arrived."""
        taken, self._arrived = self._arrived, []
        return taken

    @property
    def frontier(self) -> RowId:
        """Smallest key that may still be taken."""
        return min((chunk.key for chunk in self._arrived), default=self._frontier)

    @property
    def waiting_rows(self) -> int:
        """Rows that arrived and are not taken yet."""
        return sum(chunk.rows for chunk in self._arrived)


class Sorter:
    """One port put back into source order."""

    def __init__(self) -> None:
        self._heap: list[tuple[RowId, int, Chunk]] = []
        self._arrivals = 0
        self.frontier: RowId = START
        self.ready: deque[Chunk] = deque()

    def receive(self, chunk: Chunk) -> None:
        self._arrivals += 1
        heapq.heappush(self._heap, (chunk.key, self._arrivals, chunk))

    def advance(self, frontier: RowId) -> None:
        self.frontier = frontier
        heap = self._heap
        while heap and heap[0][0] < frontier:
            self.ready.append(heapq.heappop(heap)[2])

    @property
    def next_key(self) -> RowId:
        """Smallest key that is ready or may still become so."""
        return self.ready[0].key if self.ready else self.frontier

    @property
    def ended(self) -> bool:
        return self.frontier == END and not self.ready and not self._heap

    @property
    def rows(self) -> int:
        return sum(c.rows for c in self.ready) + sum(entry[2].rows for entry in self._heap)

    def drop(self, rows: int) -> Chunk:
        """Remove and return the first ``rows`` rows of the first ready chunk."""
        head = self.ready[0]
        if rows == head.rows:
            return self.ready.popleft()
        self.ready[0] = cut(head, rows, head.rows)
        return cut(head, 0, rows)


class _Batcher:
    """Cuts a sequence of chunks into batches of an exact size."""

    def __init__(self, batch_size: int) -> None:
        self._size = batch_size
        self._held: list[Chunk] = []
        self.rows = 0

    def add(self, chunk: Chunk) -> list[Chunk]:
        """Batches completed by this chunk."""
        full: list[Chunk] = []
        size = self._size
        if self.rows == 0 and chunk.rows == size:
            return [chunk]
        start = 0
        while self.rows + chunk.rows - start >= size:
            stop = start + size - self.rows
            full.append(concatenate([*self._held, cut(chunk, start, stop)]))
            self._held, self.rows, start = [], 0, stop
        if start < chunk.rows:
            self._held.append(cut(chunk, start, chunk.rows))
            self.rows += chunk.rows - start
        return full

    def flush(self) -> list[Chunk]:
        """The last, shorter batch, if there is one."""
        if not self._held:
            return []
        last = concatenate(self._held)
        self._held, self.rows = [], 0
        return [last]

    def first_key(self, otherwise: RowId) -> RowId:
        """Key of the first row held."""
        return self._held[0].key if self._held else otherwise


class Ordered:
    """One port in source order, in batches of exactly ``batch_size`` rows but for the last."""

    def __init__(self, batch_size: int) -> None:
        self._port = Sorter()
        self._batcher = _Batcher(batch_size)

    def receive(self, port: int, chunk: Chunk) -> None:
        """Keep the chunk until the frontier has passed it."""
        self._port.receive(chunk)

    def advance(self, port: int, frontier: RowId) -> None:
        """Release what lies below the frontier."""
        self._port.advance(frontier)

    def take(self) -> list[Chunk]:
        """Full batches, and the rest once the port has ended."""
        batches: list[Chunk] = []
        ready = self._port.ready
        while ready:
            batches.extend(self._batcher.add(ready.popleft()))
        if self._port.ended:
            batches.extend(self._batcher.flush())
        return batches

    @property
    def frontier(self) -> RowId:
        """Key of the first row that is held, else of what may come."""
        return self._batcher.first_key(self._port.next_key)

    @property
    def waiting_rows(self) -> int:
        """Rows that arrived and are not taken yet."""
        return self._port.rows + self._batcher.rows


class Aligned:
    """Several ports joined row by row.

    Args:
        step: For messages.
        upstreams: Step behind each port, for messages.
        batch_size: Rows of a batch.
        spaces: Gives the id space of each port when asked; ids of different spaces say nothing
            about each other.
        inner: Drop rows whose id is missing in some port, instead of failing.
        by_position: Ignore ids; row i of every port belongs together.
    """

    def __init__(
        self,
        step: StepName,
        upstreams: tuple[StepName, ...],
        batch_size: int,
        spaces: Callable[[], tuple[str, ...]],
        *,
        inner: bool,
        by_position: bool,
    ) -> None:
        self._step = step
        self._upstreams = upstreams
        self._ports = [Sorter() for _ in upstreams]
        self._batcher = _Batcher(batch_size)
        self._spaces = spaces
        self._inner = inner
        self._by_position = by_position
        self._rows_in = [0] * len(upstreams)
        self._missing: list[str] = []

    def receive(self, port: int, chunk: Chunk) -> None:
        """Keep the chunk until the frontier has passed it."""
        self._rows_in[port] += chunk.rows
        self._ports[port].receive(chunk)

    def advance(self, port: int, frontier: RowId) -> None:
        """Release what lies below the frontier."""
        self._ports[port].advance(frontier)

    def take(self) -> list[Chunk]:
        """Batches of joined rows.

        Raises:
            GraphError: The ports' ids belong to different spaces.
            StepError: A row id is missing in some port, or the ports' row counts differ.
        """
        if not self._by_position:
            self._check_spaces()
        batches: list[Chunk] = []
        while (joined := self._next()) is not None:
            batches.extend(self._batcher.add(joined))
        if self._missing:
            raise StepError(
                f"step {self._step!r} joins rows by identity, but {'; '.join(self._missing)}. "
                "A step above dropped or added rows on one branch only: set join='inner' on "
                f"{self._step!r} to keep the common rows, or drop them on every branch."
            )
        if all(port.ended for port in self._ports):
            batches.extend(self._batcher.flush())
        return batches

    def _check_spaces(self) -> None:
        if not any(port.ready for port in self._ports):
            return
        spaces = self._spaces()
        if len(set(spaces)) > 1:
            pairs = ", ".join(
                f"{up!r} (rows numbered by {space!r})"
                for up, space in zip(self._upstreams, spaces, strict=True)
            )
            raise GraphError(
                f"step {self._step!r} joins rows that have no common identity: {pairs}. Set "
                f"align='position' on {self._step!r} if row i of each belongs together."
            )

    def _next(self) -> Chunk | None:
        """The next rows present in every port; ``None`` if that needs more input."""
        while True:
            ports = self._ports
            if self._by_position:
                if not all(port.ready for port in ports):
                    self._check_counts()
                    return None
                return self._zip(min(port.ready[0].rows for port in ports))
            if all(port.ready for port in ports):
                runs = [port.ready[0].runs[0] for port in ports]
                first = runs[0]
                if all(r.start == first.start and r.prefix == first.prefix for r in runs):
                    return self._zip(min(run.count for run in runs))
            if not self._skip_missing():
                return None

    def _zip(self, rows: int) -> Chunk:
        parts = [port.drop(rows) for port in self._ports]
        return Chunk(
            key=min(part.key for part in parts),
            ports=tuple(part.ports[0] for part in parts),
            runs=parts[0].runs,
            rows=rows,
            ticket=max(part.ticket for part in parts),
            replayed=all(part.replayed for part in parts),
        )

    def _skip_missing(self) -> bool:
        """Deal with the smallest id if some port certainly lacks it; whether it did."""
        smallest = min(
            (ids.first_id(port.ready[0].runs) for port in self._ports if port.ready), default=END
        )
        if smallest == END:
            return False
        lacking: list[int] = []
        for index, port in enumerate(self._ports):
            if port.ready:
                if ids.first_id(port.ready[0].runs) != smallest:
                    lacking.append(index)
            elif port.frontier > smallest:
                lacking.append(index)
            else:
                return False
        for port in self._ports:
            if port.ready and ids.first_id(port.ready[0].runs) == smallest:
                port.drop(1)
        if not self._inner:
            number = ".".join(map(str, smallest))
            names = " and ".join(repr(self._upstreams[index]) for index in lacking)
            self._missing.append(f"row {number} is missing from {names}")
            if len(self._missing) >= _MISSING_SHOWN:
                return False
        return True

    def _check_counts(self) -> None:
        if all(port.frontier == END for port in self._ports) and len(set(self._rows_in)) > 1:
            counts = ", ".join(
                f"{rows} rows from {up!r}"
                for up, rows in zip(self._upstreams, self._rows_in, strict=True)
            )
            raise StepError(
                f"step {self._step!r} joins by position and got {counts}: the counts must be "
                "equal. Drop or add rows on every branch alike, or join by identity."
            )

    @property
    def frontier(self) -> RowId:
        """Key of the first row that is held, else of what may come."""
        return self._batcher.first_key(min(port.next_key for port in self._ports))

    @property
    def waiting_rows(self) -> int:
        """Rows that arrived and are not taken yet."""
        return sum(port.rows for port in self._ports) + self._batcher.rows


class Converging:
    """The branches of a router joined again: one list per branch that a batch was sent to."""

    def __init__(self, step: StepName, upstreams: tuple[StepName, ...], batch_size: int) -> None:
        self._step = step
        self._upstreams = upstreams
        self._size = batch_size
        self._ports = [Sorter() for _ in upstreams]
        self._routed: list[tuple[RowId, RowId, tuple[int, ...]]] = []
        self._router_frontier: RowId = START

    def receive(self, port: int, chunk: Chunk) -> None:
        """Keep the chunk until its routing batch is complete."""
        self._ports[port].receive(chunk)

    def advance(self, port: int, frontier: RowId) -> None:
        """Release what lies below the frontier."""
        self._ports[port].advance(frontier)

    def routed(self, batch: Chunk, chosen: tuple[StepName, ...], router_frontier: RowId) -> None:
        """Learn where a routing batch went; ``chosen`` are steps behind the ports."""
        ports = tuple(i for i, name in enumerate(self._upstreams) if name in chosen)
        heapq.heappush(self._routed, (batch.key, ids.successor(ids.last_id(batch.runs)), ports))
        self._router_frontier = router_frontier

    def router_advanced(self, frontier: RowId) -> None:
        """Learn that every routing batch below ``frontier`` has been routed."""
        self._router_frontier = frontier

    def take(self) -> list[Chunk]:
        """Chunks of batches whose chosen branches have all come in.

        Raises:
            StepError: Branches of one batch hold different rows.
        """
        taken: list[Chunk] = []
        while self._routed and self._routed[0][0] < self._router_frontier:
            _, end, chosen = self._routed[0]
            if any(self._ports[i].frontier < end for i in chosen):
                break
            heapq.heappop(self._routed)
            taken.extend(self._batch(end, chosen))
        return taken

    def _batch(self, end: RowId, chosen: tuple[int, ...]) -> list[Chunk]:
        parts = [self._below(port, end) for port in chosen]
        if not any(parts):
            return []
        wholes = [concatenate(part) if part else None for part in parts]
        first = wholes[0]
        if any(w is None or first is None or w.runs != first.runs for w in wholes):
            names = ", ".join(repr(self._upstreams[i]) for i in chosen)
            raise StepError(
                f"step {self._step!r} converges {names}, which returned different rows of one "
                "routed batch: branches of one router must keep the rows that they get."
            )
        present = [whole for whole in wholes if whole is not None]
        joined = Chunk(
            key=min(w.key for w in present),
            ports=tuple(w.ports[0] for w in present),
            runs=present[0].runs,
            rows=present[0].rows,
            ticket=max(w.ticket for w in present),
            replayed=all(w.replayed for w in present),
        )
        size = self._size
        return [cut(joined, s, min(s + size, joined.rows)) for s in range(0, joined.rows, size)]

    def _below(self, port: int, end: RowId) -> list[Chunk]:
        sorter = self._ports[port]
        parts: list[Chunk] = []
        while sorter.ready and ids.first_id(sorter.ready[0].runs) < end:
            head = sorter.ready[0]
            rows = head.rows
            if ids.last_id(head.runs) >= end:
                rows = sum(1 for row in ids.each(head.runs) if row < end)
            parts.append(sorter.drop(rows))
        return parts

    @property
    def frontier(self) -> RowId:
        """Key of the first batch that has not converged, else of what may be routed."""
        first = self._routed[0][0] if self._routed else END
        return min(first, self._router_frontier)

    @property
    def waiting_rows(self) -> int:
        """Rows that arrived and are not taken yet."""
        return sum(port.rows for port in self._ports)


class Barrier:
    """Everything of every port at once, when all have ended."""

    def __init__(self, ports: int) -> None:
        self._ports = [Sorter() for _ in range(ports)]
        self._taken = False

    def receive(self, port: int, chunk: Chunk) -> None:
        """Keep the chunk until the end."""
        self._ports[port].receive(chunk)

    def advance(self, port: int, frontier: RowId) -> None:
        """Put what lies below the frontier into order."""
        self._ports[port].advance(frontier)

    def take(self) -> list[Chunk]:
        """One chunk, once; nothing if no row came."""
        if self._taken or not all(port.frontier == END for port in self._ports):
            return []
        self._taken = True
        parts = [list(port.ready) for port in self._ports]
        for port in self._ports:
            port.ready.clear()
        if not any(parts):
            return []
        slices = tuple(tuple(s for chunk in part for s in chunk.ports[0]) for part in parts)
        chunks = [chunk for part in parts for chunk in part]
        longest = max(parts, key=lambda part: sum(chunk.rows for chunk in part))
        return [
            Chunk(
                key=START,
                ports=slices,
                runs=ids.join([chunk.runs for chunk in longest]),
                rows=sum(chunk.rows for chunk in longest),
                ticket=max(chunk.ticket for chunk in chunks),
                replayed=all(chunk.replayed for chunk in chunks),
            )
        ]

    @property
    def frontier(self) -> RowId:
        """``START`` until taken."""
        return END if self._taken else START

    @property
    def waiting_rows(self) -> int:
        """Rows that arrived and are not taken yet."""
        return sum(port.rows for port in self._ports)
