"""Random choices that depend on a seed and on content, never on order or on global state.

A row draws the same lots whichever batch, worker or run it is in, so a task that picks a mutation
or a difficulty at random is still a function of its row and can be replayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from xxhash import xxh3_64_intdigest, xxh3_128_digest

from asyncdistil.codec import canonical_bytes

T = TypeVar("T")


class Draw:
    """A stream of choices named by a seed and some content.

    Equal seeds and equal contents give equal streams, on every machine and Python version: a lot
    is a hash, not the state of a generator whose algorithm may change.
    """

    def __init__(self, seed: int, content: Any) -> None:
        self._name = xxh3_128_digest(canonical_bytes("asyncdistil/draw/1", (seed, content)))
        self._taken = 0

    def uniform(self) -> float:
        """Next lot: at least 0, less than 1."""
        lot = xxh3_64_intdigest(self._name, seed=self._taken)
        self._taken += 1
        return (lot >> 11) / (1 << 53)

    def choice(self, options: Sequence[T]) -> T:
        """One of ``options``, each as likely as the next; at least one is needed."""
        return options[int(self.uniform() * len(options))]

    def weighted(self, options: Sequence[T], weights: Sequence[float]) -> T:
        """One of ``options``, as likely as its weight; weights need not add up to 1."""
        rest = self.uniform() * sum(weights)
        for option, weight in zip(options, weights, strict=True):
            rest -= weight
            if rest < 0:
                return option
        return options[-1]
