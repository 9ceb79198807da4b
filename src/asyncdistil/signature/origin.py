"""Whose code is it: the user's, the standard library's, or an installed distribution's.

A module is *installed* if it lies in a directory that holds a distribution's metadata **and** that
distribution lists it. Everything else outside the standard library is user code: scripts,
notebooks, editable installs, a file dropped by hand into ``site-packages``. asyncdistil's own
modules count as installed wherever they lie, because its steps carry explicit versions.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Mapping
from email.parser import HeaderParser
from functools import cache
from types import ModuleType
from typing import Any, Literal, NamedTuple

OWN_PACKAGE = "asyncdistil"
CONTRACT_VERSION = "contract 1"
"""Stands for asyncdistil itself in the code of a user's step. A release does not change what a step
means, so it must not cost anybody their results: raised only when the step contract changes in a
way that alters outputs. Library steps carry a ``version`` of their own."""
_SITE_DIRECTORIES = frozenset({"site-packages", "dist-packages"})


class Origin(NamedTuple):
    """Where a module comes from.

    Attributes:
        kind: ``user``, ``standard`` (Python itself) or ``installed``.
        distributions: Name and version of those that may have installed it; empty unless
            ``installed``.
    """

    kind: Literal["user", "standard", "installed"]
    distributions: tuple[tuple[str, str], ...] = ()


USER = Origin("user")
STANDARD = Origin("standard")


def is_user_module(module: ModuleType) -> bool:
    """Whether the code of a module counts, and travels to workers by value."""
    return origin_of_module(module).kind == "user"


def origin_of_module(module: ModuleType) -> Origin:
    """Where a loaded module, or a copy of one that travelled by value, comes from."""
    return origin_of_namespace(vars(module))


def origin_of_namespace(namespace: Mapping[str, Any]) -> Origin:
    """Where the code that runs in these globals comes from.

    The globals say it better than ``__module__``: decorators copy that from what they wrap.
    """
    name = namespace.get("__name__")
    file = namespace.get("__file__")
    if file is None:
        path = namespace.get("__path__")
        # A namespace package has no file; any of its directories tells where it lies.
        file = next((os.path.join(entry, "__init__.py") for entry in path or ()), None)
    return _place(name if isinstance(name, str) else "", file if isinstance(file, str) else None)


def origin_of_name(module_name: str) -> Origin:
    """Where a class or function says it was defined.

    A module that is not loaded is user code: what came here by reference had to be imported, so
    only what travelled by value can name a module that is not there.
    """
    module = sys.modules.get(module_name)
    return USER if module is None else origin_of_module(module)


def origin_of_import(module_name: str) -> Origin | None:
    """Where an absolute import would be found, without running it; ``None`` if nowhere."""
    top = module_name.partition(".")[0]
    if top in sys.modules:
        loaded: ModuleType | None = sys.modules[top]  # ``None`` forbids the import
        return None if loaded is None else origin_of_module(loaded)
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    # A package that another one stands in for counts as that one, loaded or not.
    top = getattr(spec.loader, "stands_for", top)
    if spec.has_location:
        return _place(top, spec.origin)
    entries = spec.submodule_search_locations or ()
    return _place(top, next((os.path.join(entry, "__init__.py") for entry in entries), None))


@cache
def _place(name: str, file: str | None) -> Origin:
    top = name.partition(".")[0]
    if top == OWN_PACKAGE:
        return Origin("installed", ((OWN_PACKAGE, CONTRACT_VERSION),))
    if name == "__main__":
        return USER
    if file is None:
        return STANDARD if top in sys.stdlib_module_names else USER
    path = os.path.normcase(os.path.abspath(file))
    in_site = not _SITE_DIRECTORIES.isdisjoint(path.split(os.sep))
    if not in_site and path.startswith(_standard_directories()):
        return STANDARD
    root = _root_of(name, path)
    if in_site or _holds_metadata(root):
        claims = _claims(name, None if in_site else root)
        if claims:
            return Origin("installed", claims)
    return USER


@cache
def _standard_directories() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple(os.path.normcase(os.path.join(paths[key], "")) for key in ("stdlib", "platstdlib"))


def _root_of(name: str, path: str) -> str:
    """The directory on ``sys.path`` that a module was found in."""
    levels = name.count(".") + (os.path.basename(path).partition(".")[0] == "__init__")
    root = os.path.dirname(path)
    for _ in range(levels):
        root = os.path.dirname(root)
    return root


@cache
def _holds_metadata(root: str) -> bool:
    try:
        return any(entry.endswith(".dist-info") for entry in os.listdir(root))
    except OSError:
        return False


@cache
def _claims(name: str, directory: str | None) -> tuple[tuple[str, str], ...]:
    """Distributions that list a module, with versions.

    Args:
        name: Dotted module name.
        directory: Where to look for metadata; ``None`` for all of ``sys.path``.
    """
    top = name.partition(".")[0]
    found: list[importlib.metadata.Distribution]
    if directory is not None:
        found = [
            entry
            for entry in importlib.metadata.distributions(path=[directory])
            if _lists(entry, top)
        ]
    else:
        found = _installed(top)
    if len(found) > 1:
        # A namespace package such as ``google`` is shared: keep those that list this module.
        path = name.replace(".", "/")
        found = [entry for entry in found if path in (entry.read_text("RECORD") or "")] or found
    return tuple(sorted(map(_name_and_version, found)))


def _name_and_version(distribution: importlib.metadata.Distribution) -> tuple[str, str]:
    # The head alone: below it stands the whole README, which takes milliseconds to parse.
    head = (distribution.read_text("METADATA") or "").partition("\n\n")[0]
    message = HeaderParser().parsestr(head)
    return message["Name"], message["Version"]


def _installed(top: str) -> list[importlib.metadata.Distribution]:
    # Most distributions are called like their package; reading every RECORD takes 0.1 s and more.
    try:
        guess = importlib.metadata.distribution(top)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        pass
    else:
        if _lists(guess, top):
            return [guess]
    names = sorted(set(_packages().get(top, ())))
    return [importlib.metadata.distribution(name) for name in names]


def _lists(distribution: importlib.metadata.Distribution, top: str) -> bool:
    record = distribution.read_text("RECORD") or ""
    return any(line.startswith((f"{top}/", f"{top}.")) for line in record.splitlines())


@cache
def _packages() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()
