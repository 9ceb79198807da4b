"""Anthropic's models, through Anthropic's SDK."""

import inspect
import os
from collections.abc import Mapping
from types import ModuleType
from typing import Any, ClassVar

from pydantic import AliasChoices, Field

from asyncdistil.models import content, offline
from asyncdistil.models.http import HttpClient
from asyncdistil.models.llms.batched import BatchedLLM
from asyncdistil.models.llms.remote import Reading, Request
from asyncdistil.models.llms.through_sdk import SdkLLM, decoded, without_none
from asyncdistil.models.parameters import Setting
from asyncdistil.models.reply import Outcome, Reply
from asyncdistil.models.typing import FormattedInput, GenerateOutput

_OUTCOMES: dict[str, Outcome] = {"max_tokens": "truncated", "refusal": "refused"}


class AnthropicLLM(BatchedLLM, SdkLLM):
    """A Claude model; the key is read from ``ANTHROPIC_API_KEY`` unless given.

    With ``use_offline_batch_generation=True`` it is asked through Message Batches, see
    `BatchedLLM`.

    Attributes:
        model: Model id.
        base_url: Where the service is.
        http_client: An ``httpx.AsyncClient`` of yours for the SDK to use.
    """

    base_url: Setting[str] | None = Field(
        default_factory=lambda: os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com"),
        description="Where the service is.",
    )
    timeout_seconds: Setting[float] = Field(
        default=600.0,
        gt=0,
        validation_alias=AliasChoices("timeout_seconds", "timeout"),
        description="Seconds for one try, counted from sending.",
    )
    http_client: Any = Field(default=None, exclude=True)

    provider: ClassVar[str] = "anthropic"
    key_variable: ClassVar[str] = "ANTHROPIC_API_KEY"
    package: ClassVar[str] = "anthropic"
    extra: ClassVar[str] = "anthropic"

    def _service_url(self) -> str:
        return self.base_url or "https://api.anthropic.com"

    def _make_client(self, package: ModuleType, key: str) -> Any:
        return package.AsyncAnthropic(
            api_key=key,
            base_url=self._service_url(),
            max_retries=0,
            timeout=self.timeout_seconds,
            http_client=self.http_client,
        )

    async def agenerate(
        self,
        input: FormattedInput,
        num_generations: int = 1,
        max_tokens: int = 128,
        stop_sequences: list[str] | None = None,
        temperature: float | None = 1.0,
        top_p: float | None = None,
        top_k: int | None = None,
    ) -> GenerateOutput:
        """Answer one input.

        Args:
            input: A conversation, with or without the structure that its answer must have.
            num_generations: Answers wanted; each is a request.
            max_tokens: Longest answer, in tokens.
            stop_sequences: Texts that end an answer.
            temperature: 0 to 1; at 0 equal requests share one answer.
            top_p: 0 to 1.
            top_k: Candidates per position.
        """
        messages, structure = self._conversation(input)
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "max_tokens": max_tokens,
            # 1 is what the service does unasked; newer models refuse the field.
            "temperature": None if temperature == 1.0 else temperature,
            "top_p": top_p,
            "top_k": top_k,
            "stop_sequences": stop_sequences,
        }
        if structure is not None and structure.format == "json":
            wanted = {"type": "json_schema", "schema": dict(structure.schema)}
            body["output_config"] = {"format": wanted}
        request = Request("/v1/messages", without_none(body), structure)
        return await self._answer(request, num_generations, temperature=temperature)

    async def _send(self, request: Request, count: int) -> list[Reply]:
        body = _params(request.body)
        async with self._calling() as client:
            known = inspect.signature(client.messages.create).parameters
            # Fields that this version of the SDK does not know (any more) still reach the service.
            unknown = {name: body.pop(name) for name in list(body) if name not in known}
            raw = await client.messages.with_raw_response.create(**body, extra_body=unknown)
            data = raw.http_response.content
        return [_reply(data, raw.headers.get("server", ""))]

    def _batch_service(self, client: HttpClient) -> "offline.BatchService":
        return offline.AnthropicBatches(
            client,
            self._call,
            params=_params,
            reply=_reply,
            timeout_seconds=self.timeout_seconds,
        )

    def _batch_headers(self, key: str) -> Mapping[str, str]:
        return {"x-api-key": key, "anthropic-version": "2023-06-01"}

    def _read(self, reply: Reply) -> Reading:
        return Reading(_text(decoded(reply.body)))


def _params(body: Mapping[str, Any]) -> dict[str, Any]:
    """A request as the service takes it."""
    system, messages = content.without_system(body["messages"])
    params: dict[str, Any] = {
        **body,
        "messages": [
            {**message, "content": content.anthropic_content(message.get("content"))}
            for message in messages
        ],
    }
    if system:
        params["system"] = system
    return params


def _reply(data: bytes, server: str) -> Reply:
    """A message as it is stored."""
    message = decoded(data)
    usage = message.get("usage") or {}
    outcome = _OUTCOMES.get(message.get("stop_reason") or "", "ok")
    if outcome == "ok" and _text(message) is None:
        outcome = "empty"
    return Reply(
        outcome,
        data,
        server or message.get("model", ""),
        usage.get("input_tokens", 0),
        usage.get("output_tokens", 0),
    )


def _text(reply: Any) -> str | None:
    parts = [part["text"] for part in reply.get("content") or () if part.get("type") == "text"]
    return "".join(parts) if parts else None
