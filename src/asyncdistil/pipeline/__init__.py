"""The pipeline room: declare steps and connections, check them, run them.

Its names are loaded when they are first asked for: importing the room costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncdistil.pipeline.options import Budget, RunOptions
    from asyncdistil.pipeline.packages import requirements
    from asyncdistil.pipeline.pipeline import Pipeline
    from asyncdistil.pipeline.planning import PreparedRun, build_plan
    from asyncdistil.pipeline.templates import InstructionResponsePipeline
    from asyncdistil.steps.routing import (
        RoutingBatchFunction,
        routing_batch_function,
        sample_n_steps,
    )

_HOMES = {
    "Budget": "asyncdistil.pipeline.options",
    "InstructionResponsePipeline": "asyncdistil.pipeline.templates",
    "Pipeline": "asyncdistil.pipeline.pipeline",
    "PreparedRun": "asyncdistil.pipeline.planning",
    "RoutingBatchFunction": "asyncdistil.steps.routing",
    "RunOptions": "asyncdistil.pipeline.options",
    "build_plan": "asyncdistil.pipeline.planning",
    "requirements": "asyncdistil.pipeline.packages",
    "routing_batch_function": "asyncdistil.steps.routing",
    "sample_n_steps": "asyncdistil.steps.routing",
}

__all__ = [
    "Budget",
    "InstructionResponsePipeline",
    "Pipeline",
    "PreparedRun",
    "RoutingBatchFunction",
    "RunOptions",
    "build_plan",
    "requirements",
    "routing_batch_function",
    "sample_n_steps",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
