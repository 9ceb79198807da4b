"""How a worker process ends."""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import suppress
from typing import NoReturn


def exit_status(error: SystemExit) -> int:
    """Status that Python itself would exit with; a text is printed, as Python would."""
    code = error.code
    if code is None or isinstance(code, int):
        return code or 0
    sys.stderr.write(f"{code}\n")
    return 1


def leave(code: int) -> NoReturn:
    """End without waiting for threads of the step or for the interpreter to clear away."""
    with suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code)
