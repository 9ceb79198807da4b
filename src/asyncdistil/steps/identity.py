"""What a step is made of, as far as its output goes: the fields and code that enter its key."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from enum import Enum
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, SecretBytes, SecretStr

from asyncdistil.mixins.runtime_parameters import secret_class
from asyncdistil.signature import CodeFingerprint, Identity, fingerprint, step_identity

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
            return {
                key: semantic_value(item)
                for key, item in value.items()
                if not isinstance(item, SecretStr | SecretBytes)
            }
        case list():
            return [semantic_value(item) for item in value]
        case tuple():
            return tuple(semantic_value(item) for item in value)
    return _object_value(value)


def _object_value(value: Any) -> Any:
    if isinstance(value, type):
        if issubclass(value, BaseModel):
            # A class used as a schema: what it accepts is what counts.
            return {"class": value.__qualname__, "schema": value.model_json_schema()}
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
    """The fields of an instance of a data class, those that were never set left out."""
    names = [field.name for field in dataclasses.fields(value)]
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def semantic_fields(step: BaseStep) -> dict[str, Any]:
    """Return the fields that can change the rows of a step, as plain data."""
    ignored = OPERATIONAL_FIELDS | step.operational_fields() | set(step.signature_ignore)
    return _fields(step, ignored)


def _fields(model: BaseModel, ignored: Collection[str]) -> dict[str, Any]:
    # A field for a secret is left out by its type, so that one without a value is left out too.
    return {
        name: semantic_value(getattr(model, name))
        for name, field in type(model).model_fields.items()
        if name not in ignored and secret_class(field.annotation) is None
    }


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


def _roots_in(path: str, value: Any) -> Iterator[tuple[str, type | Callable[..., Any]]]:
    match value:
        case None | bool() | int() | float() | str() | bytes():
            return
        case Mapping():
            for key, item in value.items():
                yield from _roots_in(f"{path}.{key}", item)
        case list() | tuple():
            # Rows can be many and hold no code: the first item tells what kind of list it is.
            if value and not isinstance(value[0], str | bytes | int | float | None):
                for position, item in enumerate(value):
                    yield from _roots_in(f"{path}.{position}", item)
        case BaseModel():
            if not is_library(type(value)):
                yield path, type(value)
            for name in type(value).model_fields:
                yield from _roots_in(f"{path}.{name}", getattr(value, name))
        case type():
            if not is_library(value):
                yield path, value
        case _ if dataclasses.is_dataclass(value):
            if not is_library(type(value)):
                yield path, type(value)
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
