"""A language model whose service also answers batches of requests, within a day."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import PrivateAttr

from asyncdistil.errors import ParameterError
from asyncdistil.models import loop, memoized, offline
from asyncdistil.models.http import HttpClient
from asyncdistil.models.identity import public_url
from asyncdistil.models.llms.remote import RemoteLLM
from asyncdistil.models.typing import FormattedInput, GenerateOutput


class BatchedLLM(RemoteLLM):
    """A language model that can be asked through batches.

    With ``use_offline_batch_generation=True`` a task's questions go out as batches: at half the
    list price, answered within a day. The run stops with `BatchesPending` until they are, and the
    next run fetches the answers; with ``offline_batch_generation_block_until_done=60`` it waits,
    looking every 60 seconds. Whatever happens in between, nothing is submitted twice.
    """

    # Whether the service has batches; a subclass for another service says so.
    has_batches: ClassVar[bool] = True
    batch_share_of_price: ClassVar[float] = 0.5

    # Made by the first batch, because only who asks for batches imports what makes them.
    _journal: "offline.ModelJournal | None" = PrivateAttr(None)

    @abstractmethod
    def _batch_service(self, client: HttpClient) -> "offline.BatchService":
        """The service's batches, asked by a client for long replies."""

    def offline_batch_generate(
        self,
        inputs: list[FormattedInput] | None = None,
        num_generations: int = 1,
        **kwargs: Any,
    ) -> list[GenerateOutput]:
        """Answer inputs through batches.

        Args:
            inputs: As `agenerate` takes them.
            num_generations: Answers wanted per input.
            kwargs: Generation parameters; ``jobs_ids``, ids of batches submitted elsewhere.

        Raises:
            BatchesPending: The service is not done, and the model is not to wait for it.
            RunStopped: The service refuses the batch, or the run can't go on for another reason.
            ParameterError: This service has no batches.
        """
        if not self.has_batches:
            return super().offline_batch_generate(inputs, num_generations, **kwargs)
        if self._endpoint is None:
            raise ParameterError(f"{type(self).__name__} is not loaded: call `load()` first")
        jobs_ids = tuple(kwargs.pop("jobs_ids", None) or ())
        return loop.run(self._through_batches(inputs or [], num_generations, kwargs, jobs_ids))

    async def _through_batches(
        self,
        inputs: Sequence[FormattedInput],
        num_generations: int,
        kwargs: Mapping[str, Any],
        jobs_ids: Sequence[str],
    ) -> list[GenerateOutput]:
        gathering = offline.Gathering(self._memoized.reported)
        if self._journal is None:
            self._journal = offline.ModelJournal()
        twin = self.model_copy()
        twin._memoized = gathering
        key, url = self._key(), self._service_url()
        client = HttpClient(
            url,
            headers=self._batch_headers(key),
            secrets=[key],
            max_reply_bytes=offline.MAX_OUTPUT_BYTES,
        )
        try:
            desk = offline.Desk(
                self._batch_service(client),
                offline.journal_around(self._journal),
                memoized.current_store(),
                offline.Habits.around(
                    service=f"{self.provider} {public_url(url)}",
                    poll_seconds=self.offline_batch_generation_block_until_done,
                    priced=lambda replies, request: self._priced(
                        replies, request, share=self.batch_share_of_price
                    ),
                    place=gathering.place,
                ),
            )
            await desk.adopt(jobs_ids)
            return await gathering.hold(
                desk,
                [twin._agenerate_guarded(item, num_generations, kwargs) for item in inputs],
            )
        finally:
            client.close()

    def _batch_headers(self, key: str) -> Mapping[str, str]:
        """Headers of the batch service; may hold secrets."""
        return self._headers(key)
