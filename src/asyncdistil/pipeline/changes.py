"""Which components of a step's key differ from the nearest stored one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from asyncdistil.batch import Digest
from asyncdistil.graph.plan import StepPlan
from asyncdistil.signature import (
    ABSENT,
    Difference,
    differences,
    nearest,
    own_annotations,
)
from asyncdistil.steps.base import BaseStep
from asyncdistil.steps.identity import is_library

if TYPE_CHECKING:
    from asyncdistil.log import StoreReader
    from asyncdistil.pipeline.prospect import Prospect

DATA = "data"
"""Component that stands for the data of a generator, which is in no lineage."""

_UPSTREAM = "upstream "
_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Change:
    """One component of a key that differs.

    Attributes:
        component: Its name, such as ``field.temperature``, ``code.Judge.process`` or ``data``.
        old: Stored value as text; empty if there was none.
        new: Value now as text; empty if there is none.
        diff: Unified diff of code or prompt; empty where there is no text to compare.
        inherited: Whether it says only that a step above changed.
        note: What can be said of code where texts don't tell: ``old`` and ``new`` are digests then.
    """

    component: str
    old: str
    new: str
    diff: str = ""
    inherited: bool = False
    note: str = ""

    @property
    def short(self) -> str:
        """In a few words."""
        if self.inherited:
            return f"{self.component} changed"
        if self.diff or self.component.startswith("code."):
            return f"{self.component} changed"
        if self.component == DATA:
            return "its data changed"
        return f"{self.component}: {_cut(self.old)} → {_cut(self.new)}"

    def __str__(self) -> str:
        if self.diff:
            return f"{self.component}:\n{self.diff}"
        if self.note:
            return f"{self.component}: {self.note}"
        return f"{self.component}: {self.old or '(absent)'} → {self.new or '(absent)'}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "component": self.component,
            "old": self.old,
            "new": self.new,
            "diff": self.diff,
            "inherited": self.inherited,
            "note": self.note,
        }


def _cut(text: str) -> str:
    if not text:
        return "(absent)"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def nearest_lineage(step: StepPlan, store: StoreReader) -> Digest | None:
    """Lineage of the stored step that is most like this one; its own if that is stored."""
    if store.step_def(step.lineage) is not None:
        return step.lineage
    stored = {found.definition: lineage for lineage, found in store.step_defs().items()}
    found = nearest(step.definition, stored)
    return None if found is None else stored[found]


def changes_of(prospect: Prospect, step: StepPlan) -> tuple[Change, ...]:
    """Compare the key of a step, and a generator's data, with what is stored.

    Empty if nothing of the kind is stored, and if nothing differs.
    """
    store = prospect.store
    if store is None:
        return ()
    lineage = nearest_lineage(step, store)
    if lineage is None:
        return ()
    stored = store.step_def(lineage)
    assert stored is not None
    changes = component_changes(stored, step.definition)
    declared = _declared(prospect.prepared.step(step.name))
    found = [_noted(change, changes, declared) for change in changes]
    own = [change for change in found if not change.inherited]
    rewired = {c.component.partition(".")[0] for c in own if c.component.startswith("input ")}
    if rewired:
        # Another step at a port brings another lineage along: that is no change of its own.
        found = own
    if step.kind == "generator" and step.data_identity is not None:
        commits = store.commits(lineage)
        known = commits[-1][1].input_digests[:1] if commits else ()
        if known and known[0] != step.data_identity:
            found.append(Change(DATA, known[0].hex(), step.data_identity.hex()))
    return tuple(found)


def component_changes(old_definition: bytes, new_definition: bytes) -> list[Change]:
    """Compare two keys of a step."""
    return [
        _change(part)
        for each in differences(old_definition, new_definition)
        for part in _parts(each)
    ]


def _declared(step: BaseStep) -> dict[str, list[str]]:
    """Fields by the name of the user's class that declares them, of a step and what it holds."""
    holders = [type(step), *(type(getattr(step, name)) for name in type(step).model_fields)]
    classes = {each for holder in holders for each in holder.__mro__ if not is_library(each)}
    return {
        each.__name__: [name for name in own_annotations(each) if name in each.model_fields]
        for each in classes
        if issubclass(each, BaseModel) and each is not BaseModel and own_annotations(each)
    }


def _noted(change: Change, all_changes: list[Change], declared: Mapping[str, list[str]]) -> Change:
    """Say in words what two digests of code would say to nobody."""
    kind, _, name = change.component.partition(".")
    if kind != "code" or change.diff or not (_is_digest(change.old) or _is_digest(change.new)):
        return change
    fields = declared.get(name.partition("#")[0])
    if not change.old or not change.new:
        note = f"its text is not known; it was {'not ' if not change.old else ''}used before"
    elif not fields:
        note = "it changed, in a part that the store has no text of"
    else:
        values = [
            f"{c.component.removeprefix('field.')}: {_cut(c.old)} → {_cut(c.new)}"
            for c in all_changes
            if c.component.startswith("field.") and c.component.rpartition(".")[2] in fields
        ]
        note = (
            f"what it declares changed ({'; '.join(values)})"
            if values
            else (
                f"what it declares changed: the default, type or limit of a field "
                f"({', '.join(fields)}) that no value of the step shows"
            )
        )
    return replace(change, note=note)


def _is_digest(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{32}", text) is not None


def _parts(difference: Difference) -> Iterator[Difference]:
    """A difference inside a nested object, such as a model, by the fields that differ."""
    old, new = _fields_of(difference.old), _fields_of(difference.new)
    if difference.diff or old is None or new is None or old[0] != new[0]:
        yield difference
        return
    for name in dict.fromkeys((*new[1], *old[1])):
        before, after = old[1].get(name, ABSENT), new[1].get(name, ABSENT)
        if type(before) is not type(after) or before != after:
            yield from _parts(Difference(f"{difference.component}.{name}", before, after))


def _fields_of(value: Any) -> tuple[str, dict[str, Any]] | None:
    """Class and fields of an object in a key, or the items of a mapping."""
    if isinstance(value, dict):
        return "", value
    if isinstance(value, list | tuple) and len(value) == 2:
        name, fields = value
        if isinstance(name, str) and isinstance(fields, dict):
            return name, fields
    return None


def _change(difference: Difference) -> Change:
    return Change(
        difference.component,
        _text(difference.old),
        _text(difference.new),
        difference.diff,
        inherited=difference.component.startswith(_UPSTREAM),
    )


def _text(value: Any) -> str:
    if value is ABSENT:
        return ""
    return value if isinstance(value, str) else repr(value)
