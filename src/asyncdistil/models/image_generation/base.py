"""The contract of a model that makes images from text."""

import asyncio
import functools
import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from asyncdistil.mixins.runtime_parameters import (
    HasRuntimeParameters,
    RuntimeParameterNames,
)
from asyncdistil.models import identity, loop, parameters
from asyncdistil.models.output import FATAL, failure_of
from asyncdistil.models.parameters import Setting


class ImageGenerationModel(HasRuntimeParameters, ABC):
    """A model that makes images for a batch of prompts in one call.

    An output is ``{"images": [text or None, ...]}``: per generation a base64 text or a URL. A
    prompt that failed has ``None`` there and a `Failure` under ``failures``.

    Attributes:
        generation_kwargs: Arguments of ``generate`` (``agenerate``) used for every call.
    """

    model_config = ConfigDict(
        arbitrary_types_allowed=True,
        protected_namespaces=(),
        validate_default=True,
        validate_assignment=True,
        extra="forbid",
    )

    generation_kwargs: Setting[dict[str, Any]] | None = Field(
        default_factory=dict,
        description="Arguments passed to `generate` or `agenerate` on every call.",
    )

    _logger: Any = PrivateAttr(None)

    default_concurrency: ClassVar[int] = 0

    @model_validator(mode="after")
    def _check_generation_kwargs(self) -> Self:
        if self.generation_kwargs:
            # Not an ordinary assignment: that would validate again, without end.
            self.__dict__["generation_kwargs"] = parameters.checked_kwargs(
                self._generation_function(), self.generation_kwargs, owner=type(self).__name__
            )
        return self

    @property
    @abstractmethod
    def model_name(self) -> str:
        """Name shown in the ``model_name`` column."""

    @property
    def concurrency(self) -> int:
        """Prompts worth having in flight at once; 0 if a whole batch is one call."""
        return self.default_concurrency

    def prepare(self) -> None:
        """Load what is cheap and needed even if every image is stored."""

    def load(self) -> None:
        """Make the model ready. A subclass that overrides this should call ``super().load()``."""
        self._logger = logging.getLogger(f"asyncdistil.models.{self.model_name}")
        self.prepare()

    def unload(self) -> None:
        """Give back what `load` took; safe to call without it, and twice."""

    def get_generation_kwargs(self) -> dict[str, Any]:
        """What a task passes to `generate_outputs`."""
        return self.generation_kwargs or {}

    def identity_fields(self) -> dict[str, Any]:
        """What makes this model the same model: goes into keys, so it never holds a secret."""
        return identity.identity_fields(self)

    @abstractmethod
    def generate(self, *args: Any, **kwargs: Any) -> list[list[dict[str, Any]]]:
        """Make images for a batch: write it as ``generate(self, inputs, num_generations=1, ...)``.

        Returns:
            Per prompt a list of ``{"images": [...]}``, together ``num_generations`` images.
        """

    def generate_outputs(
        self, inputs: list[str], num_generations: int = 1, **kwargs: Any
    ) -> list[list[dict[str, Any]]]:
        """As `generate`, but a prompt that fails gets ``None`` and a `Failure`."""
        try:
            return self.generate(inputs, num_generations=num_generations, **kwargs)
        except FATAL:
            raise
        except Exception as error:
            if len(inputs) == 1:
                return [failed_images(error, num_generations)]
        return [self.generate_outputs([i], num_generations, **kwargs)[0] for i in inputs]

    async def agenerate_outputs(
        self, inputs: list[str], num_generations: int = 1, **kwargs: Any
    ) -> list[list[dict[str, Any]]]:
        """As `generate_outputs`, without holding up the running loop."""
        return await asyncio.to_thread(
            functools.partial(self.generate_outputs, inputs, num_generations, **kwargs)
        )

    @classmethod
    def _generation_function(cls) -> Any:
        return cls.generate

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


class AsyncImageGenerationModel(ImageGenerationModel):
    """A model that makes images for one prompt per call, many calls at a time."""

    default_concurrency: ClassVar[int] = 16

    @abstractmethod
    async def agenerate(self, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """Make images for one prompt: a list of ``{"images": [...]}``.

        Write it as ``agenerate(self, input, num_generations=1, ...)``.
        """

    @classmethod
    def _generation_function(cls) -> Any:
        return cls.agenerate

    def generate(
        self, inputs: list[str], num_generations: int = 1, **kwargs: Any
    ) -> list[list[dict[str, Any]]]:
        """Make images for a batch from synchronous code, all prompts at the same time."""
        return loop.run(self._agenerate_all(inputs, num_generations, kwargs))

    async def agenerate_outputs(
        self, inputs: list[str], num_generations: int = 1, **kwargs: Any
    ) -> list[list[dict[str, Any]]]:
        """As `generate_outputs`, on the running loop."""
        return await self._agenerate_all(inputs, num_generations, kwargs)

    async def _agenerate_all(
        self, inputs: Sequence[str], num_generations: int, kwargs: Mapping[str, Any]
    ) -> list[list[dict[str, Any]]]:
        tasks = [
            asyncio.ensure_future(self._agenerate_guarded(prompt, num_generations, kwargs))
            for prompt in inputs
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            # After a fatal error nobody wants the others, and each of them costs money.
            for task in tasks:
                task.cancel()

    async def _agenerate_guarded(
        self, prompt: str, num_generations: int, kwargs: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        try:
            return await self.agenerate(prompt, num_generations=num_generations, **kwargs)
        except FATAL:
            raise
        except Exception as error:
            return failed_images(error, num_generations)


def failed_images(error: BaseException, num_generations: int) -> list[dict[str, Any]]:
    """The output of a prompt for which no image could be made."""
    return [{"images": [None] * num_generations, "failures": [failure_of(error)] * num_generations}]
