"""Edges between steps: ``a >> b``, ``a >> [b, c]``, ``[a, b] >> c``, ``a >> router >> [b, c]``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

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
        GraphError: There is no pipeline, or not the same one, or the edge can't be.
    """
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
