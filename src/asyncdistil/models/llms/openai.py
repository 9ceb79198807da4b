"""OpenAI's chat completions, and every service that speaks that dialect."""

import math
import os
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt, PrivateAttr

from asyncdistil.models import offline, openai_replies
from asyncdistil.models.http import HttpClient, as_json
from asyncdistil.models.llms.batched import BatchedLLM
from asyncdistil.models.llms.remote import Reading, RemoteLLM, Request
from asyncdistil.models.openai_replies import StreamedReply
from asyncdistil.models.parameters import Setting
from asyncdistil.models.reply import Reply
from asyncdistil.models.structured import Structure
from asyncdistil.models.typing import FormattedInput, GenerateOutput

OPENAI_URL = "https://api.openai.com/v1"
CHAT_PATH = "/chat/completions"


class ChatCompletionsLLM(RemoteLLM):
    """A service that speaks OpenAI's chat completions.

    Attributes:
        model: Model id, as the service knows it.
        base_url: Where the service is, version included.
        default_headers: Sent with every request besides the key.
        stream: Whether to have answers streamed: a stalled answer is then noticed by its silence.
    """

    model: str
    base_url: Setting[str] | None = Field(default=None, description="Where the service is.")
    default_headers: Setting[dict[str, str]] | None = Field(
        default=None, description="Headers sent with every request."
    )
    stream: bool = False

    _several_per_request: bool = PrivateAttr(default=True)

    @property
    def model_name(self) -> str:
        """The model id."""
        return self.model

    def _service_url(self) -> str:
        return self.base_url or OPENAI_URL

    def _longest_try_seconds(self) -> float:
        return math.inf if self.stream else super()._longest_try_seconds()

    def _headers(self, key: str) -> Mapping[str, str]:
        return {**super()._headers(key), **(self.default_headers or {})}

    def _structure_fields(self, structure: Structure | None) -> dict[str, Any]:
        """How this service is asked for a structure."""
        if structure is None or structure.format != "json":
            return {}  # OpenAI knows no regular expressions: the answer is checked all the same
        return {"response_format": json_schema_format(structure)}

    def _request(
        self,
        given: FormattedInput,
        fields: Mapping[str, Any],
        extra_body: Mapping[str, Any] | None = None,
    ) -> Request:
        """Build a request; fields that are ``None`` are left to the service."""
        messages, structure = self._split(given)
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        body: dict[str, Any] = {"model": self.model_name, "messages": messages}
        body.update((name, value) for name, value in fields.items() if value is not None)
        body.update(self._structure_fields(structure))
        body.update(extra_body or {})
        return Request(self._chat_path(), body, structure)

    def _chat_path(self) -> str:
        return CHAT_PATH

    async def _send(self, request: Request, count: int) -> list[Reply]:
        client = self._client
        assert client is not None
        body = {**request.body, **request.unkeyed}
        if count > 1:
            body["n"] = count
        if not self.stream:
            reply = await client.post(
                request.path, as_json(body), timeout_seconds=self.timeout_seconds
            )
            return openai_replies.samples(reply.body, service=client.service)
        body.update(stream=True, stream_options={"include_usage": True})
        streamed = StreamedReply(service=client.service)
        rest = await client.stream(
            request.path,
            as_json(body),
            streamed.on_event,
            timeout_seconds=self.timeout_seconds,
        )
        # Some services ignore the wish to stream and send the reply whole; some a web page.
        whole = rest.body if rest.body[:1] in {b"{", b"<"} else streamed.whole()
        return openai_replies.samples(whole, service=client.service)

    def _read(self, reply: Reply) -> Reading:
        text = openai_replies.text_of(reply.body)
        # The decoding is worth it only if log probabilities are there.
        has_logprobs = b'"logprobs":{' in reply.body.replace(b'"logprobs": {', b'"logprobs":{')
        return Reading(text, openai_replies.logprobs_of(reply.body) if has_logprobs else None)


def json_schema_format(structure: Structure) -> dict[str, Any]:
    """``response_format`` for a JSON schema; strict where the schema allows it."""
    return {
        "type": "json_schema",
        "json_schema": {
            "name": structure.name,
            "schema": structure.schema,
            "strict": structure.strict,
        },
    }


class OpenAILLM(BatchedLLM, ChatCompletionsLLM):
    """OpenAI, or any service that speaks its dialect (``base_url=``).

    The key is read from ``OPENAI_API_KEY``, the URL from ``OPENAI_BASE_URL`` unless given. A
    service elsewhere than at OpenAI needs no key.

    With ``use_offline_batch_generation=True`` it is asked through batches, see `BatchedLLM`.

    Example:
        >>> from asyncdistil.testing.model_server import ModelServer
        >>> with ModelServer() as server:
        ...     llm = OpenAILLM(model="stand-in", base_url=server.url)
        ...     llm.load()
        ...     [output] = llm.generate_outputs([[{"role": "user", "content": "Say hello"}]])
        ...     llm.unload()
        >>> output["generations"][0].startswith("Say hello")
        True
    """

    base_url: Setting[str] | None = Field(
        default_factory=lambda: os.environ.get("OPENAI_BASE_URL", OPENAI_URL),
        description="Where the service is.",
    )

    provider: ClassVar[str] = "openai"
    key_variable: ClassVar[str] = "OPENAI_API_KEY"

    def _needs_key(self) -> bool:
        return self._service_url().startswith(OPENAI_URL)

    async def agenerate(
        self,
        input: FormattedInput,
        num_generations: int = 1,
        max_new_tokens: NonNegativeInt = 128,
        logprobs: bool = False,
        top_logprobs: PositiveInt | None = None,
        echo: bool = False,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        stop: str | list[str] | None = None,
        seed: int | None = None,
        response_format: dict[str, Any] | None = None,
        extra_body: dict[str, Any] | None = None,
    ) -> GenerateOutput:
        """Answer one input.

        Args:
            input: A conversation, with or without the structure that its answer must have.
            num_generations: Answers wanted; one request asks for all of them.
            max_new_tokens: Longest answer, in tokens.
            logprobs: Whether to return log probabilities.
            top_logprobs: Candidates per position, with ``logprobs``.
            echo: Whether the answer begins with the prompt; only vLLM's server knows it.
            frequency_penalty: -2 to 2.
            presence_penalty: -2 to 2.
            temperature: 0 to 2; at 0 equal requests share one answer.
            top_p: 0 to 1.
            stop: Texts that end an answer, four at most.
            seed: For services that can repeat a sample.
            response_format: As the service takes it; `structured_output` is the better way.
            extra_body: Further fields of the request, as they are.
        """
        request = self._request(
            input,
            {
                self._length_field(): max_new_tokens,
                "logprobs": logprobs or None,
                "top_logprobs": top_logprobs if logprobs else None,
                "echo": echo or None,
                "frequency_penalty": frequency_penalty or None,
                "presence_penalty": presence_penalty or None,
                "temperature": temperature,
                "top_p": top_p,
                "stop": stop,
                "seed": seed,
                "response_format": response_format,
            },
            extra_body,
        )
        return await self._answer(request, num_generations, temperature=temperature)

    def _batch_service(self, client: HttpClient) -> "offline.BatchService":
        return offline.OpenAIBatches(client, self._call, timeout_seconds=self.timeout_seconds)

    def _length_field(self) -> str:
        """OpenAI renamed the field; the services that follow it know the older name."""
        at_openai = self._service_url().startswith(OPENAI_URL)
        return "max_completion_tokens" if at_openai else "max_tokens"
