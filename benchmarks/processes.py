"""Trees of processes: how much memory they take, and how they are ended. Linux only."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_INTERVAL_SECONDS = 0.05


def tree_of(pid: int) -> list[int]:
    """A process and everything below it, by parent."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir(_PROC) if _PROC.is_dir() else ():
        if not entry.isdigit():
            continue
        with suppress(OSError, ValueError):
            # The name may hold spaces and brackets; the fields that count follow the last one.
            fields = (_PROC / entry / "stat").read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(entry))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def proportional_bytes(pid: int) -> int:
    """PSS of one process: pages that several processes map count in parts, once in all."""
    with suppress(OSError):
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


class MemoryWatch:
    """Samples the PSS of a process tree 20 times a second, in a thread."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int | None:
        """Peak in bytes; ``None`` where the system does not tell."""
        self._over.set()
        self._thread.join()
        return self._peak or None

    def _watch(self) -> None:
        while not self._over.wait(_INTERVAL_SECONDS):
            self._peak = max(self._peak, sum(map(proportional_bytes, tree_of(self._pid))))


def kill_tree(process: subprocess.Popen[str]) -> None:
    """End a process that may have ended, and whatever it left behind."""
    # Before it is reaped: afterwards its children have another parent.
    left = tree_of(process.pid) if process.poll() is None else []
    for pid in left:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
