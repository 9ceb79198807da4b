"""What steps and models share: parameters that a run may set."""

from __future__ import annotations

from asyncdistil.mixins.runtime_parameters import (
    RUNTIME_PARAMETER,
    HasRuntimeParameters,
    RuntimeParameter,
    RuntimeParameterNames,
)

__all__ = [
    "RUNTIME_PARAMETER",
    "HasRuntimeParameters",
    "RuntimeParameter",
    "RuntimeParameterNames",
]
