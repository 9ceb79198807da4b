"""How a step finds the pipeline it belongs to, knowing nothing else about pipelines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from asyncdistil.steps.base import BaseStep
    from asyncdistil.steps.routing import RoutingBatchFunction


class PipelineLike(Protocol):
    """What a step asks of its pipeline."""

    def has_step(self, name: str) -> bool:
        """Whether a step of this name was added."""
        ...

    def add_step(self, step: BaseStep) -> None:
        """Take a step in, once it is complete and has its name.

        Raises:
            GraphError: The name is taken.
        """
        ...

    def connect(self, source: str, target: str) -> None:
        """Add an edge between two steps, by name.

        Raises:
            GraphError: The edge exists, closes a cycle or names an unknown step.
        """
        ...

    def add_router(self, source: str, router: RoutingBatchFunction, targets: Sequence[str]) -> None:
        """Put a router between a step and some of its successors, which are connected already.

        Raises:
            GraphError: The step has another router.
        """
        ...


CURRENT_PIPELINE: ContextVar[PipelineLike | None] = ContextVar(
    "asyncdistil_current_pipeline", default=None
)
"""The pipeline whose ``with`` block is being run, if any."""


def snake_case(class_name: str) -> str:
    """Return the class name with every capital starting a word: ``URIAL`` is ``u_r_i_a_l``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", class_name).lower().strip("_")


def free_name(class_name: str, pipeline: PipelineLike | None) -> str:
    """Return the first of ``class_name_0``, ``class_name_1``, ... not taken in the pipeline."""
    stem = snake_case(class_name)
    number = 0
    while pipeline is not None and pipeline.has_step(f"{stem}_{number}"):
        number += 1
    return f"{stem}_{number}"
