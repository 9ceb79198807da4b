"""Mistral's models, through Mistral's SDK."""

from types import ModuleType
from typing import Any, ClassVar

from asyncdistil.models import openai_replies, sdk
from asyncdistil.models.llms.openai import json_schema_format
from asyncdistil.models.llms.remote import Reading, Request
from asyncdistil.models.llms.through_sdk import SdkLLM, without_none
from asyncdistil.models.reply import Reply
from asyncdistil.models.typing import FormattedInput, GenerateOutput


class MistralLLM(SdkLLM):
    """A Mistral model; the key is read from ``MISTRAL_API_KEY`` unless given.

    distilabel's ``max_concurrent_requests`` is accepted for ``max_concurrency``.

    Attributes:
        model: Model id.
        endpoint: Where the service is.
    """

    endpoint: str = "https://api.mistral.ai"

    provider: ClassVar[str] = "mistral"
    key_variable: ClassVar[str] = "MISTRAL_API_KEY"
    package: ClassVar[str] = "mistralai"
    extra: ClassVar[str] = "mistral"

    def _service_url(self) -> str:
        return self.endpoint

    def _make_client(self, package: ModuleType, key: str) -> Any:
        # The class moved into a module of its own with version 2 of the SDK.
        if not hasattr(package, "Mistral"):
            package = sdk.require("mistralai.client", extra=self.extra, needed_by="MistralLLM")
        # Without a retry configuration the SDK does not retry.
        return package.Mistral(
            api_key=key,
            server_url=self.endpoint,
            timeout_ms=int(self.timeout_seconds * 1000),
        )

    async def agenerate(
        self,
        input: FormattedInput,
        num_generations: int = 1,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        random_seed: int | None = None,
    ) -> GenerateOutput:
        """Answer one input.

        Args:
            input: A conversation, with or without the structure that its answer must have.
            num_generations: Answers wanted; each is a request.
            max_new_tokens: Longest answer, in tokens.
            temperature: 0 to 1.5; at 0 equal requests share one answer.
            top_p: 0 to 1.
            random_seed: Makes a sample repeatable.
        """
        messages, structure = self._conversation(input)
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "max_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "random_seed": random_seed,
        }
        if structure is not None and structure.format == "json":
            body["response_format"] = json_schema_format(structure)
        request = Request("/v1/chat/completions", without_none(body), structure)
        return await self._answer(request, num_generations, temperature=temperature)

    async def _send(self, request: Request, count: int) -> list[Reply]:
        async with self._calling() as client:
            reply = await client.chat.complete_async(**request.body)
            body = reply.model_dump_json(by_alias=True).encode()
        return openai_replies.samples(body, service=self._service_name)

    def _read(self, reply: Reply) -> Reading:
        return Reading(openai_replies.text_of(reply.body))
