"""How much work a worker may hold: credits in batches and in bytes.

Too little and the worker waits for the supervisor between two batches; too much and a slow replica
sits on work that its siblings could do, and memory is spent on it. So the window is sized in time:
about `Window.target_seconds` of work lies ready in front of a worker, whatever a batch takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

TARGET_SECONDS = 0.02
LEAST_LEASES = 2
MOST_LEASES = 64
LIMIT_BYTES = 64 * 1024 * 1024
HELD_PER_SLOT = 4
"""Rows that a worker may hold for each that it can have in flight, where it counts in rows.

Rows that are done count until their lease is reported, and a lease of 50 model calls lasts as long
as its slowest one: three times the mean, for lognormal latencies with a sigma of 0.5. With room for
two per slot, as few as 75 of 256 requests were in flight while finished rows filled the rest.
"""
_WEIGHT = 0.25  # of the newest sample in the moving average: about the last four batches


@dataclass(slots=True)
class Window:
    """Credits of one worker. Pure: durations come in as arguments.

    Attributes:
        target_seconds: Work that should lie ready.
        least: Leases always allowed in flight (bytes permitting), at least 1.
        most: Leases never exceeded.
        limit_bytes: Bytes of input in flight; one lease is admitted whatever its size.
        leases: Leases in flight now.
        bytes_in_flight: Their size.
        seconds_per_lease: Moving average, 0 until the first one is settled.
    """

    target_seconds: float = TARGET_SECONDS
    least: int = LEAST_LEASES
    most: int = MOST_LEASES
    limit_bytes: int = LIMIT_BYTES
    leases: int = 0
    bytes_in_flight: int = 0
    seconds_per_lease: float = 0.0
    _width: int = field(default=0)

    def __post_init__(self) -> None:
        self.least = max(1, self.least)
        self.most = max(self.least, self.most)
        self._width = self.least

    @property
    def width(self) -> int:
        """Leases that may be in flight at once, ``least`` to ``most``."""
        return self._width

    def admits(self, size_bytes: int) -> bool:
        """Whether one more lease of this size may go out; an idle worker always gets one."""
        if not self.leases:
            return True
        return self.leases < self._width and self.bytes_in_flight + size_bytes <= self.limit_bytes

    def sent(self, size_bytes: int) -> None:
        """Account for a lease that went out."""
        self.leases += 1
        self.bytes_in_flight += size_bytes

    def settled(self, size_bytes: int, seconds: float) -> None:
        """Account for a lease that came back after ``seconds`` of the worker's time.

        The width grows at most twofold per settled lease, so that one lucky batch does not pull a
        whole mailbox into one replica, and shrinks at once.
        """
        self.returned(size_bytes)
        old = self.seconds_per_lease
        seconds = max(seconds, 1e-6)
        self.seconds_per_lease = old + _WEIGHT * (seconds - old) if old else seconds
        wanted = min(int(self.target_seconds / self.seconds_per_lease) + 1, 2 * self._width)
        self._width = max(self.least, min(self.most, wanted))

    def returned(self, size_bytes: int) -> None:
        """Account for a lease that came back unworked; nothing is learnt from it."""
        self.leases = max(0, self.leases - 1)
        self.bytes_in_flight = max(0, self.bytes_in_flight - size_bytes) if self.leases else 0

    def reset(self) -> None:
        """Forget what is in flight: the worker died. What was learnt stays."""
        self.leases = 0
        self.bytes_in_flight = 0
