"""Turn a `Load` message into the object that this process is for."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

from asyncdistil.batch import Digest
from asyncdistil.errors import SignatureMismatch
from asyncdistil.transport.messages import Load

_NOT_CARRIED = (
    "Raised while a worker put the step together from what was sent to it. Some objects don't "
    "survive that journey: make them in `load()`, or see docs/code-identity.md, 'In the worker'."
)


def settle_in(load: Load) -> str | None:
    """Take over module search path and working directory of the parent.

    Returns:
        Why the directory could not be entered, or ``None``.
    """
    sys.path[:] = dict.fromkeys([*load.sys_path, *sys.path])
    try:
        os.chdir(load.cwd)
    except OSError as error:
        return f"the working directory {load.cwd!r} can't be entered ({error.strerror})"
    return None


def rebuild(load: Load) -> tuple[Any, Digest | None]:
    """Unpack the payload and check that its code is the code that was signed.

    The payload comes over the private socket from our parent; nothing on disk is ever unpickled.

    Returns:
        The object, and the fingerprint found, ``None`` if none was asked for.

    Raises:
        SignatureMismatch: This process sees other code than the one that signed it.
        Exception: Whatever importing or unpacking the step raises.
    """
    # cloudpickle's output is plain pickle; what it needs of itself it imports.
    try:
        made = pickle.loads(load.payload)
    except Exception as error:
        error.add_note(_NOT_CARRIED)
        raise
    if load.code is None:
        return made, None
    signed = made[0] if isinstance(made, tuple) else made
    code = signed.code()
    found = None if code is None else code.digest
    if found != load.code:
        raise SignatureMismatch(
            f"the code of step {load.step!r} changed between its signing and its start in a "
            f"worker (signed {load.code.hex()}, found {found.hex() if found else 'none'}): a "
            "module was edited meanwhile, or something changes it when it is imported. Run again; "
            "if it happens again, look for code that patches classes or globals at import"
        )
    return made, found


def cached_anew(function: Callable[..., Any], parameters: Mapping[str, Any]) -> Any:
    """Make what ``lru_cache`` made of a function where it came from; with nothing in it."""
    return lru_cache(**parameters)(function)


def filled_members(kind: Any, state: tuple[Any, Callable[..., Any], Mapping[str, Any]]) -> Any:
    """Finish an Enum that came by value: its attributes, then those of its members."""
    attributes, set_state, beside = state
    made = set_state(kind, attributes)
    for name, values in beside.items():
        vars(kind[name]).update(values)
    return made


def secrets_of(made: Any) -> list[str]:
    """Secret texts that the object knows, if it can tell."""
    with suppress(Exception):
        return list(made.secrets())
    return []
