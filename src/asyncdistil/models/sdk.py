"""Asking through a provider's own SDK: import it late, switch its retries off, read its errors."""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

from asyncdistil.errors import ParameterError
from asyncdistil.models.retry import (
    RequestFailed,
    Trouble,
    judge_status,
    unavailable,
    unreadable,
)

# Words in the class names of errors that tell of a connection, in whatever SDK.
_BROKEN = ("Connect", "Timeout", "Transport", "Protocol", "Payload")


def require(module: str, *, extra: str, needed_by: str) -> ModuleType:
    """Import a package that only some models need.

    Raises:
        ParameterError: It is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ParameterError(
            f"{needed_by} needs the package {package!r}, which can't be imported ({error}):"
            f" pip install 'asyncdistil[{extra}]'"
        ) from None


@asynccontextmanager
async def translated(
    service: str, *, timeout_seconds: float, hide: Callable[[str], str]
) -> AsyncIterator[None]:
    """Bound one call of an SDK in time, and turn what it raises into `RequestFailed`.

    Args:
        service: Who is asked, for messages.
        timeout_seconds: From now to the answer.
        hide: Cuts secrets out of a text.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            yield
    except TimeoutError:
        raise RequestFailed(
            unavailable(f"{service} gave no answer within {timeout_seconds:g} s")
        ) from None
    except RequestFailed:
        raise
    except Exception as error:
        trouble = trouble_of(error, service=service, hide=hide)
        if trouble is None:
            raise
        raise RequestFailed(trouble) from None


def trouble_of(error: BaseException, *, service: str, hide: Callable[[str], str]) -> Trouble | None:
    """Classify what an SDK raised; ``None`` if it is no failure of the service.

    SDKs share habits, not classes: an HTTP status under one of a few names, the reply beside it,
    and class names that tell a failed connection.
    """
    response = getattr(error, "response", None) or getattr(error, "raw_response", None)
    status = _status(error, response)
    if status is not None and status >= 400:
        return judge_status(
            status,
            service=service,
            headers=_headers(error, response),
            text=hide(_text(error, response)),
            wall_seconds=time.time(),
        )
    names = [kind.__name__ for kind in type(error).__mro__]
    if status is not None and 200 <= status < 300:
        # It answered, and the SDK could make nothing of the answer.
        return unreadable(f"{service} sent a reply that can't be read ({names[0]})")
    if any(
        mark in name
        for name in names
        for mark in ("Connect", "Timeout", "Transport", "Protocol", "Payload")
    ) or isinstance(error, OSError):
        return unavailable(f"the connection to {service} failed ({names[0]})")
    if any(mark in name for name in names for mark in ("Decode", "ResponseValidation")):
        return unreadable(f"{service} sent a reply that can't be read ({names[0]})")
    return None


def _status(error: BaseException, response: Any) -> int | None:
    for holder in (error, response):
        for name in ("status_code", "code", "http_status"):
            value = getattr(holder, name, None)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
    return None


def _headers(error: BaseException, response: Any) -> Mapping[str, str]:
    for holder in (response, error):
        headers = getattr(holder, "headers", None)
        if isinstance(headers, Mapping):
            return headers
    return {}


def _text(error: BaseException, response: Any) -> str:
    body = getattr(error, "body", None)
    if isinstance(body, str) and body:
        return body
    try:
        text = getattr(response, "text", None)
    except Exception:  # httpx refuses if the body was never read
        text = None
    return text if isinstance(text, str) and text else str(error)
