"""Edges between steps: ``a >> b``, ``a >> [b, c]``, ``[a, b] >> c``, ``a >> router >> [b, c]``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from asyncdistil.errors import GraphError

if TYPE_CHECKING:
    from asyncdistil.steps.base import BaseStep
    from asyncdistil.steps.routing import RoutingBatchFunction


def connect(
    source: BaseStep,
    targets: Sequence[BaseStep],
    router: RoutingBatchFunction | None = None,
) -> None:
    """Connect a step to others, through a router if one is given.

    Raises:
        GraphError: One of them is no step; there is no pipeline, or not the same one; or the edge
            can't be.
    """
    _refuse_others([source, *targets])
    pipeline = source.pipeline
    if pipeline is None:
        raise GraphError(
            f"step {source.name!r} belongs to no pipeline: create it inside "
            f"`with Pipeline():`, or with `pipeline=`"
        )
    for target in targets:
        if target.pipeline is not pipeline:
            raise GraphError(
                f"steps {source.name!r} and {target.name!r} are not of one pipeline: create both "
                f"inside the same `with Pipeline():`"
            )
    for target in targets:
        pipeline.connect(source.name, target.name)
    if router is not None:
        pipeline.add_router(source.name, router, [target.name for target in targets])


def sources(given: Any) -> Iterable[Any]:
    """What stands before ``>> step``: the members of a list, or else the thing itself."""
    return given if isinstance(given, Iterable) and not isinstance(given, str | type) else [given]


def _refuse_others(given: Sequence[Any]) -> None:
    from asyncdistil.steps.base import BaseStep  # which imports this module

    for one in given:
        if not isinstance(one, BaseStep):
            raise GraphError(f"an arrow connects steps, and {_told(one, BaseStep)}")


def _told(value: Any, step_class: type[BaseStep]) -> str:
    """Say what stands in the place of a step, and what to write there."""
    from asyncdistil.steps.routing import RoutingBatchFunction

    match value:
        case type() if issubclass(value, step_class):
            return f"{value.__name__} is a class: make a step of it, `{value.__name__}(...)`"
        case RoutingBatchFunction():
            return (
                f"{value.name!r} is a router: it stands between a step and a list, "
                f"`step >> {value.name} >> [b, c]`"
            )
        case FunctionType() | MethodType():
            return (
                f"{value.__name__!r} is a function: make a step of it, by `@step` or by "
                "`Map(function=...)`"
            )
        case list() | tuple():
            kind = type(value).__name__
            return f"this is a {kind} of {len(value)}: write `a >> [b, c]`, or `a.connect(b, c)`"
        case str():
            return f"{value!r:.80} is a text: give the step of that name itself"
        case None:
            return "None is none: give a step"
    return f"this is none: {type(value).__name__!r} is no class of steps"


class Routed:
    """A step with a router behind it, on its way to a list: what ``a >> router`` gives."""

    __slots__ = ("router", "source")

    def __init__(self, source: BaseStep, router: RoutingBatchFunction) -> None:
        self.source = source
        self.router = router

    def __rshift__(self, targets: list[BaseStep]) -> list[BaseStep]:
        if not isinstance(targets, list):
            raise GraphError(
                f"router {self.router.name!r} chooses among several steps: write "
                f"`{self.source.name} >> {self.router.name} >> [b, c]`"
            )
        connect(self.source, targets, self.router)
        return targets
