"""Types that distilabel's scripts name in annotations; nothing here looks at them."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, TypedDict, TypeVar

DownstreamConnectable: TypeAlias = Any
"""A step, or a router, that can stand on the right of ``>>``."""

DownstreamConnectableSteps = TypeVar("DownstreamConnectableSteps")
"""Steps that can stand on the right of ``>>``."""

UpstreamConnectableSteps = TypeVar("UpstreamConnectableSteps")
"""Steps that can stand on the left of ``>>``."""

InputDataset: TypeAlias = Any
"""What ``Pipeline.run(dataset=...)`` takes: a ``Dataset``, a ``DataFrame``, a list of dicts."""

PipelineRuntimeParametersInfo: TypeAlias = dict[str, Any]
"""What `asyncdistil.pipeline.Pipeline.get_runtime_parameters_info` returns."""


class StepLoadStatus(TypedDict):
    """Whether a step could be loaded."""

    name: str
    status: Literal["loaded", "unloaded", "load_failed"]


class TokenCount(TypedDict):
    """Tokens of the generations for one input."""

    input_tokens: list[int]
    output_tokens: list[int]
