"""What a step is made of, as far as its output goes: the fields and code that enter its key."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from enum import Enum
from functools import partial
from itertools import pairwise
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, SecretBytes, SecretStr
from pydantic.fields import ModelPrivateAttr
from xxhash import xxh3_128_hexdigest

from asyncdistil.codec import canonical_bytes
from asyncdistil.errors import UnencodableValue
from asyncdistil.mixins.runtime_parameters import secret_class
from asyncdistil.signature import (
    CodeFingerprint,
    Identity,
    fingerprint,
    origin_of_name,
    own_attributes,
    step_identity,
)

if TYPE_CHECKING:
    from asyncdistil.steps.base import BaseStep

OPERATIONAL_FIELDS = frozenset(
    {
        "name",
        "pipeline",
        "resources",
        "use_cache",
        "on_error",
        "max_failures",
        "batch_deadline_seconds",
    }
)
"""Fields of a step that can't change its rows."""

_PACKAGE = "asyncdistil"
# Lists of them can be long, and the question whose a class is takes time.
_CODELESS = frozenset({type(None), bool, int, float, str, bytes})
_CONTAINERS = frozenset({list, tuple, dict})


def is_library(obj: type | Callable[..., Any]) -> bool:
    """Whether a class or function is part of this package: its version stands for its code."""
    module = getattr(obj, "__module__", None) or ""
    return module == _PACKAGE or module.startswith(_PACKAGE + ".")


def semantic_value(value: Any) -> Any:
    """Return a value as plain data, secrets left out, code by its name.

    What is none of the known kinds stays as it is: where keys are made it is named as the reason
    why the step has no stable identity.
    """
    match value:
        case Enum() | str() | bytes():
            return value
        case SecretStr() | SecretBytes():
            return None
        case PurePath():
            return str(value)
        case re.Pattern():
            return [value.pattern, value.flags]
        case Mapping():
            return _of_kind(value, dict, _mapping(value))
        case list():
            return _of_kind(value, list, [semantic_value(item) for item in value])
        case tuple():
            return _of_kind(value, tuple, tuple(semantic_value(item) for item in value))
    return _object_value(value)


def _mapping(value: Mapping[Any, Any]) -> Any:
    kept = {
        key: semantic_value(item)
        for key, item in value.items()
        if not isinstance(item, SecretStr | SecretBytes)
    }
    # Canonical bytes forget the order of a dict, and a step may print it into a prompt. In the
    # order of its keys a dict stays one; in any other it is pairs.
    return kept if _is_sorted(kept) else ("ordered", *kept.items())


def _is_sorted(keys: Collection[Any]) -> bool:
    if len(keys) < 2:
        return True
    return all(type(key) is str for key in keys) and all(a < b for a, b in pairwise(keys))


def _of_kind(value: Any, plain: type, content: Any) -> Any:
    """Content, with the class and its attributes if it is not the plain one."""
    kind = type(value)
    if kind is plain:
        return content
    names = list(getattr(kind, "_fields", ())) if plain is tuple else []
    return [kind.__qualname__, content, names, semantic_value(own_attributes(value))]


def _object_value(value: Any) -> Any:
    if isinstance(value, type):
        if issubclass(value, BaseModel):
            # A class used as a schema: what it accepts is what counts.
            schema = semantic_value(value.model_json_schema())
            return {"class": value.__qualname__, "schema": schema}
        return {"class": value.__qualname__}
    if callable(own := getattr(value, "__signature__", None)):
        return [type(value).__qualname__, semantic_value(own())]
    if callable(own := getattr(value, "identity_fields", None)):
        return [type(value).__qualname__, semantic_value(own())]
    if isinstance(value, BaseModel):
        ignored: Collection[str] = getattr(value, "signature_ignore", ())
        return [type(value).__qualname__, _fields(value, ignored)]
    if dataclasses.is_dataclass(value):
        return [type(value).__qualname__, semantic_value(_dataclass_fields(value))]
    if callable(value) and hasattr(value, "__qualname__"):
        return {"function": value.__qualname__}
    return value


def _dataclass_fields(value: Any) -> dict[str, Any]:
    """The fields of an instance of a data class, and what was set beside them.

    Fields that were never set are left out.
    """
    names = [field.name for field in dataclasses.fields(value)]
    fields = {name: getattr(value, name) for name in names if hasattr(value, name)}
    return fields | own_attributes(value)


def semantic_fields(step: BaseStep) -> dict[str, Any]:
    """Return the fields that can change the rows of a step, as plain data."""
    ignored = OPERATIONAL_FIELDS | step.operational_fields() | set(step.signature_ignore)
    return _fields(step, ignored)


def _fields(model: BaseModel, ignored: Collection[str]) -> dict[str, Any]:
    # A field for a secret is left out by its type, so that one without a value is left out too.
    fields = {
        name: semantic_value(getattr(model, name))
        for name, field in type(model).model_fields.items()
        if name not in ignored and secret_class(field.annotation) is None
    }
    extra = {name: value for name, value in _extra(model).items() if name not in ignored}
    # Nobody declared them as parameters: they count, and are not stored to be read.
    fields |= {name: _digest(value) or semantic_value(value) for name, value in extra.items()}
    private = {name: _digest(value) for name, value in _private(model, ignored).items()}
    return fields | {name: digest for name, digest in private.items() if digest}


def _digest(value: Any) -> str:
    """Name plain data by its content; empty for anything else."""
    try:
        return xxh3_128_hexdigest(canonical_bytes("asyncdistil/beside/1", semantic_value(value)))
    except UnencodableValue:
        return ""


def _extra(model: BaseModel) -> dict[str, Any]:
    """Values that a class allows beyond its fields; secrets left out."""
    found: Mapping[str, Any] = model.__pydantic_extra__ or {}
    return {
        name: value
        for name, value in found.items()
        if not isinstance(value, SecretStr | SecretBytes)
    }


def _private(model: BaseModel, ignored: Collection[str]) -> dict[str, Any]:
    """Private attributes of the user's classes that no longer have their default.

    They travel with the step to its workers. Of a live object, such as a client or a template
    made in ``model_post_init``, only the code counts: it most likely follows from the fields, and
    without a stable identity it would keep every such step from being cached.
    """
    declared = type(model).__private_attributes__
    # A class has those of its bases among its own.
    library = {
        name
        for base in type(model).__mro__
        if is_library(base)
        for name in base.__dict__.get("__private_attributes__", ())
    }
    return {
        name: value
        for name, value in (model.__pydantic_private__ or {}).items()
        if name in declared
        and name not in library
        and name not in ignored
        and not _is_default(value, declared[name])
    }


def _beside_fields(model: BaseModel, ignored: Collection[str]) -> Iterator[tuple[str, Any]]:
    yield from _extra(model).items()
    yield from _private(model, ignored).items()


def _is_default(value: Any, attribute: ModelPrivateAttr) -> bool:
    make: Any = attribute.default_factory
    if make is not None and getattr(make, "__module__", "") not in ("builtins", "collections"):
        # Called again it may take long or give another time or number, and its code counts.
        return True
    default = attribute.default if make is None else make()
    return value is default or _digest(value) == _digest(default) != ""


def code_roots(step: BaseStep) -> Iterator[tuple[str, type | Callable[..., Any]]]:
    """Yield every class and function whose code the step runs and that is not this package's.

    Yields:
        Where it hangs on the step (``step``, or a field path), and the object.
    """
    if not is_library(type(step)):
        yield "step", type(step)
    yield from step.extra_code().items()
    ignored = OPERATIONAL_FIELDS | set(step.signature_ignore)
    for name in type(step).model_fields:
        if name not in ignored:
            yield from _roots_in(name, getattr(step, name))
    for name, value in _beside_fields(step, ignored):
        yield from _roots_in(name, value)


def _is_users(kind: type) -> bool:
    return not is_library(kind) and origin_of_name(kind.__module__).kind == "user"


def _roots_in(path: str, value: Any) -> Iterator[tuple[str, type | Callable[..., Any]]]:
    kind = type(value)
    if kind in _CODELESS:
        return
    if kind not in _CONTAINERS and _is_users(kind) and not isinstance(value, type | BaseModel):
        # A step calls the methods of what it holds.
        yield path, kind
    match value:
        case bool() | int() | float() | str() | bytes():
            return
        case Mapping():
            for key, item in value.items():
                yield from _roots_in(f"{path}.{key}", item)
            yield from _roots_in(f"{path}.default_factory", getattr(value, "default_factory", None))
        case list() | tuple():
            if not _CODELESS.issuperset(map(type, value)):
                for position, item in enumerate(value):
                    yield from _roots_in(f"{path}.{position}", item)
        case BaseModel():
            if not is_library(type(value)):
                yield path, type(value)
            for name in type(value).model_fields:
                yield from _roots_in(f"{path}.{name}", getattr(value, name))
            for name, item in _beside_fields(value, getattr(value, "signature_ignore", ())):
                yield from _roots_in(f"{path}.{name}", item)
        case type():
            if not is_library(value):
                yield path, value
        case _ if dataclasses.is_dataclass(value):
            if not is_library(kind) and not _is_users(kind):
                yield path, kind
            yield from _roots_in(path, _dataclass_fields(value))
        case _:
            if callable(value) and hasattr(value, "__qualname__") and not is_library(value):
                yield path, value


def code_of(step: BaseStep) -> CodeFingerprint | None:
    """Fingerprint all of the user's code that a step runs; ``None`` if there is none."""
    roots = dict(code_roots(step))
    if not roots:
        return None
    first = next(iter(roots))
    whole: Any = roots.pop(first)
    if roots:
        # One object that reaches them all, each under the name of its place.
        whole = partial(whole, **roots)
    return fingerprint(whole, ignore=step.signature_ignore)


def identity_of(step: BaseStep) -> Identity:
    """Name a step by everything of its own that can change its rows."""
    return step_identity(
        name=step.name,
        kind=step.kind(),
        qualname=type(step).__qualname__,
        version=step.version,
        fields=semantic_fields(step),
        code=code_of(step),
        extra=step.identity_extra(),
    )
