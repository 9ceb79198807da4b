"""The contract of a language model: what a task may ask of one, and what a user's own must offer.

A model written for distilabel works unchanged: subclass `AsyncLLM` and write ``agenerate`` for one
input, or subclass `LLM` and write ``generate`` for a batch. What is added here is that one failed
request never costs its neighbours: it becomes ``None`` with a `Failure` beside it.
"""

import asyncio
import functools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, PrivateAttr

from asyncdistil.errors import ModelReplyError, ParameterError
from asyncdistil.models import loop
from asyncdistil.models.model import GeneratingModel
from asyncdistil.models.output import FATAL, checked_output, failed_output, merge_outputs
from asyncdistil.models.parameters import Setting
from asyncdistil.models.typing import FormattedInput, GenerateOutput, HiddenState, StandardInput


class LLM(GeneratingModel):
    """A language model that answers a batch of inputs in one call.

    Attributes:
        generation_kwargs: Arguments of ``generate`` (``agenerate``) used for every call.
        use_offline_batch_generation: Ask a provider's batch service instead; the class must
            write ``offline_batch_generate``.
        offline_batch_generation_block_until_done: Poll every so many seconds instead of stopping.
        jobs_ids: Provider's ids of batch jobs that were sent before.
    """

    use_offline_batch_generation: Setting[bool] | None = Field(
        default=False, description="Whether to use the provider's batch service."
    )
    offline_batch_generation_block_until_done: Setting[int] | None = Field(
        default=None, description="Seconds between polls; not set: stop, and go on in a rerun."
    )
    jobs_ids: tuple[str, ...] | None = Field(default=None)

    @abstractmethod
    def generate(self, *args: Any, **kwargs: Any) -> list[GenerateOutput]:
        """Answer a batch: write it as ``generate(self, inputs, num_generations=1, ...)``.

        Args:
            args: See below; spelled so that a subclass may name the parameters it takes.
            kwargs: ``inputs``, conversations as a task formatted them; ``num_generations``,
                answers wanted per input; generation parameters.

        Returns:
            One output per input, in order.
        """

    def generate_outputs(
        self, inputs: list[FormattedInput], num_generations: int = 1, **kwargs: Any
    ) -> list[GenerateOutput]:
        """Answer a batch; an input that fails gets ``None`` and a `Failure`, not an exception.

        Raises:
            ModelAuthError: The service refuses the key.
            ModelRateLimited: The service refuses for longer than we may wait.
            ParameterError: The batch service is asked for and this class has none.
        """
        if self.use_offline_batch_generation:
            return self.offline_batch_generate(
                inputs=inputs, num_generations=num_generations, jobs_ids=self.jobs_ids, **kwargs
            )
        return self._generate_guarded(inputs, num_generations, kwargs)

    async def agenerate_outputs(
        self, inputs: list[FormattedInput], num_generations: int = 1, **kwargs: Any
    ) -> list[GenerateOutput]:
        """As `generate_outputs`, without holding up the running loop."""
        return await asyncio.to_thread(
            functools.partial(self.generate_outputs, inputs, num_generations, **kwargs)
        )

    def _generate_guarded(
        self, inputs: list[FormattedInput], num_generations: int, kwargs: Mapping[str, Any]
    ) -> list[GenerateOutput]:
        """Call ``generate``; if it raises, ask for each input alone to find the culprit."""
        try:
            outputs = self.generate(inputs, num_generations=num_generations, **kwargs)
            if len(outputs) != len(inputs):
                raise ModelReplyError(
                    f"model {self.model_name!r} returned {len(outputs)} outputs for"
                    f" {len(inputs)} inputs: `generate` must return one per input, in order"
                )
            return [checked_output(output, model=self.model_name) for output in outputs]
        except FATAL:
            raise
        except Exception as error:
            if len(inputs) == 1:
                return [failed_output(error, num_generations)]
        return [self._generate_guarded([i], num_generations, kwargs)[0] for i in inputs]

    def get_last_hidden_states(self, inputs: list[StandardInput]) -> list[HiddenState]:
        """Last hidden states, for models that run in this process.

        Raises:
            ParameterError: This model has no hidden states to show.
        """
        raise ParameterError(f"{type(self).__name__} can't give hidden states: use TransformersLLM")

    def offline_batch_generate(
        self,
        inputs: list[FormattedInput] | None = None,
        num_generations: int = 1,
        **kwargs: Any,
    ) -> list[GenerateOutput]:
        """Answer through a provider's batch service.

        Raises:
            ParameterError: This class has no batch service.
        """
        raise ParameterError(
            f"{type(self).__name__} has no offline batch generation: leave"
            " `use_offline_batch_generation` off"
        )

    @classmethod
    def _generation_function(cls) -> Any:
        return cls.generate


class AsyncLLM(LLM):
    """A language model that answers one input per call, many calls at a time.

    Write ``agenerate``. A class whose service can't give several answers to one request sets
    ``_num_generations_param_supported = False``: it is then called ``num_generations`` times, and
    its ``agenerate`` need not have that parameter.
    """

    _num_generations_param_supported: bool = PrivateAttr(default=True)

    default_concurrency: ClassVar[int] = 64

    @abstractmethod
    async def agenerate(self, *args: Any, **kwargs: Any) -> GenerateOutput:
        """Answer one input: write it as ``agenerate(self, input, num_generations=1, ...)``.

        Args:
            args: See below; spelled so that a subclass may name the parameters it takes.
            kwargs: ``input``, a conversation as a task formatted it; ``num_generations``, answers
                wanted; generation parameters.
        """

    @classmethod
    def _generation_function(cls) -> Any:
        return cls.agenerate

    def generate(
        self, inputs: list[FormattedInput], num_generations: int = 1, **kwargs: Any
    ) -> list[GenerateOutput]:
        """Answer a batch from synchronous code, its inputs at the same time."""
        return loop.run(self._agenerate_all(inputs, num_generations, kwargs))

    async def agenerate_outputs(
        self, inputs: list[FormattedInput], num_generations: int = 1, **kwargs: Any
    ) -> list[GenerateOutput]:
        """As `generate_outputs`, on the running loop: this is what a worker calls."""
        if self.use_offline_batch_generation:
            return await super().agenerate_outputs(inputs, num_generations, **kwargs)
        return await self._agenerate_all(inputs, num_generations, kwargs)

    async def _agenerate_all(
        self, inputs: Sequence[FormattedInput], num_generations: int, kwargs: Mapping[str, Any]
    ) -> list[GenerateOutput]:
        if len(inputs) == 1:
            return [await self._agenerate_guarded(inputs[0], num_generations, kwargs)]
        tasks = [
            asyncio.ensure_future(self._agenerate_guarded(item, num_generations, kwargs))
            for item in inputs
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            # After a fatal error nobody wants the others, and each of them costs money.
            for task in tasks:
                task.cancel()

    async def _agenerate_guarded(
        self, item: FormattedInput, num_generations: int, kwargs: Mapping[str, Any]
    ) -> GenerateOutput:
        """All generations of one input; fails as an output, not as an exception."""
        if self._num_generations_param_supported:
            return await self._agenerate_once(item, {"num_generations": num_generations, **kwargs})
        outputs = await asyncio.gather(
            *(self._agenerate_once(item, kwargs) for _ in range(num_generations))
        )
        return merge_outputs(outputs)

    async def _agenerate_once(
        self, item: FormattedInput, kwargs: Mapping[str, Any]
    ) -> GenerateOutput:
        try:
            output = await self.agenerate(item, **kwargs)
            return checked_output(output, model=self.model_name)
        except FATAL:
            raise
        except Exception as error:
            return failed_output(error, kwargs.get("num_generations", 1))
