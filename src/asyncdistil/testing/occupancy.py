"""How full a service was over time."""

from __future__ import annotations

from array import array

import msgspec


class Span(msgspec.Struct, frozen=True):
    """The time from the first to the last moment at which a service was full.

    Attributes:
        mean: Mean requests being served in that time; 0 if it never was full.
        seconds: Length of that time.
        began_seconds: When it began, counted from the first request.
        ended_seconds: When the last request ended, counted from the first request.
    """

    mean: float
    seconds: float
    began_seconds: float
    ended_seconds: float


class Occupancy:
    """Every change of the number of requests being served; 16 bytes each."""

    def __init__(self) -> None:
        self._seconds = array("d")
        self._levels = array("q")

    def note(self, now_seconds: float, level: int) -> None:
        """From now on ``level`` requests are being served.

        Args:
            now_seconds: Monotonic; never less than the last.
            level: Requests being served, the new or without the ended one.
        """
        self._seconds.append(now_seconds)
        self._levels.append(level)

    def while_full(self, full: int) -> Span:
        """What lay between the first and the last moment with at least ``full`` requests."""
        moments = [at for at, level in enumerate(self._levels) if level >= full]
        if not self._levels:
            return Span(0.0, 0.0, 0.0, 0.0)
        began, ended = self._seconds[0], self._seconds[-1]
        if not moments:
            return Span(0.0, 0.0, 0.0, ended - began)
        first, last = moments[0], moments[-1]
        seconds = self._seconds[last] - self._seconds[first]
        served = sum(
            self._levels[at] * (self._seconds[at + 1] - self._seconds[at])
            for at in range(first, last)
        )
        mean = served / seconds if seconds else float(self._levels[first])
        return Span(mean, seconds, self._seconds[first] - began, ended - began)
