"""Models served by Ollama, through its own dialect."""

import os
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import msgspec
from pydantic import AliasChoices, Field, PrivateAttr, model_validator

from asyncdistil.errors import ModelReplyError
from asyncdistil.models.http import as_json
from asyncdistil.models.llms.remote import Reading, RemoteLLM, Request
from asyncdistil.models.magpie import MagpieChatTemplate
from asyncdistil.models.parameters import Setting
from asyncdistil.models.reply import Outcome, Reply
from asyncdistil.models.retry import RequestFailed, unreadable
from asyncdistil.models.structured import Structure
from asyncdistil.models.tokenizing import as_prompt, load_tokenizer
from asyncdistil.models.typing import FormattedInput, GenerateOutput

DEFAULT_HOST = "http://localhost:11434"


class _Message(msgspec.Struct):
    content: str | None = None


class _OllamaReply(msgspec.Struct):
    """What is read of a reply of ``/api/chat`` or ``/api/generate``."""

    message: _Message | None = None
    response: str | None = None
    done_reason: str | None = None
    model: str = ""
    prompt_eval_count: int = 0
    eval_count: int = 0
    error: str | None = None

    @property
    def text(self) -> str | None:
        """The answer."""
        return self.message.content if self.message is not None else self.response


_decoder = msgspec.json.Decoder(_OllamaReply)


class OllamaLLM(RemoteLLM, MagpieChatTemplate):
    """A model served by Ollama.

    Attributes:
        model: Name and tag, such as ``llama3:8b``.
        host: Where Ollama listens; ``OLLAMA_HOST`` or port 11434 on this machine unless given.
        follow_redirects: Accepted for compatibility; redirects are followed as long as they stay at
            the service.
        tokenizer_id: Hub id of the tokenizer; needed for Magpie only.
    """

    model: str
    host: Setting[str] | None = Field(
        default_factory=lambda: os.environ.get("OLLAMA_HOST"), description="Where Ollama listens."
    )
    follow_redirects: bool = True
    tokenizer_id: Setting[str] | None = Field(
        default=None, description="Hub id or directory of the tokenizer, for Magpie."
    )
    max_concurrency: Setting[int] = Field(
        default=8,
        ge=1,
        validation_alias=AliasChoices("max_concurrency", "max_concurrent_requests"),
        description="Most requests in flight; Ollama works on few at a time.",
    )

    provider: ClassVar[str] = "ollama"

    _tokenizer: Any = PrivateAttr(None)

    @model_validator(mode="after")
    def _need_tokenizer(self) -> Self:
        if self.use_magpie_template and not self.tokenizer_id:
            raise ValueError("use_magpie_template=True needs `tokenizer_id`")
        return self

    @property
    def model_name(self) -> str:
        """Name and tag."""
        return self.model

    def prepare(self) -> None:
        """Load the tokenizer, if Magpie needs it."""
        if self.use_magpie_template and self._tokenizer is None and self.tokenizer_id:
            self._tokenizer = load_tokenizer(self.tokenizer_id, needed_by="OllamaLLM with Magpie")

    def _service_url(self) -> str:
        host = self.host or DEFAULT_HOST
        return host if "://" in host else f"http://{host}"

    def _needs_key(self) -> bool:
        return False

    async def agenerate(
        self,
        input: FormattedInput,
        num_generations: int = 1,
        format: Literal["", "json"] | dict[str, Any] = "",
        options: dict[str, Any] | None = None,
        keep_alive: bool | str | float | None = None,
    ) -> GenerateOutput:
        """Answer one input.

        Args:
            input: A conversation, with or without the structure that its answer must have.
            num_generations: Answers wanted; each is a request.
            format: ``json``, or a JSON schema; `structured_output` is the better way.
            options: Ollama's options: ``num_predict``, ``temperature``, ``seed`` and others.
            keep_alive: How long the model stays loaded afterwards; changes no answer.
        """
        messages, structure = self._split(input)
        # Sorted, because their order means nothing and must not make another key.
        options = dict(sorted((options or {}).items()))
        body: dict[str, Any] = {"model": self.model, "options": options}
        if isinstance(messages, str) or self.use_magpie_template:
            path = "/api/generate"
            body |= {"prompt": as_prompt(self._tokenizer, messages, self), "raw": True}
        else:
            path = "/api/chat"
            body["messages"] = messages
        if wanted := self._format(structure) or format:
            body["format"] = wanted
        unkeyed = {} if keep_alive is None else {"keep_alive": keep_alive}
        request = Request(path, body, structure, unkeyed)
        return await self._answer(request, num_generations, temperature=options.get("temperature"))

    @staticmethod
    def _format(structure: Structure | None) -> Mapping[str, Any] | None:
        return structure.schema if structure is not None and structure.format == "json" else None

    async def _send(self, request: Request, count: int) -> list[Reply]:
        client = self._client
        assert client is not None
        body = {**request.body, **request.unkeyed, "stream": False}
        got = await client.post(request.path, as_json(body), timeout_seconds=self.timeout_seconds)
        try:
            reply = _decoder.decode(got.body)
        except msgspec.DecodeError as error:
            text = got.body[: 16 * 1024].decode("utf-8", "replace")
            raise RequestFailed(
                unreadable(f"{client.service}: the reply can't be read: {error}", detail=text)
            ) from None
        outcome: Outcome = "ok" if reply.text else "empty"
        if reply.done_reason == "length":
            outcome = "truncated"
        reported = got.headers.get("Server", "") or reply.model
        return [Reply(outcome, got.body, reported, reply.prompt_eval_count, reply.eval_count)]

    def _read(self, reply: Reply) -> Reading:
        try:
            return Reading(_decoder.decode(reply.body).text)
        except msgspec.DecodeError as error:
            raise ModelReplyError(f"a stored reply can't be read: {error}") from None
