"""Retries: stored work in layers, of which each answers for what the ones before it must not.

The first layer is what a run used. Each retry of it lays another one on top: for rows that are
asked anew the layers below count as empty, and what the retry computes is found in its own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import msgspec

from asyncdistil.batch import Lsn, RunId, StepName
from asyncdistil.graph.plan import Layer
from asyncdistil.log.events import Retried, Retry, RunBegin
from asyncdistil.supervisor.chunk import Chunk, cut
from asyncdistil.supervisor.operator import Memory
from asyncdistil.supervisor.reuse import Hit, Match

Rows = Sequence[tuple[int, int, int]]


class LayeredMemory:
    """Finds stored work for a chunk in layers.

    Args:
        memories: One per layer, the lowest first; ``None`` where nothing is stored.
        rows: Per layer what it is asked for in place of those below it.
    """

    def __init__(self, memories: Sequence[Memory | None], rows: Sequence[Rows]) -> None:
        self._layers = [
            (memory, Chosen(chosen)) for memory, chosen in zip(memories, rows, strict=True)
        ]

    def match(self, chunk: Chunk) -> list[Match]:
        """Divide the chunk into stored and missing rows."""
        matches = [Match(0, chunk.rows, None)]
        for memory, chosen in self._layers:
            matches = [
                found
                for match in matches
                for part in _without(match, chosen)
                for found in ([part] if part.hit is not None else _asked(memory, chunk, part))
            ]
        return matches


class Chosen:
    """Rows of commits, to be looked up."""

    def __init__(self, rows: Rows) -> None:
        self._ranges: defaultdict[Lsn, list[tuple[int, int]]] = defaultdict(list)
        for lsn, start, stop in sorted(rows):
            self._ranges[Lsn(lsn)].append((start, stop))

    def holds(self, lsn: Lsn, row: int) -> bool:
        """Whether an input row of a commit is among them."""
        return any(start <= row < stop for start, stop in self._ranges.get(lsn, ()))

    def within(self, hit: Hit) -> Iterator[tuple[int, int]]:
        """Ranges of the hit's commit that reach into the hit, in order."""
        ranges = self._ranges.get(hit.lsn, ())
        first = bisect_right(ranges, hit.start, key=lambda each: each[1])
        for start, stop in ranges[first:]:
            if start >= hit.stop:
                return
            yield max(start, hit.start), min(stop, hit.stop)


def _without(match: Match, chosen: Chosen) -> Iterator[Match]:
    """Cut a match where its stored work must not stand."""
    hit = match.hit
    if hit is None:
        yield match
        return
    shift = match.start - hit.start
    at = hit.start
    for start, stop in chosen.within(hit):
        if at < start:
            yield Match(at + shift, start + shift, Hit(hit.lsn, hit.commit, at, start))
        yield Match(start + shift, stop + shift, None)
        at = stop
    if at < hit.stop:
        yield Match(at + shift, match.stop, Hit(hit.lsn, hit.commit, at, hit.stop))


def _asked(memory: Memory | None, chunk: Chunk, part: Match) -> list[Match]:
    if memory is None:
        return [part]
    found = memory.match(cut(chunk, part.start, part.stop))
    return [Match(m.start + part.start, m.stop + part.start, m.hit) for m in found]


def chain_of(begin: RunBegin, runs: Sequence[RunBegin]) -> list[RunBegin]:
    """The run that was mended first, the retries on top of it, and the run itself, in order.

    Args:
        begin: The run.
        runs: All runs of the store, oldest first.
    """
    known = {each.run: each for each in runs}
    chain = [begin]
    while (retry := chain[-1].retry) is not None and retry.base in known:
        chain.append(known[retry.base])
    if (retry := chain[-1].retry) is not None:
        # The log has forgotten the run that was mended; of its rows those are left that are used.
        chain.append(msgspec.structs.replace(chain[-1], run=retry.base, retry=None))
    return chain[::-1]


def layers_of(
    chain: Sequence[RunBegin], runs: Sequence[RunBegin], *, live: bool
) -> dict[StepName, tuple[Layer, ...]]:
    """What each step of a retry may take from the log.

    Args:
        chain: As `chain_of` gives it; the last one is the retry.
        runs: All runs of the store, oldest first, the retry among them.
        live: Whether the retry is about to run: then its own failures are tried again.
    """
    return {
        step.step: tuple(_layers(step.step, chain, runs, live=live))
        for step in _retry(chain[-1]).steps
    }


def _layers(
    step: StepName, chain: Sequence[RunBegin], runs: Sequence[RunBegin], *, live: bool
) -> Iterator[Layer]:
    base, *retries = chain
    first = _retry(retries[0])
    known = _upto(base.run, runs) or {each.run for each in runs if each.run != retries[0].run}
    yield Layer(
        lineage=_of(step, first).lineage,
        runs=frozenset(known),
        judged=base.run,
        retry_failed=first.retry_failed,
    )
    for begin in retries:
        retry = _retry(begin)
        asked = _of(step, retry)
        upto = _upto(begin.run, runs)
        if retry.anew and asked.rows:
            able = {each.run for each in runs if each.run in upto and _asks_for(each, retry)}
        else:
            able = upto - known
        last = begin is retries[-1]
        yield Layer(
            lineage=asked.again,
            runs=frozenset(able),
            judged="" if live and last else begin.run,
            rows=asked.rows,
        )
        known |= upto


def _asks_for(begin: RunBegin, retry: Retry) -> bool:
    return begin.retry is not None and begin.retry.request == retry.request


def _retry(begin: RunBegin) -> Retry:
    assert begin.retry is not None, "only retries stand on top of a run"
    return begin.retry


def _of(step: StepName, retry: Retry) -> Retried:
    return next(each for each in retry.steps if each.step == step)


def _upto(run: RunId, runs: Sequence[RunBegin]) -> set[RunId]:
    """A run and those that began before it; taken up again, it counts from its last time on."""
    last = max((at for at, each in enumerate(runs) if each.run == run), default=-1)
    return {each.run for each in runs[: last + 1]}


def layered(
    layers: Sequence[Layer], memory_of: Callable[[Layer], Memory | None]
) -> LayeredMemory | None:
    """The memory of a step of a retry; ``None`` if nothing is stored of it."""
    memories = [memory_of(layer) for layer in layers]
    if all(memory is None for memory in memories):
        return None
    return LayeredMemory(memories, [layer.rows for layer in layers])
