"""What a step is made of, as far as its output goes: the fields and code that enter its key."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, SecretBytes, SecretStr
from xxhash import xxh3_128_digest

from asyncdistil.batch import Digest
from asyncdistil.codec import canonical_bytes
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


class Unstable(Exception):
    """A value has no stable identity; caught where the field's name is known."""


def semantic_value(value: Any) -> Any:
    """Return a value as plain data that the codec takes, secrets left out.

    Raises:
        Unstable: It is a live object without ``__signature__()`` or ``identity_fields()``.
    """
    match value:
        case None | bool() | int() | float() | str() | bytes() if not isinstance(value, Enum):
            return value
        case Enum():
            return [type(value).__qualname__, semantic_value(value.value)]
        case SecretStr() | SecretBytes():
            return None
        case PurePath():
            return str(value)
        case re.Pattern():
            return [value.pattern, value.flags]
        case Mapping():
            return {
                key if isinstance(key, str) else semantic_value(key): semantic_value(item)
                for key, item in value.items()
            }
        case list():
            return [semantic_value(item) for item in value]
        case tuple():
            return tuple(semantic_value(item) for item in value)
        case set() | frozenset():
            return frozenset(semantic_value(item) for item in value)
    return _object_value(value)


def _object_value(value: Any) -> Any:
    if isinstance(value, type):
        own = {"class": value.__qualname__}
        if issubclass(value, BaseModel):
            # A class used as a schema: what it accepts is what counts.
            return own | {"schema": value.model_json_schema()}
        return own | {"code": fingerprint(value).digest}
    if callable(getattr(value, "__signature__", None)):
        return [type(value).__qualname__, semantic_value(value.__signature__())]
    if callable(getattr(value, "identity_fields", None)):
        return [type(value).__qualname__, semantic_value(value.identity_fields())]
    if isinstance(value, BaseModel):
        ignored: Collection[str] = getattr(value, "signature_ignore", ())
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        return [
            type(value).__qualname__,
            {
                name: semantic_value(item)
                for name, item in fields.items()
                if name not in ignored and not isinstance(item, SecretStr | SecretBytes)
            },
        ]
    if callable(value) and hasattr(value, "__qualname__"):
        return {"function": value.__qualname__, "code": fingerprint(value).digest}
    if type(value).__module__ in {"datetime", "decimal", "uuid"}:
        return value  # the codec has types for these
    raise Unstable(f"a {type(value).__module__}.{type(value).__qualname__} has no stable identity")


def semantic_fields(step: BaseStep) -> tuple[dict[str, Any], list[str]]:
    """Return the fields that enter the key, and why some of them can't.

    Returns:
        Field name to plain value, and one sentence per field that has no stable identity. Such a
        field stands in the key with its type only.
    """
    fields: dict[str, Any] = {}
    reasons: list[str] = []
    ignored = OPERATIONAL_FIELDS | step.operational_fields() | set(step.signature_ignore)
    for name in type(step).model_fields:
        value = getattr(step, name)
        if name in ignored or isinstance(value, SecretStr | SecretBytes):
            continue
        try:
            fields[name] = semantic_value(value)
        except Unstable as why:
            fields[name] = {"type": type(value).__qualname__}
            reasons.append(
                f"field {name!r} of step {step.name!r}: {why}; give its class __signature__(), "
                f"or name the field in signature_ignore if it can't change the rows"
            )
    return fields, reasons


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
        case _:
            if callable(value) and hasattr(value, "__qualname__") and not is_library(value):
                yield path, value


def code_of(step: BaseStep) -> CodeFingerprint | None:
    """Fingerprint all of the user's code that a step runs; ``None`` if there is none."""
    found = {
        path: fingerprint(root, ignore=step.signature_ignore) for path, root in code_roots(step)
    }
    if not found:
        return None
    if list(found) == ["step"]:
        return found["step"]
    return _joined(found)


def _joined(found: Mapping[str, CodeFingerprint]) -> CodeFingerprint:
    """Make one fingerprint of several; every part keeps its path as a prefix."""
    digests = {path: code.digest for path, code in found.items()}
    return CodeFingerprint(
        digest=Digest(xxh3_128_digest(canonical_bytes("asyncdistil/step code/1", digests))),
        parts={f"{path}:{k}": v for path, code in found.items() for k, v in code.parts.items()},
        sources={f"{path}:{k}": v for path, code in found.items() for k, v in code.sources.items()},
        modules=tuple(sorted({name for code in found.values() for name in code.modules})),
        uncacheable=tuple(
            dict.fromkeys(reason for code in found.values() for reason in code.uncacheable)
        ),
    )


def identity_of(step: BaseStep) -> Identity:
    """Name a step by everything of its own that can change its rows."""
    fields, _ = semantic_fields(step)
    return step_identity(
        name=step.name,
        kind=step.kind(),
        qualname=type(step).__qualname__,
        version=step.version,
        fields=fields,
        code=code_of(step),
    )


def uncacheable_reasons(step: BaseStep) -> list[str]:
    """Say why the rows of a step can't be reused in a later run; empty if they can."""
    _, reasons = semantic_fields(step)
    code = code_of(step)
    return reasons + list(code.uncacheable if code is not None else ())
