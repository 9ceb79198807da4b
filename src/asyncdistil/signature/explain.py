"""What changed between two keys, component by component."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from asyncdistil.codec import canonical_bytes
from asyncdistil.errors import FormatError
from asyncdistil.signature.identity import read_definition
from asyncdistil.signature.text import redacted


class _Absent:
    """Stands for a component that one side lacks."""

    def __repr__(self) -> str:
        return "(absent)"


ABSENT = _Absent()


class Difference(NamedTuple):
    """One component that differs.

    Attributes:
        component: Its name, such as ``field.temperature`` or ``code.Judge.process``.
        old: Stored value, or `ABSENT`.
        new: Value now, or `ABSENT`.
        diff: Unified diff, where text is known or a value has several lines; else empty.
    """

    component: str
    old: Any
    new: Any
    diff: str = ""

    def __str__(self) -> str:
        """What to print: the diff if there is one, else old and new."""
        if self.diff:
            return f"{self.component}:\n{self.diff}"
        return f"{self.component}: {self.old!r} → {self.new!r}"


def differences(old_definition: bytes, new_definition: bytes) -> list[Difference]:
    """List the components in which two definitions differ, in the order of the new one.

    Raises:
        FormatError: One of them is not a definition.
    """
    old_key, old_texts = read_definition(old_definition)
    new_key, new_texts = read_definition(new_definition)
    old, new = dict(_components(old_key)), dict(_components(new_key))
    found = []
    for component in [*new, *(component for component in old if component not in new)]:
        before, after = old.get(component, ABSENT), new.get(component, ABSENT)
        if _same(before, after):
            continue
        diff = _diff(
            _text(before, old_texts.get(component)), _text(after, new_texts.get(component))
        )
        found.append(Difference(component, before, after, diff))
    return found


def nearest(new: bytes, stored: Iterable[bytes]) -> bytes | None:
    """The stored definition that differs least from ``new``, to explain why there was no hit.

    One of the same step name is preferred to one of the same class; of equals the last wins.

    Returns:
        A definition, or ``None`` if none has the name or the class. Unreadable ones are passed
        over.
    """
    key, _ = read_definition(new)
    wanted = dict(_components(key))
    best: tuple[bool, int] | None = None
    found = None
    for definition in stored:
        try:
            other = dict(_components(read_definition(definition)[0]))
        except FormatError:
            continue
        renamed = other.get("name") != wanted.get("name")
        if renamed and other.get("qualname") != wanted.get("qualname"):
            continue
        names = {*other, *wanted}
        differing = sum(not _same(other.get(n, ABSENT), wanted.get(n, ABSENT)) for n in names)
        if best is None or (renamed, differing) <= best:
            best, found = (renamed, differing), definition
    return found


def _components(key: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "name", key.get("name")
    for component, value in key.get("step", {}).items():
        yield from _leaves(component, value)
    edges = key.get("edges", [])
    for position, edge in enumerate(edges):
        yield from _leaves(f"input {position}", edge)
    for position, parent in enumerate(key.get("parents", [])):
        edge = edges[position] if position < len(edges) else {}
        yield f"upstream {edge.get('upstream', position)}", bytes(parent).hex()


def _leaves(component: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A nested mapping by its leaves, so that one parameter is named and not all of them."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(f"{component}.{key}", item)
    else:
        yield component, value


def _same(old: Any, new: Any) -> bool:
    if old is ABSENT or new is ABSENT:
        return old is new
    return canonical_bytes("", old) == canonical_bytes("", new)


def _text(value: Any, text: str | None) -> str | None:
    if text is not None:
        return text
    if value is ABSENT:
        return ""
    return redacted(value) if isinstance(value, str) and "\n" in value else None


def _diff(old: str | None, new: str | None) -> str:
    # A missing side shows the whole of the other; an unknown one leaves nothing to compare.
    if old is None or new is None or old == new:
        return ""
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), "stored", "now", lineterm="", n=2
    )
    return "\n".join(lines)
