"""Cohere's models, through Cohere's SDK."""

import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any, ClassVar

from pydantic import Field

from asyncdistil.models.llms.remote import Reading, Request
from asyncdistil.models.llms.through_sdk import SdkLLM, decoded, without_none
from asyncdistil.models.parameters import Setting
from asyncdistil.models.reply import Outcome, Reply
from asyncdistil.models.typing import FormattedInput, GenerateOutput

DEFAULT_URL = "https://api.cohere.com"
_OUTCOMES: dict[str, Outcome] = {"MAX_TOKENS": "truncated", "ERROR_TOXIC": "refused"}


class CohereLLM(SdkLLM):
    """A Cohere model; the key is read from ``COHERE_API_KEY`` unless given.

    Attributes:
        model: Model id.
        base_url: Where the service is; a version at its end is ignored.
        client_name: How requests name their sender.
    """

    base_url: Setting[str] | None = Field(
        default_factory=lambda: os.environ.get("COHERE_BASE_URL", DEFAULT_URL),
        description="Where the service is.",
    )
    client_name: Setting[str] = Field(
        default="asyncdistil", description="How requests name their sender."
    )

    provider: ClassVar[str] = "cohere"
    key_variable: ClassVar[str] = "COHERE_API_KEY"
    package: ClassVar[str] = "cohere"
    extra: ClassVar[str] = "cohere"

    def _service_url(self) -> str:
        return (self.base_url or DEFAULT_URL).rstrip("/").removesuffix("/v1")

    def _make_client(self, package: ModuleType, key: str) -> Any:
        return package.AsyncClientV2(
            api_key=key,
            base_url=self._service_url(),
            client_name=self.client_name,
            timeout=self.timeout_seconds,
        )

    async def agenerate(
        self,
        input: FormattedInput,
        num_generations: int = 1,
        temperature: float | None = None,
        max_tokens: int | None = None,
        k: int | None = None,
        p: float | None = None,
        seed: int | None = None,
        stop_sequences: Sequence[str] | None = None,
        frequency_penalty: float | None = None,
        presence_penalty: float | None = None,
        raw_prompting: bool | None = None,
    ) -> GenerateOutput:
        """Answer one input.

        Args:
            input: A conversation, with or without the structure that its answer must have.
            num_generations: Answers wanted; each is a request.
            temperature: 0 to 1; at 0 equal requests share one answer.
            max_tokens: Longest answer, in tokens.
            k: Candidates per position.
            p: 0.01 to 0.99.
            seed: Makes a sample repeatable.
            stop_sequences: Texts that end an answer, five at most.
            frequency_penalty: 0 to 1.
            presence_penalty: 0 to 1.
            raw_prompting: Whether the prompt goes to the model without Cohere's own template.
        """
        messages, structure = self._conversation(input)
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "temperature": temperature,
            "max_tokens": max_tokens,
            "k": k,
            "p": p,
            "seed": seed,
            "stop_sequences": list(stop_sequences) if stop_sequences else None,
            "frequency_penalty": frequency_penalty,
            "presence_penalty": presence_penalty,
            "raw_prompting": raw_prompting,
        }
        if structure is not None and structure.format == "json":
            schema = dict(structure.schema)
            body["response_format"] = {"type": "json_object", "schema": schema}
        request = Request("/v2/chat", without_none(body), structure)
        return await self._answer(request, num_generations, temperature=temperature)

    async def _send(self, request: Request, count: int) -> list[Reply]:
        body = dict(request.body)
        options: dict[str, Any] = {"max_retries": 0}
        if "raw_prompting" in body:
            options["additional_body_parameters"] = {"raw_prompting": body.pop("raw_prompting")}
        async with self._calling() as client:
            raw = await client.with_raw_response.chat(**body, request_options=options)
            data = raw.data.model_dump_json(by_alias=True).encode()
        reply = decoded(data)
        tokens = (reply.get("usage") or {}).get("tokens") or {}
        outcome = _OUTCOMES.get(reply.get("finish_reason") or "", "ok")
        if outcome == "ok" and _text(reply) is None:
            outcome = "empty"
        return [
            Reply(
                outcome,
                data,
                raw.headers.get("server", ""),
                int(tokens.get("input_tokens") or 0),
                int(tokens.get("output_tokens") or 0),
            )
        ]

    def _read(self, reply: Reply) -> Reading:
        return Reading(_text(decoded(reply.body)))


def _text(reply: Any) -> str | None:
    parts = (reply.get("message") or {}).get("content") or ()
    texts = [part["text"] for part in parts if part.get("type") == "text"]
    return "".join(texts) if texts else None
