"""Named places where a test makes the program die, fail or wait.

Armed by the environment variable ``ASYNCDISTIL_FAILPOINTS``, read once when this module is
imported: entries separated by ``;``, each ``name=action`` or ``name=action@hit`` where ``hit``
counts from 1 (without it every hit acts). Actions:

| action | effect |
|---|---|
| ``kill`` | SIGKILL to this process |
| ``exit:code`` | ``os._exit`` |
| ``raise:EIO`` | ``OSError`` with that errno |
| ``delay:seconds`` | sleep |
| ``partial:bytes`` | returned to the caller, which writes only so many bytes and then fails |
"""

from __future__ import annotations

import errno
import os
import signal
import time

VARIABLE = "ASYNCDISTIL_FAILPOINTS"

_armed: dict[str, list[tuple[str, str, int]]] = {}
_hits: dict[str, int] = {}


def failpoint(name: str) -> int | None:
    """Do what was armed under ``name``; about 60 ns when nothing is.

    Returns:
        The number of bytes of an armed ``partial``, else ``None``.

    Raises:
        OSError: If ``raise`` was armed.
    """
    if not _armed:
        return None
    return _act(name)


def arm(specification: str) -> None:
    """Arm failpoints in this process, replacing what was armed.

    Args:
        specification: As in the environment variable; empty disarms all.

    Raises:
        ValueError: It can't be parsed.
    """
    armed: dict[str, list[tuple[str, str, int]]] = {}
    for entry in filter(None, specification.split(";")):
        name, equals, action = entry.partition("=")
        action, _, hit = action.partition("@")
        verb, _, argument = action.partition(":")
        if not equals or verb not in {"kill", "exit", "raise", "delay", "partial"}:
            raise ValueError(
                f"{VARIABLE}: {entry!r} is not name=action@hit; see the module's table"
            )
        armed.setdefault(name.strip(), []).append((verb, argument, int(hit or 0)))
    _armed.clear()
    _hits.clear()
    _armed.update(armed)


def hits() -> dict[str, int]:
    """How often each failpoint was passed while anything was armed."""
    return dict(_hits)


def _act(name: str) -> int | None:
    count = _hits[name] = _hits.get(name, 0) + 1
    for verb, argument, hit in _armed.get(name, ()):
        if hit not in {0, count}:
            continue
        if verb == "kill":
            os.kill(os.getpid(), signal.SIGKILL)  # pragma: no cover - who does it counts no more
        elif verb == "exit":
            os._exit(int(argument or 1))
        elif verb == "delay":
            time.sleep(float(argument))
        elif verb == "raise":
            code = getattr(errno, argument)
            raise OSError(code, f"{os.strerror(code)} (failpoint {name})")
        else:
            return int(argument)
    return None


arm(os.environ.get(VARIABLE, ""))
