"""What the commit log says, kept as little as possible.

Commits and routes are only counted and located (16 bytes each); all other events are few and
kept whole. A checkpoint stores this index, and the tables of its lineages are read from there
only when somebody asks.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping

import msgspec

from asyncdistil.batch import BatchRef, Digest, Lsn, RunId
from asyncdistil.errors import FormatError
from asyncdistil.log.events import (
    Commit,
    Emit,
    Event,
    Intent,
    Moved,
    Outcome,
    Route,
    RunBegin,
    RunEnd,
    StepDef,
    StepDone,
    Tombstone,
)
from asyncdistil.log.record import RecordType

_encoder = msgspec.msgpack.Encoder()
encode_event: Callable[[Event], bytes] = _encoder.encode
_decode: Callable[[bytes | memoryview], Event] = msgspec.msgpack.Decoder(Event).decode


def decode_event(body: bytes | memoryview, tag: int) -> Event:
    """Read the event in an intact record of type ``tag``.

    Raises:
        FormatError: The record is as it was written, but not by this version of asyncdistil.
    """
    try:
        event = _decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _foreign(tag, str(error)) from None
    if EVENT_TAGS[type(event)] != tag:
        raise _foreign(tag, f"it holds a {type(event).__name__}")
    return event


def _foreign(tag: int, reason: str) -> FormatError:
    return FormatError(
        f"a record of type {tag} in the commit log can't be read ({reason}): it was written by a "
        "newer asyncdistil, or by something else; upgrade, or take another cache directory"
    )


def _tag(kind: type[msgspec.Struct]) -> int:
    tag = kind.__struct_config__.tag
    assert isinstance(tag, int)
    return tag


EVENT_TAGS: dict[type, int] = {kind: _tag(kind) for kind in Event.__args__}
COMMIT_TAG = EVENT_TAGS[Commit]
ROUTE_TAG = EVENT_TAGS[Route]
_LAST_EVENT_TAG = int(RecordType.FILE) - 1

_OFFSET_BITS = 40


def pack_place(number: int, offset: int) -> int:
    """One number for a position in the commit log: file number and byte offset (below 1 TiB)."""
    return number << _OFFSET_BITS | offset


def unpack_place(place: int) -> tuple[int, int]:
    """File number and byte offset of a place."""
    return place >> _OFFSET_BITS, place & ((1 << _OFFSET_BITS) - 1)


class Located:
    """LSNs and places of the records of one kind of one lineage, by ascending LSN."""

    __slots__ = ("lsns", "places")

    def __init__(self) -> None:
        self.lsns = array("Q")
        self.places = array("Q")

    def add(self, lsn: int, place: int) -> None:
        """Note one record."""
        self.lsns.append(lsn)
        self.places.append(place)

    def relocate(self, places: Mapping[int, int]) -> None:
        """Change the places of the newest records, which were written again elsewhere."""
        for i in range(len(self.lsns) - 1, -1, -1):
            place = places.get(self.lsns[i])
            if place is None:
                return
            self.places[i] = place


class Table:
    """Where the commits and routes of one lineage are."""

    __slots__ = ("commits", "routes")

    def __init__(self) -> None:
        self.commits = Located()
        self.routes = Located()


class Index:
    """State of a store as its log tells it.

    ``tables`` holds what was logged since the checkpoint; ``stored`` gives the part before.
    ``lossy`` says whether damaged records were given up, so that some may be missing.
    """

    def __init__(self, stored: Callable[[Digest], Table | None] | None = None) -> None:
        self.runs: list[tuple[Lsn, RunBegin]] = []
        self.ends: dict[RunId, RunEnd] = {}
        self.step_defs: dict[Digest, StepDef] = {}
        self.done: dict[tuple[Digest, Digest], tuple[Lsn, RunId]] = {}
        self.done_rows: dict[tuple[Digest, Digest], int] = {}
        self.lossy = False
        self.intents: set[tuple[Digest, Digest]] = set()
        self.outcomes: dict[tuple[Digest, Digest], str] = {}
        self.emits: dict[Digest, list[Emit]] = {}
        self.tombstones: set[int] = set()
        self.moved: dict[tuple[int, int], tuple[BatchRef, BatchRef]] = {}
        self.tables: dict[Digest, Table] = {}
        self._stored = stored
        self._merged: set[Digest] = set()

    def locate(self, tag: int, lineage: bytes, lsn: int, place: int) -> None:
        """Note where a commit or a route is."""
        table = self.tables.get(lineage)  # type: ignore[call-overload]
        if table is None:
            table = self.tables[Digest(lineage)] = Table()
        (table.commits if tag == COMMIT_TAG else table.routes).add(lsn, place)

    def apply(self, lsn: Lsn, event: Event) -> None:
        """Take in an event that is neither a commit nor a route."""
        match event:
            case RunBegin():
                # A run that is taken up again is open again.
                self.ends.pop(event.run, None)
                self.runs.append((lsn, event))
            case RunEnd():
                self.ends[event.run] = event
            case StepDef():
                self.step_defs[event.lineage] = event
            case StepDone():
                self.done[event.lineage, event.data_identity] = lsn, event.run
                self.done_rows[event.lineage, event.data_identity] = event.rows
            case Intent():
                self.intents.add((event.lineage, event.key))
            case Outcome():
                self.intents.discard((event.lineage, event.key))
                self.outcomes[event.lineage, event.key] = event.note
            case Emit():
                self.emits.setdefault(event.key, []).append(event)
            case Tombstone():
                self.tombstones.update(event.commits)
            case Moved():
                self.moved[event.old.segment, event.old.offset] = event.old, event.new
            case _:
                pass

    def table(self, lineage: Digest) -> Table:
        """Everything known about a lineage's commits and routes."""
        if self._stored is not None and lineage not in self._merged:
            base = self._stored(lineage)
            # Only now: who could not be told must not be told next time that there is nothing.
            self._merged.add(lineage)
            if base is not None:
                tail = self.tables.get(lineage, Table())
                for whole, part in ((base.commits, tail.commits), (base.routes, tail.routes)):
                    whole.lsns.extend(part.lsns)
                    whole.places.extend(part.places)
                self.tables[lineage] = base
        return self.tables.get(lineage) or Table()

    def relocate(self, places: Mapping[int, int]) -> None:
        """Note that records were written again elsewhere, with the same LSNs."""
        for table in self.tables.values():
            table.commits.relocate(places)
            table.routes.relocate(places)

    def current(self, ref: BatchRef) -> BatchRef:
        """Where a segment record is now, after all moves."""
        # More steps than moves would mean that they go round in a circle.
        for _ in range(len(self.moved)):
            moved = self.moved.get((ref.segment, ref.offset))
            if moved is None:
                break
            _, ref = moved
        return ref
