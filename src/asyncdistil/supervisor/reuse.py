"""Which stored commits may stand for work: the reuse rule, as lookups.

A commit is reused only if its step's lineage is equal and the content of its input equals the
content that the step would be given now. Content is compared at the granularity at which an
output depends on it: single rows for row-wise steps, whole batches for the others.

Equal content may occur several times, and a step that samples gives each occurrence an answer of
its own. So a stored answer is handed out once per run; the newest run that stored answers for a
content is asked first, in the order in which it stored them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from asyncdistil.batch import Digest, IdRun, Lsn, Origins, RowFailure, RowSlice, RunId
from asyncdistil.log.events import Commit
from asyncdistil.supervisor import ids
from asyncdistil.supervisor.chunk import Chunk, cut, cut_slices

DIGEST_BYTES = 16


class DigestReader(Protocol):
    """Content digests of stored rows, without decoding them."""

    def row_digests(self, part: RowSlice) -> bytes:
        """16 bytes per row of the slice."""
        ...

    def digest(self, slices: Sequence[RowSlice]) -> Digest:
        """Content digest of concatenated slices."""
        ...


class Hit(msgspec.Struct, frozen=True, gc=False):
    """Input rows ``start`` to ``stop`` of a stored commit answer for as many rows now."""

    lsn: Lsn
    commit: Commit
    start: int
    stop: int


class Match(msgspec.Struct, frozen=True, gc=False):
    """Rows ``start`` to ``stop`` of a chunk, and the stored work that stands for them, if any."""

    start: int
    stop: int
    hit: Hit | None


def output_range(commit: Commit, start: int, stop: int) -> tuple[int, int]:
    """Positions of the output rows that come from input rows ``start`` to ``stop``."""
    origins = commit.origins
    if origins.kind == "same":
        return start, stop
    if origins.kind == "fresh":
        return 0, sum(ref.rows for ref in commit.outputs)
    return bisect_left(origins.index, start), bisect_left(origins.index, stop)


def taken(
    commit: Commit, again: Callable[[int], bool] = lambda row: True
) -> Sequence[tuple[bytes, int]]:
    """Samples of a commit that nobody may take any more.

    Args:
        commit: Some of its rows failed and are tried again.
        again: Says of an input row that failed whether it is: it finds its good answers free.
    """
    free = {position for row, position in commit.spare if again(row)}
    return [sample for position, sample in enumerate(commit.samples) if position not in free]


def replay(chunk: Chunk, hit: Hit) -> tuple[Chunk | None, tuple[RowFailure, ...]]:
    """The output that a hit gives for a chunk of as many rows; ``None`` if no row came out.

    Returns:
        The output chunk with the ids of this run, and the failures recorded for these rows.
    """
    commit = hit.commit
    low, high = output_range(commit, hit.start, hit.stop)
    origins = commit.origins
    if origins.kind in ("subset", "children"):
        origins = Origins(
            origins.kind,
            tuple(i - hit.start for i in origins.index[low:high]),
            origins.child[low:high],
        )
    failures = tuple(
        RowFailure(
            f.input_row - hit.start, f.output_row - low if f.output_row >= 0 else -1, f.failure
        )
        for f in commit.failures
        if hit.start <= f.input_row < hit.stop
    )
    if low == high:
        return None, failures
    return output_chunk(chunk, commit, origins, failures, (low, high), 0), failures


def output_chunk(
    chunk: Chunk,
    commit: Commit,
    origins: Origins,
    failures: tuple[RowFailure, ...],
    rows: tuple[int, int],
    ticket: int,
) -> Chunk:
    """The stream chunk for output rows ``rows[0]`` to ``rows[1]`` of a commit.

    Args:
        chunk: The input rows that the output stands for.
        commit: Whose output it is.
        origins: Relative to ``chunk``.
        failures: Relative to ``chunk`` and to ``rows``.
        rows: Output positions in the commit.
        ticket: Of the commit's append; 0 if it was stored before this run.
    """
    whole = tuple(RowSlice(ref, 0, ref.rows) for ref in commit.outputs)
    low, high = rows
    if origins.kind == "fresh":
        parent = ids.first_id(chunk.runs) if chunk.key != ids.START else ()
        runs: ids.Runs = (IdRun(parent, 0, high - low),)
    else:
        runs = ids.derive(chunk.runs, origins)
    return Chunk(
        key=chunk.key,
        ports=(cut_slices(whole, low, high),),
        runs=runs,
        rows=high - low,
        failed=tuple(f.output_row for f in failures if f.output_row >= 0),
        ticket=ticket,
        replayed=ticket == 0,
    )


class _Pool:
    """Stored answers for one content, handed out once each, the newest run's first."""

    __slots__ = ("_hits", "_next", "_sorted")

    def __init__(self) -> None:
        self._hits: list[Hit] = []
        self._next = 0
        self._sorted = True

    def add(self, hit: Hit) -> None:
        self._hits.append(hit)
        self._sorted = len(self._hits) == 1

    def free(self, used: Callable[[Hit], bool], *, share: bool) -> Hit | None:
        """The next answer that is not used, or the newest one if answers may be shared."""
        if not self._sorted:
            newest: RunId = self._hits[-1].commit.run
            self._hits = [hit for hit in self._hits if hit.commit.run == newest] + [
                hit for hit in reversed(self._hits) if hit.commit.run != newest
            ]
            self._sorted = True
        # Used answers stay used, so each is looked at once: a pool of n costs n in all.
        while self._next < len(self._hits):
            hit = self._hits[self._next]
            if not used(hit):
                return hit
            self._next += 1
        return self._hits[0] if share else None


class RowMemory:
    """Stored work of a row-wise step, by the content of its input rows.

    Args:
        commits: Of the step's lineage, ascending by LSN.
        reader: For row digests of slices that are not whole records.
        share: Hand a stored answer out again when equal rows outnumber the stored ones; for
            steps that do not sample.
        retry_failed: Whether a stored failure is a miss.
        judged: Run whose failures are no misses all the same, or ``None``.
    """

    def __init__(
        self,
        commits: Sequence[tuple[Lsn, Commit]],
        reader: DigestReader,
        *,
        share: bool,
        retry_failed: bool,
        judged: RunId | None = None,
    ) -> None:
        self._commits = commits
        self._reader = reader
        self._share = share
        self._retry_failed = retry_failed
        self._judged = judged
        self._used: defaultdict[Lsn, int] = defaultdict(int)
        self._pieces: dict[bytes, _Pool] = {}
        self._rows: dict[bytes, _Pool] | None = None
        for lsn, commit in commits:
            self._index_pieces(lsn, commit)

    def _index_pieces(self, lsn: Lsn, commit: Commit) -> None:
        position = 0
        for slices in zip(*commit.inputs, strict=False):
            rows = slices[0].rows
            if any(part.rows != rows for part in slices):
                return
            if all(part.whole for part in slices):
                key = b"".join(part.ref.digest for part in slices)
                hit = Hit(lsn, commit, position, position + rows)
                self._pieces.setdefault(key, _Pool()).add(hit)
            position += rows

    def match(self, chunk: Chunk) -> list[Match]:
        """Divide a chunk into rows that stored work stands for and rows that must run."""
        slices = [part for port in chunk.ports for part in port]
        if len(slices) == len(chunk.ports) and all(part.whole for part in slices):
            key = b"".join(part.ref.digest for part in slices)
            hit = self._free(self._pieces.get(key))
            if hit is not None:
                self._take(hit)
                if not (hit.commit.failures and self._retried(hit.commit)):
                    return [Match(0, chunk.rows, hit)]
                return self._without_failures(chunk, hit)
        return self._match_rows(chunk, 0, chunk.rows)

    def _retried(self, commit: Commit) -> bool:
        return self._retry_failed and commit.run != self._judged

    def _free(self, pool: _Pool | None) -> Hit | None:
        return pool.free(self._is_used, share=self._share) if pool else None

    def _is_used(self, hit: Hit) -> bool:
        mask = ((1 << (hit.stop - hit.start)) - 1) << hit.start
        return bool(self._used[hit.lsn] & mask)

    def _take(self, hit: Hit) -> None:
        self._used[hit.lsn] |= ((1 << (hit.stop - hit.start)) - 1) << hit.start

    def _without_failures(self, chunk: Chunk, hit: Hit) -> list[Match]:
        # A set: of several rows that one row became, each may have failed.
        failed = sorted(
            {
                f.input_row - hit.start
                for f in hit.commit.failures
                if hit.start <= f.input_row < hit.stop
            }
        )
        matches: list[Match] = []
        start = 0
        for position in (*failed, chunk.rows):
            if start < position:
                part = Hit(hit.lsn, hit.commit, hit.start + start, hit.start + position)
                matches.append(Match(start, position, part))
            if position < chunk.rows:
                matches.extend(self._match_rows(chunk, position, position + 1))
            start = position + 1
        return matches

    def _match_rows(self, chunk: Chunk, start: int, stop: int) -> list[Match]:
        if self._rows is None:
            self._rows = self._index_rows()
        if not self._rows:
            return [Match(start, stop, None)]
        keys = self._row_keys(cut(chunk, start, stop).ports)
        matches: list[Match] = []
        for position, key in enumerate(keys, start):
            hit = self._free(self._rows.get(key))
            if hit is not None:
                self._take(hit)
            last = matches[-1] if matches else None
            if last is not None and _continues(last.hit, hit):
                joined = hit and last.hit and Hit(hit.lsn, hit.commit, last.hit.start, hit.stop)
                matches[-1] = Match(last.start, position + 1, joined or None)
            else:
                matches.append(Match(position, position + 1, hit))
        return matches

    def _index_rows(self) -> dict[bytes, _Pool]:
        rows: dict[bytes, _Pool] = {}
        for lsn, commit in self._commits:
            failed = {f.input_row for f in commit.failures} if self._retried(commit) else set()
            for position, key in enumerate(self._row_keys(commit.inputs)):
                if position not in failed:
                    hit = Hit(lsn, commit, position, position + 1)
                    rows.setdefault(key, _Pool()).add(hit)
        return rows

    def _row_keys(self, ports: Sequence[Sequence[RowSlice]]) -> list[bytes]:
        tables = [b"".join(self._reader.row_digests(part) for part in port) for port in ports]
        size = DIGEST_BYTES
        return [
            b"".join(table[at : at + size] for table in tables)
            for at in range(0, len(tables[0]) if tables else 0, size)
        ]


def _continues(last: Hit | None, hit: Hit | None) -> bool:
    if last is None or hit is None:
        return last is None and hit is None
    return last.lsn == hit.lsn and last.stop == hit.start


class BatchMemory:
    """Stored work of a batch-wise or global step, by the content of whole batches."""

    def __init__(
        self,
        commits: Sequence[tuple[Lsn, Commit]],
        reader: DigestReader,
        *,
        retry_failed: bool,
        judged: RunId | None = None,
    ) -> None:
        self._reader = reader
        self._used: set[Lsn] = set()
        self._batches: dict[bytes, _Pool] = {}
        for lsn, commit in commits:
            if commit.failures and retry_failed and commit.run != judged:
                continue
            rows = sum(part.rows for part in commit.inputs[0]) if commit.inputs else 0
            hit = Hit(lsn, commit, 0, rows)
            self._batches.setdefault(b"".join(commit.input_digests), _Pool()).add(hit)

    def match(self, chunk: Chunk) -> list[Match]:
        """The whole chunk, with the commit that stands for it, if any."""
        hit = None
        if self._batches:
            key = b"".join(self._reader.digest(port) for port in chunk.ports)
            pool = self._batches.get(key)
            hit = pool.free(lambda stored: stored.lsn in self._used, share=False) if pool else None
            if hit is not None:
                self._used.add(hit.lsn)
        return [Match(0, chunk.rows, hit)]


def generator_chain(
    commits: Sequence[tuple[Lsn, Commit]], identity: Digest
) -> list[tuple[Lsn, Commit]]:
    """The stored yields of a generator from its first row on, without a gap.

    Args:
        commits: Of the generator's lineage, ascending by LSN.
        identity: Data identity that they must have been made from.

    Returns:
        Commits whose ordinals follow one another from 0; at each ordinal the newest.
    """
    newest = {
        commit.ordinal: (lsn, commit)
        for lsn, commit in commits
        if commit.outputs and commit.input_digests[:1] == (identity,)
    }
    chain: list[tuple[Lsn, Commit]] = []
    ordinal = 0
    while (entry := newest.get(ordinal)) is not None:
        chain.append(entry)
        ordinal += sum(ref.rows for ref in entry[1].outputs)
    return chain
