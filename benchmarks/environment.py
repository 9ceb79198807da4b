"""Where figures were taken: without this a number says nothing."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parent.parent
_PACKAGES = ("asyncdistil", "uvloop", "msgspec", "xxhash", "pydantic", "pyarrow")


def environment(work: Path) -> dict[str, Any]:
    """Commit, machine, kernel, Python, loop, disk and load.

    Args:
        work: A directory on the disk that runs write to.
    """
    return {
        "taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _commit(),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {_memory_gb()} GB",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "loop": f"uvloop {version('uvloop')}" if sys.platform != "win32" else "asyncio",
        "disk": _disk(work),
        "sync_mode": "durable",
        "packages": {name: version(name) for name in _PACKAGES},
        "load_average": list(os.getloadavg()),
    }


def _commit() -> str:
    with suppress(OSError, subprocess.CalledProcessError):
        found = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "src")
        return found + (" with changes" if changed else "")
    return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=_ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gb() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9)


def _disk(work: Path) -> str:
    """File system, and what a sync of a small append costs there."""
    kind, longest = "unknown", ""
    with suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            _, mount, name, *_ = line.split()
            if str(work).startswith(mount) and len(mount) > len(longest):
                kind, longest = name, mount
    path = work / "sync"
    seconds = []
    with path.open("wb", buffering=0) as file:
        for _ in range(50):
            file.write(bytes(512))
            started = time.perf_counter()
            getattr(os, "fdatasync", os.fsync)(file.fileno())
            seconds.append(time.perf_counter() - started)
    path.unlink()
    return f"{kind}, fdatasync of 512 bytes {statistics.median(seconds) * 1e3:.2f} ms"
