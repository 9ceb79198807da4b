"""Refuse a global step whose rows would not fit, before they are decoded and not by a kill."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from asyncdistil.errors import MemoryRefused
from asyncdistil.transport.messages import Lease

BYTES_PER_ENCODED_BYTE = 6
"""Memory of decoded rows for each of their encoded bytes: 4 to 8 for rows of short texts and
numbers, less for long texts (CPython 3.11, 64 bit)."""
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def refuse_what_does_not_fit(lease: Lease, limit_bytes: int | None, step: str) -> None:
    """Compare the estimated size of a global step's input with what it may use.

    Args:
        lease: The whole input.
        limit_bytes: ``StepResources.memory``; ``None`` asks the machine, and lets everything pass
            where it does not answer.
        step: For the message.

    Raises:
        MemoryRefused: It would not fit; names both figures.
    """
    encoded = sum(
        piece.ref.length * piece.rows // piece.ref.rows
        for slices in lease.ports
        for piece in slices
    )
    estimate = encoded * BYTES_PER_ENCODED_BYTE
    available = free_bytes() if limit_bytes is None else limit_bytes
    if available is not None and estimate > available:
        rows = sum(piece.rows for slices in lease.ports for piece in slices)
        source = "is free on this machine" if limit_bytes is None else "its resources allow"
        raise MemoryRefused(
            f"global step {step!r} would hold {rows:,} rows, about {_show(estimate)} once decoded; "
            f"{_show(available)} {source}. Set `StepResources(memory=…)` higher if you know "
            "better, drop columns before the step, or override `process_table`"
        )


def free_bytes() -> int | None:
    """Memory that can be had without swapping; ``None`` if the machine does not say."""
    figures: list[int] = []
    with suppress(OSError, ValueError):
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                figures.append(int(line.split()[1]) * 1024)
    with suppress(OSError, ValueError):
        limit = int((_CGROUP / "memory.max").read_text())
        figures.append(limit - int((_CGROUP / "memory.current").read_text()))
    return min(figures, default=None)


def _show(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.0f} MiB"
