"""Modules made from the table: each looks its names up where they live here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from asyncdistil.compat.table import ABSENT, HOME, MODULES, MOVED

PACKAGE = "asyncdistil"
_STAND_IN = f"{PACKAGE}.compat.distilabel"


def old_path(module: str) -> str | None:
    """Return the place below the package of a module that distilabel has and we don't.

    Args:
        module: Full name, below ``asyncdistil`` or `asyncdistil.compat.distilabel`.
    """
    for root in (_STAND_IN, PACKAGE):
        if module.startswith(f"{root}."):
            place = current(module.removeprefix(f"{root}."))
            return place if place in MODULES else None
    return None


def current(place: str) -> str:
    """Return where distilabel 1.5.3 has a module that its older releases had elsewhere."""
    if place in MODULES:
        return place
    for old, new in MOVED.items():
        if place.startswith(old):
            return new + place.removeprefix(old)
    return place


class _KeepsNames(ModuleType):
    """A package in which a module made here takes nobody's name.

    Python sets a module that was imported as an attribute of its package, over what is there.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and value.__spec__ is not None and name in HOME):
            super().__setattr__(name, value)


def alias_module(name: str) -> ModuleType:
    """Make the module of a name for which `old_path` has a place."""
    place = old_path(name)
    if place is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    above, _, last = place.rpartition(".")
    if last in MODULES.get(above, ()):
        # `pipeline.routing_batch_function`: the function of that name is what the package has.
        sys.modules[name.rpartition(".")[0]].__class__ = _KeepsNames
    shown = name.replace(_STAND_IN, "distilabel", 1)
    module = ModuleType(name, f"Names of distilabel's module ``{place}``, as they are here.")
    module.__dict__["__getattr__"] = lambda wanted: lookup(place, wanted, owner=shown)
    module.__dict__["__dir__"] = lambda: list(MODULES[place])
    module.__dict__["__all__"] = [known for known in MODULES[place] if known in HOME]
    return module


def lookup(place: str, name: str, *, owner: str) -> Any:
    """Return a name of a module of distilabel, or the module of that name below it.

    Args:
        place: The module, below the package.
        name: What is wanted of it.
        owner: Full name of the module, as the user wrote it.

    Raises:
        ImportError: It is not carried over; says what is nearest.
        AttributeError: It is no name of distilabel, but one that Python looks for.
    """
    if name.startswith("__"):
        raise AttributeError(f"module {owner!r} has no attribute {name!r}")
    if name in MODULES.get(place, ()) and name in HOME:
        return resolve(name)
    below = f"{place}.{name}" if place else name
    if below in MODULES:
        return import_module(f"{owner}.{name}")
    raise ImportError(f"asyncdistil has no {name!r} for {owner}: {hint(place, name)}", name=owner)


def resolve(name: str) -> Any:
    """Return what a name of distilabel stands for here.

    Raises:
        KeyError: The table doesn't know it.
    """
    module, _, attribute = HOME[name].partition(":")
    return getattr(import_module(f"{PACKAGE}.{module}"), attribute or name)


def hint(place: str, name: str) -> str:
    """Say what to write instead of a name that is not carried over."""
    if name in ABSENT:
        return ABSENT[name]
    if name in HOME:
        homes = [where for where, names in MODULES.items() if name in names]
        return f"it is in {min(homes, key=len)}"
    known = [one for one in MODULES.get(place, ()) if one in HOME] or list(HOME)
    close = get_close_matches(name, known, n=1, cutoff=0.5) or get_close_matches(name, HOME, n=1)
    return f"the nearest name is {close[0]!r}" if close else "docs/from-distilabel.md lists names"


def old_names(module: str) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a module of ours that has the place of one of distilabel's.

    Args:
        module: Its full name.
    """
    place = module.removeprefix(f"{PACKAGE}.")

    def look(name: str) -> Any:
        if name in HOME and name in MODULES[place]:
            return resolve(name)
        why = f": {ABSENT[name]}" if name in ABSENT else ""
        raise AttributeError(f"module {module!r} has no attribute {name!r}{why}")

    return look


def is_real(place: str) -> bool:
    """Whether we have a module of our own at a place below the package."""
    try:
        spec = find_spec(f"{PACKAGE}.{place}")
    except ModuleNotFoundError:
        return False
    return spec is not None and spec.has_location
