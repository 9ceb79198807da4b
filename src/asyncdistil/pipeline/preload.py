"""What the workers of a run import, so that it is imported once, before they are forked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from asyncdistil.steps import Step
from asyncdistil.steps.base import BaseStep

_OWN = "asyncdistil."
_MANY_ROWS_AT_ONCE = ("uvloop", "asyncdistil.worker.rows")


def preloaded(steps: Iterable[BaseStep]) -> tuple[str, ...]:
    """Names of modules for the steps of a run: our own, and libraries that our models name.

    Modules of users are not among them: importing those is the workers' business, one by one.
    """
    steps = list(steps)
    names = [name for step in steps for name in _modules_of(step)]
    if any(isinstance(step, Step) and (step.asynchronous or step.concurrency) for step in steps):
        names += _MANY_ROWS_AT_ONCE
    return tuple(dict.fromkeys(names))


def _modules_of(value: BaseModel) -> Iterator[str]:
    for kind in reversed(type(value).__mro__):
        if kind.__module__.startswith(_OWN):
            yield kind.__module__
    yield from getattr(type(value), "libraries", ())
    for _, member in value:
        for inner in _models_in(member):
            yield from _modules_of(inner)


def _models_in(value: Any) -> Sequence[BaseModel]:
    if isinstance(value, BaseModel):
        return (value,)
    # The first tells: a list may as well hold all rows of a loader.
    if isinstance(value, list | tuple) and value and isinstance(value[0], BaseModel):
        return [member for member in value if isinstance(member, BaseModel)]
    return ()
