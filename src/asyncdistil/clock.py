"""Time as an argument, so that a test can own it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What the runtime may ask about time."""

    def monotonic(self) -> float:
        """Seconds that only go forward; for durations and deadlines."""
        ...

    def wall(self) -> float:
        """Seconds since the Unix epoch; for showing to people, never for deciding."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def monotonic(self) -> float:
        """Seconds of ``CLOCK_MONOTONIC``."""
        return time.monotonic()

    def wall(self) -> float:
        """Seconds since the Unix epoch."""
        return time.time()
