"""Which stored samples of which request are taken in this run.

A request that is sampled has a pool of answers, numbered from 0. Every use in a run takes the
lowest number that nobody else took, whether an answer is stored under it yet or not. Samples that
replayed commits hold are taken from the start; those of a worker that died are given back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from asyncdistil.transport.messages import Claim, Claimed


class Claims:
    """Taken sample numbers per request key, one bit each."""

    def __init__(self) -> None:
        self._taken: defaultdict[bytes, int] = defaultdict(int)
        self._by_lease: dict[int, list[tuple[bytes, int]]] = {}

    def take(self, samples: Iterable[tuple[bytes, int]]) -> None:
        """Mark samples of replayed commits."""
        for key, number in samples:
            self._taken[key] |= 1 << number

    def answer(self, claim: Claim) -> Claimed:
        """Take the lowest free numbers for every key asked about."""
        held = self._by_lease.setdefault(claim.lease, [])
        given: list[tuple[int, ...]] = []
        for key, count in zip(claim.keys, claim.counts, strict=True):
            taken = self._taken[key]
            numbers: list[int] = []
            for _ in range(count):
                # Lowest zero bit: the complement's lowest set bit.
                number = (~taken & (taken + 1)).bit_length() - 1
                taken |= 1 << number
                numbers.append(number)
                held.append((key, number))
            self._taken[key] = taken
            given.append(tuple(numbers))
        return Claimed(claim.claim, tuple(given))

    def settle(self, lease: int) -> None:
        """A lease is committed: its samples stay taken."""
        self._by_lease.pop(lease, None)

    def release(self, lease: int) -> None:
        """A lease was lost with its worker: its samples are free again."""
        for key, number in self._by_lease.pop(lease, ()):
            self._taken[key] &= ~(1 << number)
