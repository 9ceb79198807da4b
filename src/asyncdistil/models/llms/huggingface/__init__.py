"""Models of the Hugging Face hub; each name is imported on first use."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    from asyncdistil import models

    if name not in models.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(models, name)
