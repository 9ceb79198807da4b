"""Text that explains a key to people. It never enters one, and secrets never enter it."""

from __future__ import annotations

import inspect
import re
import reprlib
from functools import lru_cache
from types import CodeType
from typing import Any

MAX_CHARACTERS = 20_000
"""Longer text is cut; it only explains."""

_SECRET_NAME = re.compile(
    r"api_?key|secret|passw|credential|token$|(access|auth|bearer|refresh)_?token|private_?key",
    re.I,
)
_SECRET_VALUE = re.compile(
    r"\b(sk|pk|rk)-[\w-]{12,}|\bhf_\w{12,}|\bgh[pousr]_\w{16,}|\bAKIA[0-9A-Z]{12,}"
    r"|\bAIza[\w-]{20,}|\bxox[abprs]-[\w-]{10,}|\bBearer\s+[\w.~+/-]{12,}=*"
    r"|(?<=://)[^\s/:@]+:[^\s/@]+(?=@)"
)


class _Plain(reprlib.Repr):
    """Shows data; an object is shown by its type, since its repr is the user's code."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = 200
        self.maxstring = self.maxother = 2_000
        self.maxlong = 200

    def repr_instance(self, x: Any, level: int) -> str:
        if x is None or isinstance(x, bool | float | complex | bytes):
            return repr(x)
        return f"<{type(x).__qualname__}>"

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        hidden = {
            key: _HIDDEN if isinstance(key, str) and _SECRET_NAME.search(key) else value
            for key, value in x.items()
        }
        return super().repr_dict(hidden, level)


class _Hidden:
    """Stands for a value that may be a secret."""


_HIDDEN = _Hidden()
_plain = _Plain()


def text_of(label: str, value: Any) -> str:
    """A variable as text; empty if its name says that it is a secret."""
    if _SECRET_NAME.search(label.rpartition(".")[2]):
        return ""
    return redacted(value if type(value) is str else _plain.repr(value))


def redacted(text: str) -> str:
    """Text without what looks like a key or a password, cut at `MAX_CHARACTERS`."""
    return _SECRET_VALUE.sub("[hidden]", text[:MAX_CHARACTERS])


@lru_cache(maxsize=1024)
def source_of(code: CodeType) -> str:
    """Source text of a function, or an empty string if there is none to be had."""
    try:
        return redacted(inspect.getsource(code))
    except (OSError, TypeError, SyntaxError, IndexError):
        return ""
