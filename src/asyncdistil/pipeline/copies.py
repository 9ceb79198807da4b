"""Copies of steps that a run may change without the user's own steps noticing."""

from __future__ import annotations

from typing import Any, TypeVar

from asyncdistil.mixins import HasRuntimeParameters
from asyncdistil.steps.base import BaseStep

_S = TypeVar("_S", bound=BaseStep)
_P = TypeVar("_P", bound=HasRuntimeParameters)


def own_copy(original: _P) -> _P:
    """Copy an object as deep as runtime parameters reach.

    Data, clients and everything else that no run sets is shared, so that a loader of a million
    rows costs as much to copy as an empty one.
    """
    twin = original.model_copy()
    fields = twin.__dict__  # assigning to attributes would run the validators of the user's class
    for name in type(twin).model_fields:
        fields[name] = _separate(fields[name])
    return twin


def without_cache(step: _S) -> _S:
    """Copy a step as one that takes nothing that other runs stored, answers of models neither."""
    return step.model_copy(update={"use_cache": False})


def _separate(value: Any) -> Any:
    if isinstance(value, HasRuntimeParameters):
        return own_copy(value)
    # Exact types: a subclass may hold more than its items.
    if type(value) in (list, tuple):
        # By the few types of the items: rows can be many.
        if any(issubclass(kind, HasRuntimeParameters) for kind in set(map(type, value))):
            return type(value)(map(_separate, value))
        return value
    if type(value) is dict:
        return {key: _separate(item) for key, item in value.items()}
    return value
