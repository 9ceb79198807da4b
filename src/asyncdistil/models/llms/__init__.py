"""Language models; each name is imported on first use."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    from asyncdistil import models

    if name not in models.__all__:
        from asyncdistil.compat.aliases import old_names

        return old_names(__name__)(name)
    return getattr(models, name)
