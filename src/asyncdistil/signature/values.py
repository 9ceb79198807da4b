"""What a value contributes to a code fingerprint, as plain data.

| value | contributes |
|---|---|
| scalars, lists, tuples, dicts (in their order), sets (sorted) | their content and type |
| dates, paths, numbers, ranges, compiled patterns, arrays | their content |
| functions, methods, properties, partials, classes | what `trace` finds there |
| instances of data classes, ``NamedTuple``, Enum members | class and fields |
| objects with ``__signature__()`` | class and what it returns |
| things of an installed distribution that are found by name | distribution, version, name |
| loggers, ``object()``, ``SecretStr`` | that they are there |
| everything else | is reported as uncacheable |
"""

from __future__ import annotations

import functools
import inspect
import logging
import operator
import re
import string
import sys
import types
import typing
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum
from typing import TYPE_CHECKING, Any

from asyncdistil.codec import canonical_bytes
from asyncdistil.signature.origin import STANDARD, USER, origin_of_name

if TYPE_CHECKING:
    from asyncdistil.signature.trace import Scope

MAX_DEPTH = 30
"""Deepest nesting of containers in one value."""

_SCALARS = frozenset({type(None), bool, int, float, str, bytes})
# The repr of these types is complete and the same in every process.
_REPR_TYPES = frozenset(
    {
        "builtins.NotImplementedType",
        "builtins.bytearray",
        "builtins.complex",
        "builtins.ellipsis",
        "builtins.range",
        "builtins.slice",
        "array.array",
        "datetime.date",
        "datetime.datetime",
        "datetime.time",
        "datetime.timedelta",
        "datetime.timezone",
        "decimal.Decimal",
        "fractions.Fraction",
        "ipaddress.IPv4Address",
        "ipaddress.IPv4Network",
        "ipaddress.IPv6Address",
        "ipaddress.IPv6Network",
        "pathlib.PosixPath",
        "pathlib.PurePosixPath",
        "pathlib.PureWindowsPath",
        "pathlib.WindowsPath",
        "pathlib._local.PosixPath",
        "pathlib._local.PurePosixPath",
        "pathlib._local.PureWindowsPath",
        "pathlib._local.WindowsPath",
        "uuid.UUID",
        "zoneinfo.ZoneInfo",
    }
)
# ``attrs`` keeps the hash of an instance beside its fields once it was asked for.
_NO_STATE = {"__dict__", "__weakref__", "_attrs_cached_hash"}
_BASES: tuple[type, ...] = (str, int, float, bytes, tuple, list, dict, set, frozenset)
# Singletons that libraries use for "not given".
_MARKERS = frozenset({"PydanticUndefinedType", "NoDefaultType", "UnsetType", "_MISSING_TYPE"})
_LOGGER_PACKAGES = frozenset({"loguru", "structlog"})
_REDUCED = (operator.itemgetter, operator.attrgetter, operator.methodcaller)


def describe(scope: Scope, value: Any, where: str) -> Any:
    """Plain data for a value.

    Args:
        scope: The node that the value belongs to.
        value: Anything.
        where: Its full name, for messages and ``signature_ignore``.
    """
    kind = type(value)
    if kind in _SCALARS:
        return value
    if f"{kind.__module__}.{kind.__qualname__}" in _REPR_TYPES:
        return ["repr", kind.__name__, repr(value)]
    if id(value) in scope.active:
        return ["cycle", len(scope.active) - scope.active.index(id(value))]
    if len(scope.active) >= MAX_DEPTH:
        return scope.live(value, where)
    scope.active.append(id(value))
    try:
        for rule in _RULES:
            content = rule(scope, value, where)
            if content is not None:
                return content
    finally:
        scope.active.pop()
    return scope.live(value, where)


def _container(scope: Scope, value: Any, where: str) -> Any:
    kind = type(value)
    if kind in (list, tuple):
        return [kind.__name__, _items(scope, value, where)]
    if kind in (dict, types.MappingProxyType):
        return ["dict", _pairs(scope, value, where)]
    if kind in (set, frozenset):
        return [kind.__name__, _sorted(scope, value, where)]
    if kind is deque:
        return ["deque", value.maxlen, _items(scope, value, where)]
    return None


def _items(scope: Scope, values: Iterable[Any], where: str) -> list[Any]:
    values = list(values)
    if _SCALARS.issuperset(map(type, values)):
        return values
    return [describe(scope, item, f"{where}[{n}]") for n, item in enumerate(values)]


def _pairs(scope: Scope, value: Any, where: str) -> list[Any]:
    pairs = []
    for key, item in value.items():
        name = f"{where}.{key}" if type(key) is str else f"{where}[{key!r}]"
        if scope.tracer.ignored(name):
            item = None
        pairs.append([describe(scope, key, f"{where} key"), describe(scope, item, name)])
    return pairs


def _sorted(scope: Scope, values: Iterable[Any], where: str) -> Any:
    values = list(values)
    if _SCALARS.issuperset(map(type, values)):
        items = values
    else:
        # Sorting by content needs content that is complete here, without references.
        first = len(scope.node.refs)
        items = [describe(scope, item, f"{where} item") for item in values]
        if len(scope.node.refs) > first:
            return scope.live(values, where)
    return sorted(items, key=lambda item: canonical_bytes("", item))


def _callable(scope: Scope, value: Any, where: str) -> Any:
    kind = type(value)
    if kind is types.FunctionType:
        if hasattr(value, "registry") and value.__globals__ is vars(functools):
            return _dispatch(scope, value, where)
        return scope.function(value, where)
    if isinstance(value, type):
        return scope.type(value)
    if isinstance(value, types.ModuleType):
        return scope.module(value)
    if kind in _WRAPPED:
        return [
            kind.__name__,
            *(describe(scope, getattr(value, name), where) for name in _WRAPPED[kind]),
        ]
    if kind is functools._lru_cache_wrapper:
        return ["cached", describe(scope, value.__wrapped__, where)]
    if isinstance(value, _BUILTIN):
        return _builtin(scope, value, where)
    if isinstance(value, _REDUCED):
        return ["reduced", kind.__name__, describe(scope, value.__reduce__()[1:], where)]
    return None


_WRAPPED: dict[type, tuple[str, ...]] = {
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
    property: ("fget", "fset", "fdel"),
    functools.partial: ("func", "args", "keywords"),
    functools.partialmethod: ("func", "args", "keywords"),
    functools.cached_property: ("func",),
    functools.singledispatchmethod: ("dispatcher",),
    types.MethodType: ("__func__", "__self__"),
    types.DynamicClassAttribute: ("fget", "fset", "fdel"),
}
WRAPPERS = tuple(_WRAPPED)
"""Types that hold functions and add little of their own."""

_BUILTIN = (
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.ClassMethodDescriptorType,
)


def _dispatch(scope: Scope, value: Any, where: str) -> Any:
    entries = [
        [scope.type(kind), describe(scope, function, where)]
        for kind, function in sorted(value.registry.items(), key=lambda item: item[0].__name__)
    ]
    return ["singledispatch", value.__name__, entries]


def _builtin(scope: Scope, value: Any, where: str) -> Any:
    owner = getattr(value, "__self__", None)
    if owner is None or isinstance(owner, types.ModuleType):
        module = getattr(value, "__module__", None) or value.__objclass__.__module__
        origin = origin_of_name(module)
        return scope.named(STANDARD if origin is USER else origin, module, value.__qualname__)
    return ["bound", value.__name__, describe(scope, owner, where)]


def _by_rule(scope: Scope, value: Any, where: str) -> Any:
    kind = type(value)
    if isinstance(value, logging.Logger | logging.LoggerAdapter):
        return ["logger"]
    if kind.__module__.partition(".")[0] in _LOGGER_PACKAGES:
        return ["logger"]
    if kind is re.Pattern:
        return ["pattern", value.pattern, value.flags]
    if kind is object:
        return ["object"]
    if kind is string.Template:
        return ["template", value.template]
    if kind.__name__ in _MARKERS and origin_of_name(kind.__module__).kind != "user":
        return ["marker", kind.__name__]
    if kind.__module__ == "pydantic.types" and kind.__name__ in ("SecretStr", "SecretBytes"):
        return ["secret"]
    if isinstance(value, Enum):
        plain = value.name if value.name is not None else value.value
        return ["member", scope.type(kind), describe(scope, plain, where)]
    if kind.__module__ == "numpy" and hasattr(value, "dtype"):
        return _array(scope, value, where)
    return None


def _array(scope: Scope, value: Any, where: str) -> Any:
    if value.dtype.hasobject:
        return ["array", "O", list(value.shape), describe(scope, value.ravel().tolist(), where)]
    return ["array", str(value.dtype.descr), list(value.shape), value.tobytes()]


def _annotation(scope: Scope, value: Any, where: str) -> Any:
    kind = type(value)
    if isinstance(value, typing.TypeVar | typing.ParamSpec | typing.TypeVarTuple):
        return ["type variable", value.__name__, _limits(scope, value, where)]
    if isinstance(value, typing.ForwardRef):
        return ["forward", value.__forward_arg__]
    if isinstance(value, typing.NewType):
        return ["new type", value.__name__, describe(scope, value.__supertype__, where)]
    if kind.__name__ == "TypeAliasType" and kind.__module__ in ("typing", "typing_extensions"):
        return ["alias", value.__name__, describe(scope, value.__value__, where)]
    origin = typing.get_origin(value)
    if origin is not None:
        arguments = (
            (value.__origin__, *value.__metadata__)
            if origin is typing.Annotated
            else typing.get_args(value)
        )
        return [
            "generic",
            describe(scope, origin, where),
            [describe(scope, argument, where) for argument in arguments],
        ]
    if kind.__module__ == "typing":
        # ``typing.Any``, ``typing.List`` and the like.
        return ["typing", repr(value)]
    return None


def _limits(scope: Scope, variable: Any, where: str) -> list[Any]:
    """Bound and constraints: what a generic model accepts where nothing is given."""
    return [
        describe(scope, getattr(variable, name, None), where)
        for name in ("__bound__", "__constraints__")
    ]


def _found_by_name(scope: Scope, value: Any, where: str) -> Any:
    """An installed object that its distribution offers under a name, such as a numpy ufunc."""
    kind = type(value)
    origin = origin_of_name(kind.__module__)
    if origin.kind != "installed":
        return None
    names = (getattr(value, "__name__", None), where.rpartition(".")[2])
    for module in (getattr(value, "__module__", None), kind.__module__):
        while isinstance(module, str) and module:
            found = vars(sys.modules[module]) if module in sys.modules else {}
            for name in names:
                if isinstance(name, str) and found.get(name) is value:
                    return scope.named(origin, module, name)
            module = module.rpartition(".")[0]
    return None


def _instance(scope: Scope, value: Any, where: str) -> Any:
    kind = type(value)
    signed = inspect.getattr_static(kind, "__signature__", None)
    if isinstance(signed, types.FunctionType):
        return ["signed", scope.type(kind), describe(scope, value.__signature__(), where)]
    state = _state(value)
    bases = [base for base in _BASES if isinstance(value, base)]
    if state is not None and not bases:
        return ["instance", scope.type(kind), _pairs(scope, state, where)]
    for base in bases:
        extra = own_attributes(value) if state is None else state
        factory = getattr(value, "default_factory", None)
        return [
            "instance",
            scope.type(kind),
            describe(scope, base(value), where),
            _pairs(scope, extra, where),
            describe(scope, factory, f"{where}.default_factory"),
        ]
    return None


def own_attributes(value: Any) -> dict[str, Any]:
    """What an instance holds in attributes, sorted by name.

    A ``cached_property`` is left out: it follows from the rest, and is there only once it was read.
    """
    names = set(getattr(value, "__dict__", ()))
    for base in type(value).__mro__:
        slots = vars(base).get("__slots__", ())
        prefix = f"_{base.__name__.lstrip('_')}"
        for slot in (slots,) if isinstance(slots, str) else slots:
            private = slot.startswith("__") and not slot.endswith("__")
            names.add(prefix + slot if private else slot)
    return {
        name: getattr(value, name)
        for name in sorted(names - _NO_STATE)
        if hasattr(value, name)
        and not isinstance(
            inspect.getattr_static(type(value), name, None), functools.cached_property
        )
    }


def _state(value: Any) -> dict[str, Any] | None:
    """Fields of an instance of a data class; ``None`` for any other object."""
    kind = type(value)
    names: Iterable[str] | None = getattr(kind, "__struct_fields__", None)
    if names is None:
        names = getattr(kind, "__dataclass_fields__", None)
    if names is None and hasattr(kind, "__attrs_attrs__"):
        names = [attribute.name for attribute in kind.__attrs_attrs__]
    if names is not None:
        fields = {name: getattr(value, name) for name in names if hasattr(value, name)}
        return fields | own_attributes(value)
    if kind.__module__.startswith("pydantic."):
        # What stands in an annotation: field options, constraints.
        slots = [slot for base in kind.__mro__ for slot in getattr(base, "__slots__", ())]
        names = [*getattr(value, "__dict__", ()), *slots]
        return {n: getattr(value, n) for n in names if n[:1] != "_" and hasattr(value, n)}
    if hasattr(kind, "__pydantic_fields__"):
        state = {**vars(value)}
        for slot in ("__pydantic_extra__", "__pydantic_private__"):
            state.update(getattr(value, slot, None) or {})
        return state
    return {**vars(value)} if kind is types.SimpleNamespace else None


_RULES: tuple[Callable[[Scope, Any, str], Any], ...] = (
    _container,
    _callable,
    _by_rule,
    _annotation,
    _found_by_name,
    _instance,
)
