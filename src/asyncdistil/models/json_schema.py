"""Checking a value against a JSON schema: the part of the standard that model services take."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

_MAX_DEPTH = 200
_MAPPINGS = ("properties", "patternProperties", "$defs", "definitions")
_NUMBERS = (
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
)


def fault(schema: Any, *, root: Any = None, path: str = "#") -> str:
    """Say the first reason why no answer could be checked against a schema; empty if none.

    What would be found out with each answer, after it was paid for, is found out here.
    """
    root = schema if root is None else root
    if isinstance(schema, bool):
        return ""
    if not isinstance(schema, Mapping):
        return f"{path} must be an object, not {schema!r}"
    return _fault_in_values(schema, root, path) or _fault_in_parts(schema, root, path)


def _fault_in_values(schema: Mapping[str, Any], root: Any, path: str) -> str:
    reference = schema.get("$ref", "")
    if not isinstance(reference, str):
        return f"{path}/$ref must be text, not {reference!r}"
    if reference.startswith("#") and target_of(reference, root) is False:
        return f"{path}/$ref is {reference!r}, and there is nothing at that place"
    kinds = schema.get("type", "object")
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind not in _KINDS:
            return f"{path}/type is {kind!r}: the types are {', '.join(_KINDS)}"
    for name in ("enum", "required"):
        if not isinstance(schema.get(name, []), list | tuple):
            return f"{path}/{name} must be a list, not {schema[name]!r}"
    for name in _NUMBERS:
        if not isinstance(schema.get(name, 0), int | float):
            return f"{path}/{name} must be a number, not {schema[name]!r}"
    patterns = schema.get("patternProperties")
    for pattern in (schema.get("pattern", ""), *(patterns if isinstance(patterns, dict) else ())):
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            return f"{path}: {pattern!r} is no pattern that Python knows ({error})"
    return ""


def _fault_in_parts(schema: Mapping[str, Any], root: Any, path: str) -> str:
    parts: list[tuple[str, Any]] = []
    for name in _MAPPINGS:
        held = schema.get(name, {})
        if not isinstance(held, Mapping):
            return f"{path}/{name} must be an object, not {held!r}"
        parts += [(f"{path}/{name}/{key}", part) for key, part in held.items()]
    for name in ("allOf", "anyOf", "oneOf", "prefixItems"):
        held = schema.get(name, [])
        if not isinstance(held, list | tuple):
            return f"{path}/{name} must be a list, not {held!r}"
        parts += [(f"{path}/{name}/{number}", part) for number, part in enumerate(held)]
    parts += [(f"{path}/{n}", schema[n]) for n in ("not", "additionalProperties") if n in schema]
    if isinstance(items := schema.get("items", True), list):  # of an older draft: not checked
        items = True
    for place, part in [*parts, (f"{path}/items", items)]:
        if found := fault(part, root=root, path=place):
            return found
    return ""


def violation(value: Any, schema: Any, *, root: Any = None, path: str = "$", depth: int = 0) -> str:
    """Say the first way in which a value breaks a schema; empty if it does not.

    Covers ``type``, ``enum``, ``const``, references into the same document, ``allOf``, ``anyOf``,
    ``oneOf``, ``not``, and the bounds and parts of objects, arrays, strings and numbers. ``format``
    and references elsewhere are not checked.
    """
    root = schema if root is None else root
    if schema is True or not isinstance(schema, Mapping):
        return f"{path}: nothing is allowed here" if schema is False else ""
    if depth > _MAX_DEPTH:
        return f"{path}: nested too deep"

    def inner(part: Any, item: Any, where: str) -> str:
        return violation(item, part, root=root, path=where, depth=depth + 1)

    reference = schema.get("$ref", "")
    if reference.startswith("#") and (found := inner(target_of(reference, root), value, path)):
        return found
    if "const" in schema and not _same(value, schema["const"]):
        return f"{path}: must be {schema['const']!r}"
    if "enum" in schema and not any(_same(value, option) for option in schema["enum"]):
        return f"{path}: must be one of {schema['enum']!r}"
    kinds = schema.get("type")
    if kinds is not None:
        allowed = [kinds] if isinstance(kinds, str) else list(kinds)
        if not any(_is_kind(value, kind) for kind in allowed):
            return f"{path}: must be {' or '.join(allowed)}, not {_kind_of(value)}"
    if found := _combined(value, schema, inner, path):
        return found
    match value:
        case dict():
            return _object(value, schema, inner, path)
        case list():
            return _array(value, schema, inner, path)
        case str():
            return _string(value, schema, path)
        case bool() | None:
            return ""
        case int() | float():
            return _number(value, schema, path)
    return ""


_KINDS = ("null", "boolean", "integer", "number", "string", "array", "object")
_Inner = Callable[[Any, Any, str], str]


def target_of(reference: str, root: Any) -> Any:
    """What a reference into the same document (``#/$defs/Name``) names; ``False`` if nothing."""
    target = root
    for step in reference.lstrip("#").strip("/").split("/"):
        if step:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(target, list):
                target = target[int(name)] if name.isdigit() and int(name) < len(target) else False
            else:
                target = target.get(name, False) if isinstance(target, Mapping) else False
    return target


def _same(left: Any, right: Any) -> bool:
    # JSON has one number type, but true is no number.
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def _kind_of(value: Any) -> str:
    for kind in _KINDS:
        if _is_kind(value, kind):
            return kind
    return type(value).__name__


def _is_kind(value: Any, kind: str) -> bool:
    match kind:
        case "null":
            return value is None
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            if isinstance(value, bool):
                return False
            return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "string":
            return isinstance(value, str)
        case "array":
            return isinstance(value, list)
        case "object":
            return isinstance(value, dict)
    return False


def _combined(value: Any, schema: Mapping[str, Any], inner: _Inner, path: str) -> str:
    for part in schema.get("allOf", ()):
        if found := inner(part, value, path):
            return found
    if "anyOf" in schema:
        reasons = [inner(part, value, path) for part in schema["anyOf"]]
        if all(reasons):
            return f"{path}: fits none of the alternatives ({reasons[0] if reasons else 'none'})"
    if "oneOf" in schema:
        fits = sum(not inner(part, value, path) for part in schema["oneOf"])
        if fits != 1:
            return f"{path}: must fit exactly one alternative, fits {fits}"
    if "not" in schema and not inner(schema["not"], value, path):
        return f"{path}: fits what is excluded"
    return ""


def _object(value: dict[str, Any], schema: Mapping[str, Any], inner: _Inner, path: str) -> str:
    for name in schema.get("required", ()):
        if name not in value:
            return f"{path}: {name!r} is missing"
    properties = schema.get("properties", {})
    patterns = schema.get("patternProperties", {})
    rest = schema.get("additionalProperties", True)
    for name, item in value.items():
        where = f"{path}.{name}"
        known = name in properties
        if known and (found := inner(properties[name], item, where)):
            return found
        for pattern, part in patterns.items():
            if re.search(pattern, name):
                known = True
                if found := inner(part, item, where):
                    return found
        if not known:
            if rest is False:
                return f"{path}: {name!r} is not allowed"
            if found := inner(rest, item, where):
                return found
    return _size(len(value), schema, "Properties", "properties", path)


def _array(value: list[Any], schema: Mapping[str, Any], inner: _Inner, path: str) -> str:
    fixed = schema.get("prefixItems", [])
    for position, item in enumerate(value):
        part = fixed[position] if position < len(fixed) else schema.get("items", True)
        if found := inner(part, item, f"{path}[{position}]"):
            return found
    if schema.get("uniqueItems"):
        for position, item in enumerate(value):
            if any(_same(item, earlier) for earlier in value[:position]):
                return f"{path}: items must differ, {item!r} comes twice"
    return _size(len(value), schema, "Items", "items", path)


def _string(value: str, schema: Mapping[str, Any], path: str) -> str:
    if "pattern" in schema and not re.search(schema["pattern"], value):
        return f"{path}: must match {schema['pattern']!r}"
    return _size(len(value), schema, "Length", "characters", path)


def _size(size: int, schema: Mapping[str, Any], key: str, noun: str, path: str) -> str:
    least, most = schema.get(f"min{key}", 0), schema.get(f"max{key}", math.inf)
    if size < least:
        return f"{path}: needs at least {least} {noun}, has {size}"
    if size > most:
        return f"{path}: may have {most} {noun} at most, has {size}"
    return ""


def _number(value: float, schema: Mapping[str, Any], path: str) -> str:
    bounds: tuple[tuple[str, Callable[[Any, Any], bool], str], ...] = (
        ("minimum", lambda a, b: a >= b, "at least"),
        ("maximum", lambda a, b: a <= b, "at most"),
        ("exclusiveMinimum", lambda a, b: a > b, "above"),
        ("exclusiveMaximum", lambda a, b: a < b, "below"),
    )
    for key, holds, words in bounds:
        if key in schema and not holds(value, schema[key]):
            return f"{path}: must be {words} {schema[key]}, is {value}"
    step = schema.get("multipleOf")
    if step and abs(value / step - round(value / step)) > 1e-9:
        return f"{path}: must be a multiple of {step}, is {value}"
    return ""
