"""How a worker comes to life, and how nothing of it is left behind.

Its names are loaded when they are first asked for: a zygote, which is started as a module of this
room, needs none of what starts it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncdistil.launch.forking import Zygote
    from asyncdistil.launch.local import log_lines, spawn
    from asyncdistil.launch.prepared import PreparedLauncher
    from asyncdistil.launch.process import WorkerProcess, stop

_HOMES = {
    "PreparedLauncher": "asyncdistil.launch.prepared",
    "WorkerProcess": "asyncdistil.launch.process",
    "Zygote": "asyncdistil.launch.forking",
    "log_lines": "asyncdistil.launch.local",
    "spawn": "asyncdistil.launch.local",
    "stop": "asyncdistil.launch.process",
}

__all__ = ["PreparedLauncher", "WorkerProcess", "Zygote", "log_lines", "spawn", "stop"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
