"""asyncdistil: pipelines of synthetic data whose finished work is never lost.

The names of the front door are loaded when they are first asked for, so that importing the
package costs next to nothing: a worker process does it for every step.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from asyncdistil.compat.hooks import install as _install

if TYPE_CHECKING:
    from asyncdistil.cli.progress import show_progress
    from asyncdistil.distiset import Distiset
    from asyncdistil.errors import AsyncDistilError
    from asyncdistil.mixins import RuntimeParameter
    from asyncdistil.pipeline import Pipeline, RunOptions
    from asyncdistil.steps import (
        GeneratorStep,
        GlobalStep,
        LoadDataFromDicts,
        RowStep,
        Step,
        StepResources,
        routing_batch_function,
        sample_n_steps,
    )
    from asyncdistil.steps.decorator import step
    from asyncdistil.typing import GeneratorStepOutput, StepColumns, StepInput, StepOutput

__version__ = "0.1.0"

_HOMES = {
    "AsyncDistilError": "asyncdistil.errors",
    "Distiset": "asyncdistil.distiset",
    "GeneratorStep": "asyncdistil.steps",
    "GeneratorStepOutput": "asyncdistil.typing",
    "GlobalStep": "asyncdistil.steps",
    "LoadDataFromDicts": "asyncdistil.steps",
    "Pipeline": "asyncdistil.pipeline",
    "RowStep": "asyncdistil.steps",
    "RunOptions": "asyncdistil.pipeline",
    "RuntimeParameter": "asyncdistil.mixins",
    "Step": "asyncdistil.steps",
    "StepColumns": "asyncdistil.typing",
    "StepInput": "asyncdistil.typing",
    "StepOutput": "asyncdistil.typing",
    "StepResources": "asyncdistil.steps",
    "routing_batch_function": "asyncdistil.steps",
    "sample_n_steps": "asyncdistil.steps",
    "show_progress": "asyncdistil.cli.progress",
    "step": "asyncdistil.steps.decorator",
}

__all__ = [
    "AsyncDistilError",
    "Distiset",
    "GeneratorStep",
    "GeneratorStepOutput",
    "GlobalStep",
    "LoadDataFromDicts",
    "Pipeline",
    "RowStep",
    "RunOptions",
    "RuntimeParameter",
    "Step",
    "StepColumns",
    "StepInput",
    "StepOutput",
    "StepResources",
    "__version__",
    "routing_batch_function",
    "sample_n_steps",
    "show_progress",
    "step",
]


# Import paths of distilabel that have no module here; it costs two small objects.
_install()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
