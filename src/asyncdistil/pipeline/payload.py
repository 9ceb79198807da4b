"""Objects on their way to a worker, as cloudpickle bytes."""

from __future__ import annotations

import sys
import threading
from collections import ChainMap
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import EnumMeta
from functools import lru_cache
from io import BytesIO
from types import CodeType, ModuleType
from typing import Any

from asyncdistil.errors import StepError
from asyncdistil.signature import member_attributes

_CachedFunction = type(lru_cache(len))
_SURROUNDINGS = "__pydantic_parent_namespace__"
_registry = threading.Lock()  # cloudpickle's list of modules belongs to the whole process


def packed(obj: Any, modules: Iterable[str], *, owner: str) -> bytes:
    """Pickle an object, the user's modules by value.

    A worker then runs the code that is loaded here, whatever the files say by now and wherever it
    was started.

    Args:
        obj: A step, or a router with the names that it chooses from.
        modules: Names of the user modules that its fingerprint covers.
        owner: What it is, for the message: ``step 'x'``.

    Raises:
        StepError: Something in it can't be pickled.
    """
    modules = list(modules)
    with _registry, _by_value(modules):
        try:
            payload = _dumped(obj, {"__main__", *modules})
        except Exception as error:
            # Pickling runs the user's own code (`__reduce__`, `__getstate__`): anything can be
            # raised, and all of it means the same.
            raise StepError(
                f"{owner} cannot travel to a worker: {error}. Make what cannot be pickled (a"
                " client, a lock, an open file) in `load()`, not before"
            ) from error
    return payload


def _dumped(obj: Any, carried: Collection[str]) -> bytes:
    import cloudpickle

    from asyncdistil.worker.loading import cached_anew

    def with_its_function(cached: Any) -> Any:
        """``lru_cache`` has its functions pickled by name, which a worker does not know."""
        if cached.__module__ in carried or "<locals>" in cached.__qualname__:
            return cached_anew, (cached.__wrapped__, cached.cache_parameters())
        return cached.__reduce__()

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        dispatch_table = ChainMap(
            {CodeType: _with_its_file, _CachedFunction: with_its_function},
            cloudpickle.Pickler.dispatch_table,
        )

        def reducer_override(self, obj: Any) -> Any:
            reduced = super().reducer_override(obj)
            if isinstance(obj, type) and isinstance(reduced, tuple):
                _without_surroundings(obj, reduced)
                return _with_member_attributes(obj, reduced)
            return reduced

    held = BytesIO()
    Pickler(held).dump(obj)
    return held.getvalue()


def _without_surroundings(kind: type, reduced: tuple[Any, ...]) -> None:
    """Leave behind what pydantic keeps for a class that is defined in a function.

    That is all local variables of the function: clients and locks that can't travel, lists of any
    size. They serve to resolve names in annotations, which was done when the class was made.
    """
    if vars(kind).get(_SURROUNDINGS):
        attributes, _ = reduced[2]
        attributes[_SURROUNDINGS] = None


def _with_member_attributes(kind: type, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Have the members of an Enum keep what they hold beside their value; cloudpickle drops it."""
    if not isinstance(kind, EnumMeta):
        return reduced
    members: Mapping[str, Any] = kind.__members__
    beside = {name: member_attributes(member) for name, member in members.items()}
    if not any(beside.values()):
        return reduced
    from asyncdistil.worker.loading import filled_members

    make, arguments, state, *_, set_state = reduced
    return make, arguments, (state, set_state, beside), None, None, filled_members


def _with_its_file(code: CodeType) -> Any:
    """As cloudpickle does it, but a traceback in the worker still names the user's file."""
    import cloudpickle

    kind, arguments = cloudpickle.Pickler.dispatch_table[CodeType](code)
    return kind, tuple(
        code.co_filename if argument == "<dynamic-code>" else argument for argument in arguments
    )


@contextmanager
def _by_value(names: Iterable[str]) -> Iterator[None]:
    import cloudpickle

    already = cloudpickle.list_registry_pickle_by_value()
    registered: list[ModuleType] = []
    try:
        for name in names:
            module = sys.modules.get(name)
            # `__main__` always goes by value; a module the user registered stays registered.
            if module is None or name == "__main__" or name in already:
                continue
            cloudpickle.register_pickle_by_value(module)
            registered.append(module)
        yield
    finally:
        for module in registered:
            cloudpickle.unregister_pickle_by_value(module)
