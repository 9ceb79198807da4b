"""What language, embedding and image models have in common, wherever they run."""

import inspect
import logging
from abc import ABC, abstractmethod
from copy import deepcopy
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from asyncdistil.mixins.runtime_parameters import (
    HasRuntimeParameters,
    RuntimeParameterNames,
)
from asyncdistil.models import identity, parameters
from asyncdistil.models.parameters import Setting


class Model(HasRuntimeParameters, ABC):
    """A model: it has a name and an identity, and is loaded before it is asked."""

    model_config = ConfigDict(
        arbitrary_types_allowed=True,
        protected_namespaces=(),
        validate_default=True,
        validate_assignment=True,
        extra="forbid",
        defer_build=True,
    )

    _noun: ClassVar[str] = "model"
    _logger: Any = PrivateAttr(None)

    # Inputs (of an embedding model: batches of texts) that may be in flight at once; 0: one call
    # after another, each with a whole batch.
    default_concurrency: ClassVar[int] = 0

    # Packages that are imported when the model is loaded or first asked, and start no thread: a
    # run imports them once, before it forks its workers.
    libraries: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def model_name(self) -> str:
        """Name shown in the ``model_name`` column."""

    @property
    def concurrency(self) -> int:
        """Inputs worth having in flight at once; 0 if a whole batch is one call."""
        return self.default_concurrency

    def prepare(self) -> None:
        """Load what is cheap and needed even if every answer is stored: a tokenizer, a template."""

    def load(self) -> None:
        """Make the model ready. A subclass that overrides this should call ``super().load()``."""
        self._logger = logging.getLogger(f"asyncdistil.models.{self.model_name}")
        self.prepare()

    def unload(self) -> None:
        """Give back what `load` took; safe to call without it, and twice."""

    def identity_fields(self) -> dict[str, Any]:
        """What makes this model the same model: goes into keys, so it never holds a secret."""
        return identity.identity_fields(self)


def fresh_attributes(kind: type[Model]) -> dict[str, Any]:
    """Private attributes of a model as they are when it is made: a pickled copy starts with them.

    Not by pydantic's own ``get_default``, whose newer versions call no factory.
    """
    return {
        name: deepcopy(attribute.default)
        if attribute.default_factory is None
        else attribute.default_factory()  # type: ignore[call-arg]
        for name, attribute in kind.__private_attributes__.items()
    }


class GeneratingModel(Model):
    """A model whose calls take parameters besides their input.

    Attributes:
        generation_kwargs: Arguments of ``generate`` (``agenerate``) used for every call.
    """

    generation_kwargs: Setting[dict[str, Any]] | None = Field(
        default_factory=dict,
        description="Arguments passed to `generate` or `agenerate` on every call.",
    )

    @model_validator(mode="after")
    def _check_generation_kwargs(self) -> Self:
        if self.generation_kwargs:
            checked = parameters.checked_kwargs(
                self._generation_function(), self.generation_kwargs, owner=type(self).__name__
            )
            if checked != self.generation_kwargs:
                # Not an ordinary assignment: that would validate again, without end.
                self.__dict__["generation_kwargs"] = checked
        return self

    @classmethod
    @abstractmethod
    def _generation_function(cls) -> Any:
        """The method whose parameters ``generation_kwargs`` holds."""

    def get_generation_kwargs(self) -> dict[str, Any]:
        """What a task passes to ``generate_outputs``."""
        return self.generation_kwargs or {}

    @property
    def generate_parameters(self) -> list[inspect.Parameter]:
        """Parameters that ``generation_kwargs`` may hold."""
        return parameters.generation_parameters(self._generation_function())

    @property
    def runtime_parameters_names(self) -> RuntimeParameterNames:
        """Fields a run may set, and the generation parameters below ``generation_kwargs``."""
        names = super().runtime_parameters_names
        names["generation_kwargs"] = parameters.parameter_names(self._generation_function())
        return names

    def get_runtime_parameters_info(self) -> list[dict[str, Any]]:
        """As the base does; ``generation_kwargs`` lists its arguments under ``keys``."""
        info = super().get_runtime_parameters_info()
        for entry in info:
            if entry["name"] == "generation_kwargs":
                names = parameters.parameter_names(self._generation_function())
                entry["keys"] = [{"name": n, "optional": optional} for n, optional in names.items()]
        return info
