"""Models served by vLLM: by a server that runs already, or by one that this process starts."""

from typing import Any, ClassVar, Literal, Self

import msgspec
from pydantic import Field, PositiveInt, PrivateAttr, model_validator

from asyncdistil.errors import ParameterError
from asyncdistil.models import loop
from asyncdistil.models.llms.openai import ChatCompletionsLLM
from asyncdistil.models.llms.remote import Request
from asyncdistil.models.magpie import MagpieChatTemplate
from asyncdistil.models.parameters import Setting
from asyncdistil.models.reply import Reply
from asyncdistil.models.served import ModelServerProcess
from asyncdistil.models.structured import Structure
from asyncdistil.models.tokenizing import TemplateAlone, as_prompt, load_tokenizer
from asyncdistil.models.typing import FormattedInput, GenerateOutput

_LIST_SECONDS = 30.0


class VLLMDialect(ChatCompletionsLLM, MagpieChatTemplate):
    """What vLLM's server knows beyond OpenAI's dialect.

    Attributes:
        tokenizer: Hub id of the tokenizer, for Magpie; the model's unless given.
        tokenizer_revision: Of the tokenizer.
        chat_template: Replaces the tokenizer's own; for Magpie. One that needs no special tokens
            makes the tokenizer superfluous.
    """

    tokenizer: str | None = None
    tokenizer_revision: str | None = None
    chat_template: str | None = None

    provider: ClassVar[str] = "vllm"
    key_variable: ClassVar[str] = "VLLM_API_KEY"

    _tokenizer: Any = PrivateAttr(None)

    def prepare(self) -> None:
        """Load the tokenizer, if Magpie needs it and the chat template does not say all."""
        if not self.use_magpie_template or self._tokenizer is not None:
            return
        if self.chat_template and not self.tokenizer and TemplateAlone.suffices(self.chat_template):
            self._tokenizer = TemplateAlone(self.chat_template)
        else:
            self._tokenizer = load_tokenizer(
                self.tokenizer or self.model_name,
                revision=self.tokenizer_revision,
                needed_by=f"{type(self).__name__} with Magpie",
            )

    def _needs_key(self) -> bool:
        return False

    def _structure_fields(self, structure: Structure | None) -> dict[str, Any]:
        if structure is not None and structure.format == "regex":
            return {"structured_outputs": {"regex": structure.pattern}}
        return super()._structure_fields(structure)

    def _ask(self, input: FormattedInput, fields: dict[str, Any]) -> Request:
        """A chat request, or raw text if Magpie must stop the template short."""
        if not self.use_magpie_template:
            return self._request(input, {"chat_template": self.chat_template, **fields})
        messages, structure = self._split(input)
        body = {name: value for name, value in fields.items() if value is not None}
        if "logprobs" in body:  # a number, on this route
            body["logprobs"] = body.pop("top_logprobs", 1)
        prompt = as_prompt(self._tokenizer, messages, self, chat_template=self.chat_template)
        body.update(model=self.model_name, prompt=prompt, **self._structure_fields(structure))
        return Request("/completions", body, structure)


class ClientvLLM(VLLMDialect):
    """A vLLM server that runs already.

    Attributes:
        model: Name the server gives the model; asked for when loading if left empty.
        base_url: Where it is, ``/v1`` included.
    """

    model: str = ""

    _served_name: str = PrivateAttr("")

    @property
    def model_name(self) -> str:
        """Name that the server gives the model; empty until loaded if it was not given."""
        return self.model or self._served_name

    def load(self) -> None:
        """Make ready, and ask the server for its model if none was named."""
        self._connect()
        if not self.model_name:
            self._served_name = loop.run(self._first_model())
        super().load()

    async def _first_model(self) -> str:
        assert self._client is not None
        body = await self._client.get("/models", timeout_seconds=_LIST_SECONDS)
        try:
            return str(msgspec.json.decode(body)["data"][0]["id"])
        except (msgspec.DecodeError, KeyError, IndexError, TypeError):
            raise ParameterError(
                f"the server at {self._client.service} lists no model: pass `model`"
            ) from None

    def _service_url(self) -> str:
        if not self.base_url:
            raise ParameterError("ClientvLLM needs the server's URL: pass `base_url`")
        return self.base_url

    async def agenerate(
        self,
        input: FormattedInput,
        num_generations: int = 1,
        max_new_tokens: int = 128,
        frequency_penalty: float = 0.0,
        logit_bias: dict[str, int] | None = None,
        presence_penalty: float = 0.0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: str | list[str] | None = None,
        extra_body: dict[str, Any] | None = None,
    ) -> GenerateOutput:
        """Answer one input.

        Args:
            input: A conversation, with or without the structure that its answer must have.
            num_generations: Answers wanted; one request asks for all of them.
            max_new_tokens: Longest answer, in tokens.
            frequency_penalty: -2 to 2.
            logit_bias: Token id to bias.
            presence_penalty: -2 to 2.
            temperature: At 0 equal requests share one answer.
            top_p: 0 to 1.
            seed: Makes a sample repeatable.
            stop: Texts that end an answer.
            extra_body: Further fields of the request, such as ``top_k`` or ``min_p``.
        """
        fields = {
            "max_tokens": max_new_tokens,
            "frequency_penalty": frequency_penalty or None,
            "logit_bias": logit_bias,
            "presence_penalty": presence_penalty or None,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
            "stop": stop,
            **(extra_body or {}),
        }
        request = self._ask(input, fields)
        return await self._answer(request, num_generations, temperature=temperature)


class vLLM(VLLMDialect):
    """A model run by a vLLM server that this process starts, at the first answer not yet stored.

    The server listens on the loopback and dies with this process. A run whose answers are all
    stored never starts it.

    Attributes:
        model: Hub id or directory.
        dtype: Of the weights.
        trust_remote_code: Whether code from the model's repository may run.
        quantization: Method; read from the model's configuration unless given.
        revision: Branch, tag or commit of the model.
        tokenizer_mode: ``auto`` or ``slow``.
        skip_tokenizer_init: Accepted for compatibility; must stay off: the server needs it.
        seed: Of the engine.
        extra_kwargs: Further options of the engine, as the server's flags spell them, with
            underscores: ``{"tensor_parallel_size": 2}``.
        start_seconds: Longest time in which the server must be ready.
    """

    dtype: str = "auto"
    trust_remote_code: bool = False
    quantization: str | None = None
    revision: str | None = None
    tokenizer_mode: Literal["auto", "slow"] = "auto"
    skip_tokenizer_init: bool = False
    seed: int = 0
    extra_kwargs: Setting[dict[str, Any]] | None = Field(
        default_factory=dict, description="Further options of the engine."
    )
    start_seconds: float = 1800.0

    _server: ModelServerProcess | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _own_server(self) -> Self:
        if self.base_url is not None:
            raise ValueError("vLLM starts a server of its own: use ClientvLLM for one that runs")
        if self.skip_tokenizer_init:
            raise ValueError("skip_tokenizer_init=True can't work: conversations need a tokenizer")
        return self

    def __getstate__(self) -> dict[Any, Any]:
        """State without the server: a copy in another process starts its own."""
        state = super().__getstate__()
        return {**state, "__pydantic_private__": {**state["__pydantic_private__"], "_server": None}}

    def _service_url(self) -> str:
        return self._server.url if self._server is not None else "local://vllm"

    def _request_identity(self) -> dict[str, Any]:
        """Where the weights run does not matter; which they are does."""
        if self.model_identity is not None:
            return super()._request_identity()
        names = ("revision", "quantization", "dtype", "tokenizer", "chat_template", "seed")
        return {"provider": self.provider, **{name: getattr(self, name) for name in names}}

    def load(self) -> None:
        """Make ready; the server starts when the first answer is asked of it."""
        self._server = ModelServerProcess(self._command, start_seconds=self.start_seconds)
        super().load()

    def unload(self) -> None:
        """Stop the server."""
        super().unload()
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    def _command(self, port: int) -> list[str]:
        options = {
            "model": self.model,
            "served_model_name": self.model,
            "host": "127.0.0.1",
            "port": port,
            "dtype": self.dtype,
            "quantization": self.quantization,
            "revision": self.revision,
            "tokenizer": self.tokenizer,
            "tokenizer_mode": self.tokenizer_mode,
            "tokenizer_revision": self.tokenizer_revision,
            "seed": self.seed,
            "trust_remote_code": self.trust_remote_code,
            **(self.extra_kwargs or {}),
        }
        return ["-m", "vllm.entrypoints.openai.api_server", *_flags(options)]

    async def _send(self, request: Request, count: int) -> list[Reply]:
        assert self._server is not None
        await self._server.ready()
        return await super()._send(request, count)

    async def agenerate(
        self,
        input: FormattedInput,
        num_generations: int = 1,
        max_new_tokens: int = 128,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repetition_penalty: float = 1.0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = -1,
        min_p: float = 0.0,
        logprobs: PositiveInt | None = None,
        stop: list[str] | None = None,
        stop_token_ids: list[int] | None = None,
        include_stop_str_in_output: bool = False,
        skip_special_tokens: bool = True,
        extra_sampling_params: dict[str, Any] | None = None,
        echo: bool = False,
    ) -> GenerateOutput:
        """Answer one input.

        Args:
            input: A conversation, with or without the structure that its answer must have.
            num_generations: Answers wanted; one request asks for all of them.
            max_new_tokens: Longest answer, in tokens.
            presence_penalty: -2 to 2.
            frequency_penalty: -2 to 2.
            repetition_penalty: Above 1 discourages.
            temperature: At 0 equal requests share one answer.
            top_p: 0 to 1.
            top_k: -1 for all.
            min_p: 0 to 1.
            logprobs: Candidates per position to return log probabilities for.
            stop: Texts that end an answer.
            stop_token_ids: Tokens that end an answer.
            include_stop_str_in_output: Whether the answer keeps the text that ended it.
            skip_special_tokens: Whether special tokens are left out of the answer.
            extra_sampling_params: Further fields of the request.
            echo: Whether the answer begins with the prompt.
        """
        fields = {
            "max_tokens": max_new_tokens,
            "presence_penalty": presence_penalty or None,
            "frequency_penalty": frequency_penalty or None,
            "repetition_penalty": repetition_penalty if repetition_penalty != 1.0 else None,
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k if top_k > 0 else None,
            "min_p": min_p or None,
            "logprobs": True if logprobs else None,
            "top_logprobs": logprobs,
            "stop": stop,
            "stop_token_ids": stop_token_ids,
            "include_stop_str_in_output": include_stop_str_in_output or None,
            "skip_special_tokens": None if skip_special_tokens else False,
            "echo": echo or None,
            **(extra_sampling_params or {}),
        }
        return await self._answer(
            self._ask(input, fields), num_generations, temperature=temperature
        )


def _flags(options: dict[str, Any]) -> list[str]:
    """Options as command-line flags; what is ``None`` or off is left out."""
    flags: list[str] = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is None or value is False:
            continue
        if value is True:
            flags.append(flag)
        elif isinstance(value, dict | list):
            flags += [flag, msgspec.json.encode(value).decode()]
        else:
            flags += [flag, str(value)]
    return flags
