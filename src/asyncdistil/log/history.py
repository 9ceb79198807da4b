"""Everything that a commit log says, from its first record on: for what must weigh it all.

A run never reads this: it opens a checkpoint and asks for the lineages that it needs. Collecting
and packing do, because they must know which run needs which rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from asyncdistil.batch import BatchRef, Digest, Lsn, RunId
from asyncdistil.log.commit_log import Tail
from asyncdistil.log.events import (
    Commit,
    Event,
    Moved,
    Reuse,
    Route,
    RunBegin,
    RunEnd,
    Tombstone,
)
from asyncdistil.log.files import Files
from asyncdistil.log.index import Index, decode_event
from asyncdistil.log.log_reader import LogReader
from asyncdistil.log.record import Header, RecordType
from asyncdistil.log.recovery import recover

COLLECTED = "only what later runs took from it is kept"
"""Reason in the `RunEnd` of a run that was collected, or left behind when others were packed."""

_AT_ONCE = 4096

Place = tuple[int, int]
"""Segment and offset of a record of rows."""


class Located(NamedTuple):
    """A commit or a route, which stays on disk until it is asked for.

    Attributes:
        lsn: Its LSN.
        place: Where it stands in the log.
        run: That wrote it.
        lineage: Of the step, or of the router.
        size_bytes: Of its record.
        records: Records of rows that it names, outputs first, then inputs; none for a route.
        outputs: How many of these are outputs.
        rows: Rows that came out.
        samples: Names of the memo's entries that it took.
    """

    lsn: Lsn
    place: int
    run: RunId
    lineage: Digest
    size_bytes: int
    records: tuple[Place, ...] = ()
    outputs: int = 0
    rows: int = 0
    samples: tuple[tuple[bytes, int], ...] = ()


@dataclass(slots=True)
class RunPart:
    """What one run has to do with a store.

    Attributes:
        run: Its id.
        begin: How it began; the last time, if it was taken up again. ``None`` if that is lost.
        first_lsn: Of its first record.
        last_lsn: Of its last record.
        end: How it ended, or ``None``.
        seconds: Unix time of its end, else of its last beginning.
        wrote: LSNs of its commits.
        reused: LSNs of commits of earlier runs that it replayed, as far as they are on record.
        lineages: Of its steps and routers, as far as they are on record.
        sure: Whether what it replayed is on record whole: it completed, and nothing that was
            logged meanwhile was given up as damaged.
    """

    run: RunId
    begin: RunBegin | None
    first_lsn: Lsn
    last_lsn: Lsn
    end: RunEnd | None = None
    seconds: float = 0.0
    wrote: list[Lsn] = field(default_factory=list)
    reused: set[Lsn] = field(default_factory=set)
    lineages: set[Digest] = field(default_factory=set)
    sure: bool = True

    @property
    def completed(self) -> bool:
        """Whether every step ended."""
        return self.end is not None and self.end.completed

    @property
    def collected(self) -> bool:
        """Whether only those of its commits are left that later runs need."""
        return self.end is not None and self.end.reason == COLLECTED


class History:
    """What a log says, in order.

    Attributes:
        store_id: Of the store.
        tail: Where the log ends.
        next_number: First number of a commit-log file never used.
        runs: By id, in the order in which they began.
        events: All that is neither commit nor route, with the sizes of their records.
        commits: Those that count, by ascending LSN; moves are applied.
        routes: By ascending LSN.
        lengths: Bytes of every record of rows that a commit names.
    """

    def __init__(self, root: Path, files: Files) -> None:
        """Read it; made by `read_history`."""
        self.root = root
        self.runs: dict[RunId, RunPart] = {}
        self.events: list[tuple[Lsn, Event, int]] = []
        self.commits: list[Located] = []
        self.routes: list[Located] = []
        self.lengths: dict[Place, int] = {}
        self._files = files
        self._expected = 0
        recovered = recover(root, files, exclusive=False, on_record=self._take)
        self.store_id = recovered.store_id or b""
        self.tail: Tail = recovered.tail
        self.next_number = recovered.next_number
        self._index: Index = recovered.index
        self._settle()

    def read(self, located: Iterable[Located]) -> Iterator[tuple[Located, Event]]:
        """Commits and routes from the disk, as they were written but for moves.

        Args:
            located: By ascending LSN.

        Raises:
            CorruptRecord: One is damaged.
        """
        reader = LogReader(self.root, self.store_id, self._files)
        wanted = list(located)
        try:
            for start in range(0, len(wanted), _AT_ONCE):
                part = wanted[start : start + _AT_ONCE]
                found = reader.events([one.lsn for one in part], [one.place for one in part])
                for one, (_, event) in zip(part, found, strict=True):
                    yield one, event
        finally:
            reader.close()

    def current(self, ref: BatchRef) -> BatchRef:
        """Where a record of rows is now, after all moves."""
        return self._index.current(ref)

    # --- reading -----------------------------------------------------------------------------

    def _take(self, lsn: Lsn, place: int, header: Header, payload: memoryview) -> None:
        if self._expected and lsn != self._expected:
            for run in self.runs.values():
                run.sure = run.sure and run.end is not None
        self._expected = lsn + 1
        if header.type >= RecordType.FILE:
            return
        body = payload[header.meta_bytes : header.meta_bytes + header.body_bytes]
        event = decode_event(body, header.type)
        match event:
            case Commit():
                self._commit(lsn, place, header.size, event)
            case Route():
                found = Located(lsn, place, event.run, event.lineage, header.size)
                self.routes.append(found)
                # A route may outlive its run: it hangs on nothing but the router and the rows.
                if event.run in self.runs:
                    self._run(event.run, lsn).lineages.add(event.lineage)
            case Tombstone() | Moved():
                pass  # the index has them
            case _:
                self._note(lsn, event)
                self.events.append((lsn, event, header.size))

    def _commit(self, lsn: Lsn, place: int, size_bytes: int, event: Commit) -> None:
        refs = list(event.outputs)
        refs += [part.ref for port in event.inputs for part in port]
        for ref in refs:
            self.lengths[ref.segment, ref.offset] = ref.length
        records = tuple(dict.fromkeys((ref.segment, ref.offset) for ref in refs))
        rows = sum(ref.rows for ref in event.outputs)
        samples = event.samples
        run = self._run(event.run, lsn)
        located = Located(
            lsn,
            place,
            run.run,
            event.lineage,
            size_bytes,
            records,
            len(event.outputs),
            rows,
            samples,
        )
        self.commits.append(located)
        run.wrote.append(lsn)
        run.lineages.add(event.lineage)

    def _note(self, lsn: Lsn, event: Event) -> None:
        match event:
            case RunBegin():
                run = self.runs.pop(event.run, None) or RunPart(event.run, event, lsn, lsn)
                # Behind the others again: it is the newest.
                self.runs[event.run] = run
                run.begin, run.end, run.seconds = event, None, event.wall_seconds
                run.last_lsn = lsn
                run.lineages.update(event.lineages)
            case RunEnd():
                run = self._run(event.run, lsn)
                run.end, run.seconds = event, event.wall_seconds
                run.sure = run.sure and event.completed
            case Reuse():
                run = self._run(event.run, lsn)
                run.reused.update(event.commits)
                run.lineages.add(event.lineage)
            case _:
                pass

    def _run(self, run: RunId, lsn: Lsn) -> RunPart:
        found = self.runs.get(run)
        if found is None:
            # Its beginning may come later, as that of a run that was taken in from elsewhere.
            found = self.runs[run] = RunPart(run, None, lsn, lsn)
        found.last_lsn = lsn
        return found

    def _adopt(self) -> None:
        """Give what runs did whose beginning is lost to the run that had begun last by then."""
        begun = [run for run in self.runs.values() if run.begin is not None]
        heirs: dict[RunId, RunId] = {}
        for lost in [run for run in self.runs.values() if run.begin is None]:
            before = [run for run in begun if run.first_lsn < lost.first_lsn]
            if not before:
                lost.sure = False
                continue
            heir = max(before, key=lambda run: run.first_lsn)
            heir.wrote = sorted((*heir.wrote, *lost.wrote))
            heir.reused |= lost.reused
            heir.lineages |= lost.lineages
            heir.last_lsn = max(heir.last_lsn, lost.last_lsn)
            heirs[lost.run] = heir.run
            del self.runs[lost.run]
        if heirs:
            self.commits = [one._replace(run=heirs.get(one.run, one.run)) for one in self.commits]

    def _settle(self) -> None:
        self._adopt()
        dropped = self._index.tombstones
        if dropped:
            self.commits = [one for one in self.commits if one.lsn not in dropped]
        moved = self._index.moved
        if moved:
            self.commits = [
                one._replace(records=tuple(map(self._moved, one.records))) for one in self.commits
            ]
        for run in self.runs.values():
            run.sure = run.sure and run.completed

    def _moved(self, place: Place) -> Place:
        found = self._index.moved.get(place)
        if found is None:
            return place
        new = self._index.current(found[0])
        self.lengths[new.segment, new.offset] = new.length
        return new.segment, new.offset


def read_history(root: Path, files: Files) -> History:
    """Read the whole log of a store. Takes no lock.

    Raises:
        CorruptRecord: Acknowledged records are damaged or missing.
        FormatError: It was written by a newer format.
        StorageError: The disk refused.
    """
    return History(root, files)
