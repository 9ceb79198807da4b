"""How many workers a step gets, and what each of them may use."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field, PositiveInt

from asyncdistil.mixins import RUNTIME_PARAMETER, HasRuntimeParameters, RuntimeParameter


class StepResources(HasRuntimeParameters):
    """Resources of a step. Operational: changing them never makes a step run again."""

    model_config = ConfigDict(
        defer_build=True, extra="forbid", validate_assignment=True, validate_default=True
    )

    replicas: Annotated[PositiveInt, RUNTIME_PARAMETER] = Field(
        default=1,
        description="Worker processes of the step. Generators and global steps have one.",
    )
    cpus: RuntimeParameter[float] = Field(
        default=None, description="CPUs of each replica, where a scheduler hands them out."
    )
    gpus: RuntimeParameter[float] = Field(
        default=None, description="GPUs of each replica; on one machine, CUDA devices to claim."
    )
    memory: RuntimeParameter[int] = Field(
        default=None,
        description="Bytes that a replica may use; a global step checks its input against it.",
    )
    resources: RuntimeParameter[dict[str, Any]] = Field(
        default=None, description="Custom resources of each replica, name to amount."
    )

    @property
    def runtime_parameters_names(self) -> dict[str, Any]:
        """Names of the parameters; all of them are optional here."""
        return dict.fromkeys(type(self).model_fields, True)
