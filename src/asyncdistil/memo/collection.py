"""Garbage of a whole cache directory: stores and the memo that they share.

A run goes when it is too old, or when it is the oldest and room is needed; with it go the rows and
answers that no other run needs. An answer is needed by the run that wrote it, by every run that a
commit says took it, and by those that reuse commits of either. Answers that no stored run needs are
treated as runs of their own: they go by age, the oldest first.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from xxhash import xxh3_128_digest

from asyncdistil.batch import RunId
from asyncdistil.errors import LogError, StoreLocked
from asyncdistil.log.collection import Survey, collect
from asyncdistil.log.files import Files
from asyncdistil.log.history import RunPart
from asyncdistil.log.lock import refuse_if_locked
from asyncdistil.log.names import memo_dir, store_root, stores
from asyncdistil.memo.entry import name_of
from asyncdistil.memo.memo import Memo
from asyncdistil.memo.segment import namespace_dir, segment_numbers, segment_path

_WORTH_COMPACTING = 8
"""The memo is compacted if more than one part in so many of it serves nobody."""


class Dropped(NamedTuple):
    """A run that goes.

    Attributes:
        pipeline: Its name.
        part: The run.
        size_bytes: What goes with it.
    """

    pipeline: str
    part: RunPart
    size_bytes: int


class Limits(NamedTuple):
    """What may stay.

    Attributes:
        older_than_seconds: Age from which runs and answers go; ``None`` for no limit.
        max_bytes: Size to come down to; ``None`` for no limit.
    """

    older_than_seconds: float | None = None
    max_bytes: int | None = None


@dataclass(slots=True)
class _Answers:
    """The memo, entry by entry, with how many runs need each."""

    names: list[bytes] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    by_name: dict[bytes, int] = field(default_factory=dict)
    by_run: defaultdict[bytes, list[int]] = field(default_factory=lambda: defaultdict(list))
    needs: Counter[int] = field(default_factory=Counter)
    total_bytes: int = 0
    dropped: set[int] = field(default_factory=set)

    def needed_by(self, survey: Survey, run: RunId) -> set[int]:
        """Entries that a run needs."""
        commits = survey.demand.needed_by(run)
        writers = {run, *(one.run for one in commits)}
        found = {at for writer in writers for at in self.by_run.get(_digest(writer), ())}
        for one in commits:
            for digest, sample in one.samples:
                at = self.by_name.get(name_of(digest, sample))
                if at is not None:
                    found.add(at)
        return found


class Collection:
    """What a cache directory holds, and what of it is to go. Nothing is locked or written yet.

    Attributes:
        surveys: Stores that can be collected.
        refused: Stores that can't, with the reason; they stay whole.
        dropped: Runs that are to go.
        size_bytes: Of everything looked at.
    """

    def __init__(self, cache_dir: Path, files: Files, name: str | None = None) -> None:
        """Look at the stores of a cache directory and their memo, or at one store.

        Args:
            cache_dir: The cache directory.
            files: The disk.
            name: Of one pipeline. The memo is then left alone, since all share it.

        Raises:
            StoreLocked: A run of that one pipeline goes on.
            LogError: That one store, or the memo, can't be read.
        """
        self._cache_dir = cache_dir
        self._files = files
        self._began_seconds = time.time()
        self.surveys: list[Survey] = []
        self.refused: list[tuple[str, str]] = []
        self.dropped: list[Dropped] = []
        if name is not None:
            self.surveys.append(self._looked_at(store_root(cache_dir, name), name))
        else:
            self._look_at_all()
        self._answers = _Answers()
        if name is None and not self.refused:
            self._read_answers()
        self.size_bytes = self._answers.total_bytes
        self.size_bytes += sum(survey.size_bytes for survey in self.surveys)

    @property
    def answers_dropped(self) -> int:
        """Entries of the memo that are to go."""
        return len(self._answers.dropped)

    def choose(self, limits: Limits) -> None:
        """Decide what goes."""
        if limits.older_than_seconds is not None:
            self._drop_older(self._began_seconds - limits.older_than_seconds)
        if limits.max_bytes is not None:
            self._drop_until(limits.max_bytes)

    def freed_bytes(self) -> int:
        """By how much less the disk will hold."""
        return sum(survey.freed_bytes() for survey in self.surveys) + self._answer_bytes()

    def collect(self) -> int:
        """Do what was decided, store by store, then in the memo.

        A store whose run began meanwhile stays as it is, and is added to ``refused``.

        Returns:
            Bytes by which the disk holds less.

        Raises:
            LogError: A disk refused, or a store is damaged. Nothing that is kept is lost.
        """
        freed = 0
        for survey in self.surveys:
            if not survey.freed_bytes() or survey.name is None:
                continue
            try:
                freed += collect(self._cache_dir, survey.name, survey.dropped, self._files)
            except StoreLocked as locked:
                if len(self.surveys) == 1:
                    raise
                self.refused.append((survey.name, str(locked)))
        if not self.refused and self._answer_bytes():
            freed += self._collect_answers()
        return freed

    # --- looking -----------------------------------------------------------------------------

    def _look_at_all(self) -> None:
        for root, name in stores(self._cache_dir):
            if not self._files.listdir(root / "commits"):
                continue
            if name is None:
                self.refused.append((root.name, "nothing tells which pipeline it is of"))
                continue
            try:
                self.surveys.append(self._looked_at(root, name))
            except LogError as error:
                self.refused.append((name, str(error)))

    def _looked_at(self, root: Path, name: str) -> Survey:
        refuse_if_locked(root, name, self._files)
        return Survey(root, name, self._files)

    def _read_answers(self) -> None:
        answers = self._answers
        folder = memo_dir(self._cache_dir)
        memo = Memo.peek(folder, files=self._files)
        if memo is None:
            return
        try:
            for at, (info, entry) in enumerate(memo.entries()):
                answers.names.append(entry.name)
                answers.stamps.append(info.stamp)
                answers.sizes.append(info.size_bytes)
                answers.by_name[entry.name] = at
                answers.by_run[info.run].append(at)
        finally:
            memo.close()
        answers.total_bytes = self._memo_bytes()
        for survey in self.surveys:
            for run in survey.demand.kept:
                answers.needs.update(answers.needed_by(survey, run))

    def _memo_bytes(self) -> int:
        folder = namespace_dir(memo_dir(self._cache_dir))
        total = 0
        for number in segment_numbers(self._files, folder):
            with suppress(FileNotFoundError):
                fd = self._files.open_read(segment_path(folder, number))
                total += self._files.size(fd)
                self._files.close(fd)
        return total

    # --- deciding ----------------------------------------------------------------------------

    def _drop_older(self, before_seconds: float) -> None:
        for survey in self.surveys:
            for run in survey.droppable():
                if run.seconds < before_seconds:
                    self._drop(survey, run)
        answers = self._answers
        for at, stamp in enumerate(answers.stamps):
            if stamp < before_seconds * 1e9 and not answers.needs[at]:
                answers.dropped.add(at)

    def _drop_until(self, max_bytes: int) -> None:
        """Drop the oldest, one by one, until what is left fits."""
        answers = self._answers
        unneeded = [
            (stamp, at)
            for at, stamp in enumerate(answers.stamps)
            if not answers.needs[at] and at not in answers.dropped
        ]
        heapq.heapify(unneeded)
        runs = sorted(self._runs(), key=lambda item: item[:2])
        left = self.size_bytes - self.freed_bytes()
        last = (float("inf"), -1, None)
        for seconds, number, run in [*runs, last]:  # pragma: no branch - the last one returns
            while left > max_bytes and unneeded and unneeded[0][0] <= seconds * 1e9:
                _, at = heapq.heappop(unneeded)
                answers.dropped.add(at)
                left -= answers.sizes[at]
            if left <= max_bytes:
                left = self.size_bytes - self.freed_bytes()
            if left <= max_bytes or run is None:
                return
            for at in self._drop(self.surveys[number], run):
                heapq.heappush(unneeded, (answers.stamps[at], at))
            left -= self.dropped[-1].size_bytes

    def _runs(self) -> Iterable[tuple[float, int, RunPart]]:
        """Runs that may go, each with its time and the number of its store."""
        for number, survey in enumerate(self.surveys):
            seconds = 0.0
            for run in survey.droppable():
                # In a store its order counts: clocks are set back.
                seconds = max(seconds, run.seconds)
                yield seconds, number, run

    def _drop(self, survey: Survey, run: RunPart) -> list[int]:
        """Decide that a run goes; the entries that nobody needs any more."""
        answers = self._answers
        needed = answers.needed_by(survey, run.run) if answers.names else set()
        size = survey.drop(run.run)
        self.dropped.append(Dropped(survey.name or survey.root.name, run, size))
        answers.needs.subtract(needed)
        return [at for at in needed if not answers.needs[at]]

    def _answer_bytes(self) -> int:
        """By how much the memo will get smaller."""
        answers = self._answers
        kept = sum(size for at, size in enumerate(answers.sizes) if at not in answers.dropped)
        idle = answers.total_bytes - kept
        worth = bool(answers.dropped) or idle * _WORTH_COMPACTING > answers.total_bytes
        return max(idle, 0) if worth and answers.names else 0

    def _collect_answers(self) -> int:
        answers = self._answers
        gone = {answers.names[at]: answers.stamps[at] for at in answers.dropped}
        memo = Memo.open(memo_dir(self._cache_dir), files=self._files)
        try:
            # What was written since, in its place, is of a run that was not looked at.
            return memo.compact(
                lambda entry: gone.get(name_of(entry.digest, entry.sample)) != entry.stamp
            ).freed_bytes
        finally:
            memo.close()


def _digest(run: RunId) -> bytes:
    return xxh3_128_digest(run.encode())
