"""Which records of a log the runs that are kept need, and which nobody needs any more.

A completed run needs the commits that it wrote and those that its REUSE records name. What a run
that did not complete had replayed is not on record, so it is taken to need every earlier commit of
its steps. A commit needs the rows that it wrote and those that it was made of: their digests decide
later whether it may be reused.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from typing import TypeAlias

import msgspec

from asyncdistil.batch import Digest, Lsn, RunId
from asyncdistil.log.events import (
    Commit,
    Emit,
    Event,
    Reuse,
    RunBegin,
    RunEnd,
    StepDef,
    StepDone,
)
from asyncdistil.log.history import COLLECTED, History, Located, Place, RunPart

Record: TypeAlias = "Event | Located"
"""Something of the log that is kept; a commit or route is read when it is written anew."""

_NO_DATA = Digest(bytes(16))


class Demand:
    """What the runs of a store need, with runs taken away one by one.

    Attributes:
        history: Of the store.
        kept: Runs that are still there, oldest first.
    """

    def __init__(self, history: History, only: Collection[RunId] | None = None) -> None:
        """Count who needs what.

        Args:
            history: Of the store.
            only: Runs to keep; all by default.
        """
        self.history = history
        self.kept = {
            run.run: run
            for run in history.runs.values()
            if not run.collected and (only is None or run.run in only)
        }
        self._by_lsn = {one.lsn: one for one in history.commits}
        self._commits: Counter[Lsn] = Counter()
        self._records: Counter[Place] = Counter()
        for run in self.kept.values():
            self._commits.update(self._needed(run))
        for lsn in self._commits:
            self._records.update(self._by_lsn[lsn].records)

    def drop(self, run: RunId) -> int:
        """Do without a run.

        Returns:
            Bytes of rows and commits that nobody needs any more.
        """
        freed = 0
        for lsn in self._needed(self.kept.pop(run)):
            self._commits[lsn] -= 1
            if self._commits[lsn]:
                continue
            del self._commits[lsn]
            commit = self._by_lsn[lsn]
            freed += commit.size_bytes
            for place in commit.records:
                self._records[place] -= 1
                if not self._records[place]:
                    del self._records[place]
                    freed += self.history.lengths[place]
        return freed

    def leave_out(self, places: Collection[Place]) -> int:
        """Do without the commits that name some records of rows, whoever needs them.

        Returns:
            How many there are.
        """
        unwanted = [one for one in self.commits if not set(places).isdisjoint(one.records)]
        for one in unwanted:
            del self._commits[one.lsn]
            self._records.subtract(one.records)
        self._records = +self._records
        return len(unwanted)

    def alone(self, run: RunId) -> int:
        """Bytes that `drop` would free."""
        freed = 0
        gone: Counter[Place] = Counter()
        for lsn in self._needed(self.kept[run]):
            if self._commits[lsn] == 1:
                freed += self._by_lsn[lsn].size_bytes
                gone.update(self._by_lsn[lsn].records)
        return freed + sum(
            self.history.lengths[place]
            for place, count in gone.items()
            if count == self._records[place]
        )

    def needed_by(self, run: RunId) -> list[Located]:
        """Commits that a run needs, by ascending LSN."""
        return [self._by_lsn[lsn] for lsn in sorted(self._needed(self.kept[run]))]

    @property
    def records(self) -> Collection[Place]:
        """Records of rows that somebody needs."""
        return self._records.keys()

    @property
    def commits(self) -> list[Located]:
        """Commits that somebody needs, by ascending LSN."""
        return [one for one in self.history.commits if one.lsn in self._commits]

    @property
    def whole(self) -> bool:
        """Whether every commit is needed, and every run is kept but those collected before."""
        runs = sum(not run.collected for run in self.history.runs.values())
        return len(self._commits) == len(self.history.commits) and len(self.kept) == runs

    def _needed(self, run: RunPart) -> set[Lsn]:
        """LSNs of the commits that a run needs."""
        known = self._by_lsn.keys()
        needed = {lsn for lsn in run.wrote if lsn in known}
        if run.sure:
            return needed | (run.reused & known)
        told = run.begin is not None and bool(run.begin.lineages)
        needed.update(
            one.lsn
            for one in self.history.commits
            if one.lsn < run.last_lsn and (not told or one.lineage in run.lineages)
        )
        return needed

    # --- the log that is left ----------------------------------------------------------------

    def log(self) -> list[Record]:
        """What a log holds that tells only of the kept runs, in order."""
        commits = self.commits
        lineages, all_known = self._lineages(commits)
        routes = [
            one
            for one in self.history.routes
            if one.run in self.kept or one.lineage in lineages or not all_known
        ]
        owners = {one.run for one in commits} | self._mended()
        chosen: list[tuple[Lsn, Record]] = [(one.lsn, one) for one in (*commits, *routes)]
        lineages.update(one.lineage for one in routes)
        complete = self._complete_generators(commits)
        for lsn, event, _ in self.history.events:
            kept = self._kept_event(event, lineages, owners, complete)
            if kept is not None:
                chosen.append((lsn, kept))
        chosen.sort(key=lambda item: item[0])
        return list(self._ended(chosen, owners))

    def _mended(self) -> set[RunId]:
        """Runs that kept runs are retries of, and those that these are: they say what stood."""
        mended: set[RunId] = set()
        waiting = [run.begin for run in self.kept.values()]
        while waiting:
            begin = waiting.pop()
            base = begin.retry.base if begin is not None and begin.retry is not None else None
            if base is not None and base not in mended and base in self.history.runs:
                mended.add(base)
                waiting.append(self.history.runs[base].begin)
        return mended

    def _lineages(self, commits: list[Located]) -> tuple[set[Digest], bool]:
        """Lineages that kept runs have to do with, and whether they all are on record."""
        lineages = {one.lineage for one in commits}
        for run in self.kept.values():
            lineages |= run.lineages
        lineages.update(
            event.lineage
            for _, event, _ in self.history.events
            if isinstance(event, StepDone) and event.run in self.kept
        )
        told = all(run.begin is not None and run.begin.lineages for run in self.kept.values())
        return lineages, told

    def _complete_generators(self, commits: list[Located]) -> set[tuple[Digest, Digest, int]]:
        """Lineage, data and rows of generators whose yields are kept from the first to the last."""
        wanted = {
            event.lineage
            for _, event, _ in self.history.events
            if isinstance(event, StepDone) and event.data_identity != _NO_DATA
        }
        yields: defaultdict[tuple[Digest, Digest], dict[int, int]] = defaultdict(dict)
        mine = [one for one in commits if one.lineage in wanted]
        for one, event in self.history.read(mine):
            if isinstance(event, Commit) and len(event.input_digests) == 1 and one.rows:
                yields[one.lineage, event.input_digests[0]][event.ordinal] = one.rows
        complete = set()
        for (lineage, data), found in yields.items():
            rows = 0
            while rows in found:
                rows += found[rows]
            complete.add((lineage, data, rows))
        return complete

    def _kept_event(
        self,
        event: Event,
        lineages: Collection[Digest],
        owners: Collection[RunId],
        complete: Collection[tuple[Digest, Digest, int]],
    ) -> Event | None:
        """The event as it is kept, ``None`` if it is not."""
        keep = True
        match event:
            case RunBegin(run=run):
                keep = run in self.kept or (
                    # Of its beginnings one is enough for a run that is no more.
                    run in owners and event is self.history.runs[run].begin
                )
            case StepDef(lineage=lineage):
                keep = lineage in lineages
            case StepDone(data_identity=data) if data != _NO_DATA and event.lineage in lineages:
                # Also of a run that is no more: later ones took the generator for complete.
                keep = (event.lineage, data, event.rows) in complete or not event.rows
            case Emit(run=run) | RunEnd(run=run) | StepDone(run=run):
                keep = run in self.kept
            case Reuse(run=run):
                commits = tuple(lsn for lsn in event.commits if lsn in self._commits)
                keep = run in self.kept and bool(commits)
                event = msgspec.structs.replace(event, commits=commits)
            case _:
                pass  # outside effects happened, whoever asked for them
        return event if keep else None

    def _ended(
        self, chosen: list[tuple[Lsn, Record]], owners: Collection[RunId]
    ) -> Iterator[Record]:
        """End runs that are no more, behind the last that is left of them."""
        gone = {run for run in owners if run not in self.kept}
        last = {
            one.run: lsn
            for lsn, one in chosen
            if isinstance(one, Located | RunBegin) and one.run in gone
        }
        for lsn, record in chosen:
            yield record
            if isinstance(record, Located | RunBegin) and last.get(record.run) == lsn:
                part = self.history.runs[record.run]
                yield RunEnd(part.run, False, _NO_DATA, 0, COLLECTED, part.seconds)
