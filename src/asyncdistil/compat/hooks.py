"""Import hooks: old module names below ``asyncdistil``, and ``distilabel`` where that is wanted.

Every process that imports asyncdistil has both, workers included, so this module stays small: the
table is read when somebody first asks for a module that is not there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from importlib.abc import Loader

VARIABLE = "ASYNCDISTIL_STANDS_IN"
"""Set to ``1``, ``import distilabel`` gives asyncdistil: in this process and in its workers."""

_OURS = "asyncdistil."
_THEIRS = "distilabel"
_STAND_IN = "asyncdistil.compat.distilabel"
_SETTINGS = {
    "DISTILABEL_CACHE_DIR": "ASYNCDISTIL_CACHE_DIR",
    "DISTILABEL_LOG_LEVEL": "ASYNCDISTIL_LOG_LEVEL",
}


class OldNames:
    """Finds modules that only distilabel has, below ``asyncdistil``; asked after all others."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what imports the module, or ``None`` where it is none of ours."""
        if not name.startswith(_OURS):
            return None
        from asyncdistil.compat.aliases import old_path

        place = old_path(name)
        return None if place is None else ModuleSpec(name, cast("Loader", self), is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Make the module; its names are looked up when they are asked for."""
        from asyncdistil.compat.aliases import alias_module

        return alias_module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to do."""


class StandIn:
    """Finds ``distilabel`` before the real one is, but only where that was asked for.

    Attributes:
        stands_for: Whose code it is that is found, for those who only look.
    """

    stands_for = "asyncdistil"

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what imports the module, or ``None`` where it is none of ours."""
        if not name.startswith(_THEIRS) or not stands_in():
            return None
        if name.partition(".")[0] != _THEIRS:
            return None
        return ModuleSpec(name, cast("Loader", self), is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module below `asyncdistil.compat.distilabel`.

        It keeps the name it has there, so that what refers to it travels to workers by that name
        and counts as this library's code.
        """
        return import_module(_STAND_IN + spec.name.removeprefix(_THEIRS))

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to do."""


def install() -> None:
    """Put both finders in their places; a second call changes nothing."""
    if not any(type(finder) is OldNames for finder in sys.meta_path):
        sys.meta_path.insert(0, StandIn())
        sys.meta_path.append(OldNames())


def stands_in() -> bool:
    """Whether ``import distilabel`` gives asyncdistil here."""
    return os.environ.get(VARIABLE) == "1"


def stand_in() -> None:
    """From now on, ``import distilabel`` gives asyncdistil in this process and its workers.

    distilabel's environment variables for the cache and the log level then count where ours are
    not set.

    Raises:
        ImportError: The real one has been imported already.
    """
    loaded = sys.modules.get(_THEIRS)
    if loaded is not None and loaded.__name__ != _STAND_IN:
        raise ImportError(
            "distilabel itself is imported already: import asyncdistil.compat.distilabel before "
            "anything that imports distilabel",
            name=_THEIRS,
        )
    install()
    os.environ[VARIABLE] = "1"
    for theirs, ours in _SETTINGS.items():
        if theirs in os.environ:
            os.environ.setdefault(ours, os.environ[theirs])
