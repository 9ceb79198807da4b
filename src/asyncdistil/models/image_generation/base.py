"""The contract of a model that makes images from text."""

import asyncio
import functools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from asyncdistil.models import loop
from asyncdistil.models.model import GeneratingModel
from asyncdistil.models.output import FATAL, failure_of


class ImageGenerationModel(GeneratingModel):
    """A model that makes images for a batch of prompts in one call.

    An output is ``{"images": [text or None, ...]}``: per generation a base64 text or a URL. A
    prompt that failed has ``None`` there and a `Failure` under ``failures``.
    """

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
