"""What a store holds, to be asked. Shared by the writer's and the readers' side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from asyncdistil.batch import Digest, Lsn, RowSlice, RunId, StepName
from asyncdistil.errors import CorruptRecord
from asyncdistil.log.events import Commit, Emit, Event, Route, RunBegin, RunEnd, StepDef
from asyncdistil.log.files import Files
from asyncdistil.log.index import Index, Located
from asyncdistil.log.log_reader import LogReader
from asyncdistil.log.segment import SegmentReader

_NO_DATA = Digest(bytes(16))


class StoreView:
    """Questions about a store. Not for use from several threads at once.

    Attributes:
        id: 16 bytes that seed every hash of the store.
        root: Its directory.
        warnings: What recovery had to say, for the user.
    """

    def __init__(
        self, root: Path, store_id: bytes, files: Files, index: Index, *, skip_damaged: bool
    ) -> None:
        self.id = store_id
        self.root = root
        self.warnings: list[str] = []
        self._files = files
        self._index = index
        self._skip_damaged = skip_damaged
        self._reader = LogReader(root, store_id, files)

    def commits(self, lineage: Digest) -> list[tuple[Lsn, Commit]]:
        """Commits of a lineage by ascending LSN, without those that ``gc`` dropped.

        In a store opened with ``on_corruption="recompute"`` every payload is read, and those
        that are damaged are left out for good.

        Raises:
            CorruptRecord: A record is damaged.
        """
        index = self._index
        found = self._events(index.table(lineage).commits)
        commits = [(lsn, commit) for lsn, commit in found if isinstance(commit, Commit)]
        if index.moved:
            commits = [(lsn, self._moved(commit)) for lsn, commit in commits]
        if self._skip_damaged:
            commits = self._undamaged(commits)
        return commits

    def _give_up(self, lsns: Sequence[int]) -> None:
        """Called with the LSNs of damaged records that were left out."""

    def routes(self, lineage: Digest) -> dict[Digest, tuple[StepName, ...]]:
        """Newest decision of a router by content digest of the batch.

        Raises:
            CorruptRecord: A record is damaged.
        """
        found = self._events(self._index.table(lineage).routes)
        return {event.input_digest: event.chosen for _, event in found if isinstance(event, Route)}

    def step_def(self, lineage: Digest) -> bytes | None:
        """Preimage of a lineage."""
        found = self._index.step_defs.get(lineage)
        return None if found is None else found.definition

    def step_defs(self) -> dict[Digest, StepDef]:
        """All lineages ever defined."""
        return dict(self._index.step_defs)

    def step_done(self, lineage: Digest, data_identity: Digest) -> tuple[Lsn, RunId] | None:
        """Newest time that a step committed all of its output, and all of it is still there.

        Raises:
            CorruptRecord: A record is damaged.
        """
        index, key = self._index, (lineage, data_identity)
        done = index.done.get(key)
        if done is None or data_identity == _NO_DATA or not (index.lossy or index.tombstones):
            return done
        # What a generator committed may have been given up since; it must yield the rest again.
        return done if self._yielded(lineage, data_identity) == index.done_rows.get(key) else None

    def _yielded(self, lineage: Digest, data_identity: Digest) -> int:
        """Rows that a generator has committed from its first one on, without a gap."""
        yields = {
            commit.ordinal: sum(ref.rows for ref in commit.outputs)
            for _, commit in self.commits(lineage)
            if commit.outputs and commit.input_digests[:1] == (data_identity,)
        }
        rows = 0
        while rows in yields:
            rows += yields[rows]
        return rows

    def outcome(self, lineage: Digest, key: Digest) -> str | None:
        """What became of an outside effect, ``None`` if that is not known."""
        return self._index.outcomes.get((lineage, key))

    def intended(self, lineage: Digest, key: Digest) -> bool:
        """Whether an outside effect was begun and its outcome is not known."""
        return (lineage, key) in self._index.intents

    def last_run(self) -> tuple[RunBegin, RunEnd | None] | None:
        """The newest run and how it ended, ``None`` for its end while it is open."""
        return self.runs()[-1] if self._index.runs else None

    def runs(self) -> list[tuple[RunBegin, RunEnd | None]]:
        """All runs, oldest first; one that was taken up again stands there each time."""
        index = self._index
        newest = {begin.run: lsn for lsn, begin in index.runs}
        return [
            (begin, index.ends.get(begin.run) if newest[begin.run] == lsn else None)
            for lsn, begin in index.runs
        ]

    def begins(self, run: RunId) -> list[tuple[Lsn, RunBegin]]:
        """Each time that a run was begun or taken up, oldest first."""
        return [(lsn, begin) for lsn, begin in self._index.runs if begin.run == run]

    def emits(self, key: Digest) -> list[Emit]:
        """Datasets that a run with this key emitted, oldest first."""
        return list(self._index.emits.get(key, ()))

    def reader(self) -> SegmentReader:
        """A reader of this store's rows; close it when done."""
        return SegmentReader(self.root, self.id, self._files)

    def _events(self, located: Located) -> list[tuple[Lsn, Event]]:
        dropped = self._index.tombstones
        wanted = [
            (lsn, place)
            for lsn, place in zip(located.lsns, located.places, strict=True)
            if lsn not in dropped
        ]
        lsns, places = [lsn for lsn, _ in wanted], [place for _, place in wanted]
        found = list(self._reader.events(lsns, places, skip_damaged=self._skip_damaged))
        if len(found) < len(wanted):
            self._give_up(sorted({*lsns} - {lsn for lsn, _ in found}))
        return found

    def _moved(self, commit: Commit) -> Commit:
        current = self._index.current
        return msgspec.structs.replace(
            commit,
            outputs=tuple(map(current, commit.outputs)),
            inputs=tuple(
                tuple(RowSlice(current(s.ref), s.start, s.stop) for s in port)
                for port in commit.inputs
            ),
        )

    def _undamaged(self, commits: list[tuple[Lsn, Commit]]) -> list[tuple[Lsn, Commit]]:
        kept = []
        damaged = []
        reader = self.reader()
        try:
            for lsn, commit in commits:
                try:
                    for ref in commit.outputs:
                        reader.verify(ref)
                except CorruptRecord as error:
                    self.warnings.append(f"{error} (it is left out and recomputed)")
                    damaged.append(lsn)
                else:
                    kept.append((lsn, commit))
        finally:
            reader.close()
        if damaged:
            self._give_up(damaged)
        return kept

    def _close_view(self) -> None:
        self._reader.close()
