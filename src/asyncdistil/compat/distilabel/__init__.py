"""asyncdistil under the name of distilabel: importing this makes ``import distilabel`` give it.

Everything below is made from the table in `asyncdistil.compat.table`.
"""

from __future__ import annotations

from typing import Any

from asyncdistil.compat.hooks import stand_in

__version__ = "1.5.3"
"""The release whose names these are."""

stand_in()


def __getattr__(name: str) -> Any:
    from asyncdistil.compat.aliases import lookup

    return lookup("", name, owner="distilabel")
