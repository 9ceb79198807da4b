"""The operator behind a leaf: durable rows, in source order, on their way into a dataset."""

from __future__ import annotations

import struct
from collections import deque

from asyncdistil.batch import BatchRef, Digest, RowId, RowSlice, SegmentId, StepName
from asyncdistil.errors import StorageError
from asyncdistil.log.events import Emit
from asyncdistil.supervisor.chunk import Chunk
from asyncdistil.supervisor.commands import Publish, WorkerId
from asyncdistil.supervisor.crew import MOST_ATTEMPTS, Crew, Member
from asyncdistil.supervisor.front import Sorter
from asyncdistil.supervisor.ids import END
from asyncdistil.supervisor.outlet import Outlet
from asyncdistil.supervisor.state import RunState
from asyncdistil.transport.messages import Export, Exported

_SLICES_PER_MESSAGE = 512
_PACKED = struct.Struct("<IQQIQ16sII")  # a slice and its reference in 56 bytes


def pack(part: RowSlice) -> bytes:
    """A slice as bytes: a leaf remembers every one of its slices until its export is done."""
    ref = part.ref
    return _PACKED.pack(
        ref.segment,
        ref.offset,
        ref.length,
        ref.rows,
        ref.checksum,
        ref.digest,
        part.start,
        part.stop,
    )


def unpack(fields: tuple[int, int, int, int, int, bytes, int, int]) -> RowSlice:
    """The slice that was packed."""
    segment, offset, length, rows, checksum, digest, start, stop = fields
    ref = BatchRef(SegmentId(segment), offset, length, rows, checksum, Digest(digest))
    return RowSlice(ref, start, stop)


class LeafOperator:
    """Collects the rows of one leaf for an exporter process.

    Args:
        leaf: The step whose rows become a dataset.
        config: Name of the configuration in the Distiset.
        key: The run's complete-hit key, for the EMIT record.
        state: Of the run.
        publish: Whether to hand the rows to a listener as well.
    """

    def __init__(
        self, leaf: StepName, config: str, key: Digest, state: RunState, *, publish: bool
    ) -> None:
        self.name = StepName(f"{leaf}/export")
        self.leaf = leaf
        self.config = config
        self.outlet = Outlet(self.name, state)
        self.crew = Crew(self.name, "export", 1, state)
        self.done = False
        self.active = True
        self.dirty = True
        self._durable_ticket = 0
        self.emitted: Emit | None = None
        self._key = key
        self._state = state
        self._publish = publish
        self._port = Sorter()
        self._failed_rows = 0
        self._released = bytearray()
        self._sent = 0
        self._finishing = False
        self._attempts = 1

    @property
    def space(self) -> str:
        """Nobody reads an export."""
        return self.name

    @property
    def starving(self) -> bool:
        """An exporter's hunger moves nobody."""
        return False

    def receive(self, port: int, chunk: Chunk) -> None:
        """Take a chunk of the leaf."""
        self.dirty = True
        self._port.receive(chunk)

    def advance(self, port: int, frontier: RowId) -> None:
        """Learn how far the leaf is complete."""
        self.dirty = True
        self._port.advance(frontier)

    def durable(self, ticket: int) -> None:
        """Every append up to ``ticket`` survives a power cut."""
        self._durable_ticket = ticket
        self.dirty = True

    def sweep(self) -> None:
        """Release what is in order and durable, then send it on."""
        self.dirty = False
        self.crew.ensure(1)
        ready: deque[Chunk] = self._port.ready
        fresh: list[RowSlice] = []
        while ready and ready[0].ticket <= self._durable_ticket:
            chunk = ready.popleft()
            self._failed_rows += len(chunk.failed)
            fresh.extend(chunk.ports[0])
        for part in fresh:
            self._released += pack(part)
        if self._publish and fresh:
            self._state.commands.append(Publish(self.leaf, tuple(fresh)))
        self._send()

    def _send(self) -> None:
        member = next(iter(self.crew.members.values()), None)
        if member is None or not member.ready or self._finishing:
            return
        step = _SLICES_PER_MESSAGE * _PACKED.size
        while self._sent < len(self._released):
            part = self._released[self._sent : self._sent + step]
            slices = tuple(unpack(fields) for fields in _PACKED.iter_unpack(part))
            self._state.send(member.number, Export(slices))
            self._sent += len(part)
        if self._port.ended:
            self._finishing = True
            self.crew.finish()

    def on_ready(self, member: Member) -> None:
        """An exporter is ready from the start."""

    def on_exported(self, message: Exported) -> None:
        """The files are in place: record it."""
        self.dirty = True
        if self.done:
            return
        self.done = True
        self.emitted = Emit(
            run=self._state.run,
            key=self._key,
            leaf=self.leaf,
            config=self.config,
            files=message.files,
            rows=message.rows,
            failed=self._failed_rows,
            notes=message.notes,
        )
        self._state.append(self.emitted)
        self.outlet.advance(END)

    def on_lost(self, worker: WorkerId, cause: str) -> None:
        """Start the export again from its first row: every row of it is durable."""
        self.dirty = True
        for member in self.crew.members.values():
            member.finishing = False
        self.crew.lost(worker, cause, restart=not self.done)
        if self.done:
            return
        self._finishing = False
        self._sent = 0
        self._attempts += 1
        if self._attempts > MOST_ATTEMPTS:
            self._state.fail(
                StorageError(
                    f"the export of step {self.leaf!r} died {MOST_ATTEMPTS} times: {cause}. Every "
                    "row is in the log: mend the cause (often memory or disk) and run again."
                )
            )
        self.crew.ensure(1)
