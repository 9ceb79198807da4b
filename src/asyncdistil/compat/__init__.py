"""Names of distilabel, the library whose users this one wants to spare a rewrite.

`table` says where each of its names lives here; everything else follows from that table: old
spellings below ``asyncdistil``, and scripts that still say ``import distilabel``.
"""

from __future__ import annotations

from asyncdistil.compat.hooks import VARIABLE, install, stand_in, stands_in

__all__ = ["VARIABLE", "install", "stand_in", "stands_in"]
