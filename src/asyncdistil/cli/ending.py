"""How a command ends: its exit code, and what it says about an error."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import TracebackType

import typer

from asyncdistil.errors import AsyncDistilError, LogError, StoreLocked, UserError


class ExitCode(IntEnum):
    """Exit codes of every command; `docs/cli.md` explains them to users."""

    OK = 0
    FAILED = 1
    USAGE = 2
    STORAGE = 3
    LOCKED = 4
    USER_ERROR = 5
    INTERRUPTED = 130


class UsageError(AsyncDistilError):
    """The command was given something that it can't work with."""


def exit_code_of(error: BaseException) -> ExitCode:
    """Say who must act, as a number."""
    match error:
        case UsageError():
            return ExitCode.USAGE
        case StoreLocked():
            return ExitCode.LOCKED
        case LogError():
            return ExitCode.STORAGE
        case UserError():
            return ExitCode.USER_ERROR
        case ValueError() if _is_refused_field(error):
            return ExitCode.USER_ERROR
        case KeyboardInterrupt():
            return ExitCode.INTERRUPTED
        case _:
            return ExitCode.FAILED


@contextmanager
def told(*, debug: bool = False, as_json: bool = False, hide: str = "") -> Iterator[None]:
    """Turn an error into a paragraph and an exit code.

    Args:
        debug: Whether to show the traceback too.
        as_json: Whether standard output must be JSON, for an error too.
        hide: File whose frames at the top of a traceback are not of interest.

    Raises:
        typer.Exit: With the code of the error.
    """
    try:
        yield
    except typer.Exit:
        raise
    except AsyncDistilError as error:
        if debug:
            traceback.print_exc()
        place = _place(error.__traceback__, hide) if _is_refused_field(error) else ""
        raise _ended(error, f"{place}{error}", as_json=as_json) from None
    except KeyboardInterrupt as error:
        raise _ended(error, str(error) or "interrupted", as_json=as_json) from None
    except Exception as error:
        if _is_refused_field(error) and not debug:
            place = _place(error.__traceback__, hide)
            raise _ended(error, f"{place}{error}", as_json=as_json) from None
        # Not an error that we raise on purpose: whoever wrote the code needs to see where.
        traceback.print_exception(type(error), error, _without(error.__traceback__, hide))
        code = _ended(error, f"{type(error).__name__}: {error}", as_json=as_json, quiet=True)
        raise code from None


def _ended(error: BaseException, message: str, *, as_json: bool, quiet: bool = False) -> typer.Exit:
    code = exit_code_of(error)
    if not quiet:
        sys.stderr.write(f"error: {message}\n")
    if as_json:
        show_json(
            {"error": {"kind": type(error).__name__, "message": message, "exit_code": int(code)}}
        )
    return typer.Exit(int(code))


def _is_refused_field(error: BaseException) -> bool:
    """Whether a step or model was given fields that it refuses."""
    # By name: whoever raised it has imported pydantic, others need not.
    return any(
        kind.__name__ == "ValidationError" and kind.__module__.startswith("pydantic")
        for kind in type(error).__mro__
    )


def _place(frames: TracebackType | None, path: str) -> str:
    """Say which line of the user's script it was, if any."""
    lines = [line for frame, line in traceback.walk_tb(frames) if frame.f_code.co_filename == path]
    return f"{path}, line {lines[-1]}: " if lines else ""


def _without(frames: TracebackType | None, path: str) -> TracebackType | None:
    """Leave out the frames above those of the user, if there are any of the user."""
    first = frames
    if path:
        while first is not None and first.tb_frame.f_code.co_filename != path:
            first = first.tb_next
    return first or frames


def show_json(value: object) -> None:
    """Print a value as JSON on the real standard output."""
    import msgspec

    stream = sys.__stdout__ or sys.stdout
    stream.write(msgspec.json.format(msgspec.json.encode(value)).decode() + "\n")
    stream.flush()
