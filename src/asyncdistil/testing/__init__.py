"""Fakes and fault tools for your own tests; each name is imported on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncdistil.testing.chaos import Fault
    from asyncdistil.testing.model_server import ModelServer

_HOME = {
    "Fault": "chaos",
    "ModelServer": "model_server",
}

__all__ = ["Fault", "ModelServer"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
