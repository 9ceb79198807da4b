"""Models served by Hugging Face: by its router, a dedicated endpoint, or a TGI of your own."""

from typing import Annotated, Any, ClassVar, Self

import msgspec
from pydantic import Field, PositiveInt, PrivateAttr, model_validator

from asyncdistil.errors import ModelReplyError, ParameterError
from asyncdistil.models import openai_replies
from asyncdistil.models.http import as_json
from asyncdistil.models.llms.openai import CHAT_PATH, json_schema_format
from asyncdistil.models.llms.remote import Reading, RemoteLLM, Request
from asyncdistil.models.magpie import MagpieChatTemplate
from asyncdistil.models.parameters import Setting
from asyncdistil.models.reply import Outcome, Reply
from asyncdistil.models.retry import RequestFailed, unreadable
from asyncdistil.models.structured import Structure
from asyncdistil.models.tokenizing import as_prompt, load_tokenizer
from asyncdistil.models.typing import FormattedInput, GenerateOutput, StandardInput

ROUTER_URL = "https://router.huggingface.co"
GENERATE_PATH = "/generate"

Penalty = Annotated[float, Field(ge=-2.0, le=2.0)]


class _Details(msgspec.Struct):
    finish_reason: str = ""
    generated_tokens: int = 0
    prefill: list[Any] = []


class _Generated(msgspec.Struct):
    generated_text: str | None = None
    details: _Details | None = None


_decoder = msgspec.json.Decoder(_Generated | list[_Generated])

_SHARED = ("frequency_penalty", "seed", "top_p", "temperature")
_CHAT_FIELDS = {
    **{name: name for name in _SHARED},
    "max_tokens": "max_new_tokens",
    "stop": "stop_sequences",
    **{
        name: name
        for name in (
            "logit_bias",
            "logprobs",
            "presence_penalty",
            "tool_choice",
            "tool_prompt",
            "tools",
            "top_logprobs",
        )
    },
}
"""Field of a chat request to the parameter that it carries."""
_RAW_FIELDS = {
    **{name: name for name in _SHARED},
    "stop": "stop_sequences",
    **{
        name: name
        for name in (
            "max_new_tokens",
            "do_sample",
            "repetition_penalty",
            "return_full_text",
            "top_k",
            "top_n_tokens",
            "typical_p",
            "watermark",
        )
    },
}
"""Parameter of a raw request to the parameter that it carries."""


class InferenceEndpointsLLM(RemoteLLM, MagpieChatTemplate):
    """A model served by Hugging Face, or by Text Generation Inference anywhere.

    Say where it is by exactly one of ``model_id``, ``endpoint_name`` and ``base_url``.

    Attributes:
        model_id: Hub id, asked through Hugging Face's router.
        endpoint_name: Name of a dedicated endpoint.
        endpoint_namespace: Account that owns it; yours unless given.
        base_url: URL of a server that runs Text Generation Inference.
        tokenizer_id: Hub id of the tokenizer; with it prompts are sent as raw text, as Magpie and
            models without a chat route need.
        model_display_name: Shown in the ``model_name`` column.
    """

    model_id: str | None = None
    endpoint_name: Setting[str] | None = Field(default=None, description="A dedicated endpoint.")
    endpoint_namespace: Setting[str] | None = Field(
        default=None, description="Account that owns the endpoint."
    )
    base_url: Setting[str] | None = Field(default=None, description="Where the server is.")
    tokenizer_id: str | None = None
    model_display_name: str | None = None

    provider: ClassVar[str] = "huggingface"
    key_variable: ClassVar[str] = "HF_TOKEN"

    _tokenizer: Any = PrivateAttr(None)
    _endpoint_url: str | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.use_magpie_template and self.tokenizer_id is None:
            raise ValueError("use_magpie_template=True needs `tokenizer_id`")
        given = [
            name
            for name in ("model_id", "endpoint_name", "base_url")
            if getattr(self, name) is not None
        ]
        # distilabel's users give a base URL together with the id of what runs there.
        if given not in (["model_id"], ["endpoint_name"], ["base_url"], ["model_id", "base_url"]):
            raise ValueError(
                "say where the model is by one of `model_id`, `endpoint_name` and `base_url`"
                f" (given: {', '.join(given) or 'none'})"
            )
        return self

    @property
    def model_name(self) -> str:
        """Display name, hub id, endpoint or URL as given: the first that is known."""
        known = (self.model_display_name, self.model_id, self.endpoint_name, self.base_url)
        return next(filter(None, known), self._service_url())

    @property
    def _at_router(self) -> bool:
        return self.base_url is None and self.endpoint_name is None

    def prepare(self) -> None:
        """Load the tokenizer, if prompts are sent as raw text."""
        if self.tokenizer_id is not None and self._tokenizer is None:
            self._tokenizer = load_tokenizer(
                self.tokenizer_id, needed_by="InferenceEndpointsLLM with a tokenizer_id"
            )

    def load(self) -> None:
        """Find the endpoint and make ready to send."""
        if self.endpoint_name is not None and self._endpoint_url is None:
            self._endpoint_url = self._find_endpoint(self.endpoint_name)
        super().load()

    def _find_endpoint(self, name: str) -> str:
        import huggingface_hub

        try:
            found = huggingface_hub.get_inference_endpoint(
                name, namespace=self.endpoint_namespace, token=self._key() or None
            )
        except huggingface_hub.errors.HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else "no answer"
            raise ParameterError(
                f"the inference endpoint {name!r} can't be found (status {status}): check"
                " `endpoint_name`, `endpoint_namespace` and the token"
            ) from None
        if found.status != "running" or found.url is None:
            raise ParameterError(
                f"the inference endpoint {name!r} is {found.status}: start it and run again"
            )
        return str(found.url)

    def _service_url(self) -> str:
        if self.base_url is not None:
            # distilabel's users often give the chat route itself.
            return self.base_url.rstrip("/").removesuffix(CHAT_PATH).removesuffix("/v1")
        if self.endpoint_name is not None:
            owner = self.endpoint_namespace or "-"
            # The URL is known only once it is loaded; the identity must not depend on that.
            return self._endpoint_url or f"endpoint://{owner}/{self.endpoint_name}"
        return ROUTER_URL

    def _request_identity(self) -> dict[str, Any]:
        identity = super()._request_identity()
        if self.endpoint_name is not None and self.model_identity is None:
            identity["url"] = f"endpoint://{self.endpoint_namespace or '-'}/{self.endpoint_name}"
        return identity

    def _needs_key(self) -> bool:
        return self.base_url is None

    async def agenerate(
        self,
        input: FormattedInput,
        num_generations: int = 1,
        max_new_tokens: int = 128,
        frequency_penalty: Penalty | None = None,
        logit_bias: list[float] | None = None,
        logprobs: bool = False,
        presence_penalty: Penalty | None = None,
        seed: int | None = None,
        stop_sequences: list[str] | None = None,
        temperature: float = 1.0,
        tool_choice: dict[str, str] | str | None = None,
        tool_prompt: str | None = None,
        tools: list[dict[str, Any]] | None = None,
        top_logprobs: PositiveInt | None = None,
        top_n_tokens: PositiveInt | None = None,
        top_p: float | None = None,
        do_sample: bool = False,
        repetition_penalty: float | None = None,
        return_full_text: bool = False,
        top_k: int | None = None,
        typical_p: float | None = None,
        watermark: bool = False,
    ) -> GenerateOutput:
        """Answer one input.

        Args:
            input: A conversation, with or without the structure that its answer must have.
            num_generations: Answers wanted; each is a request.
            max_new_tokens: Longest answer, in tokens.
            frequency_penalty: -2 to 2.
            logit_bias: Chat route only.
            logprobs: Whether to return log probabilities; chat route only.
            presence_penalty: -2 to 2; chat route only.
            seed: Makes a sample repeatable.
            stop_sequences: Texts that end an answer, four at most.
            temperature: At 0 equal requests share one answer.
            tool_choice: Chat route only.
            tool_prompt: Chat route only.
            tools: Chat route only.
            top_logprobs: Candidates per position; chat route only.
            top_n_tokens: Raw text only.
            top_p: 0 to 1.
            do_sample: Raw text only.
            repetition_penalty: Raw text only.
            return_full_text: Whether the answer begins with the prompt; raw text only.
            top_k: Raw text only.
            typical_p: Raw text only.
            watermark: Raw text only.
        """
        asked = dict(locals())
        messages, structure = self._split(input)
        if self.tokenizer_id is not None or isinstance(messages, str):
            request = self._raw_request(messages, structure, asked)
        else:
            request = self._chat_request(messages, structure, asked)
        return await self._answer(request, num_generations, temperature=temperature)

    def _raw_request(
        self, messages: StandardInput | str, structure: Structure | None, asked: dict[str, Any]
    ) -> Request:
        settings = _given({field: asked[name] for field, name in _RAW_FIELDS.items()})
        settings |= _given({"grammar": self._grammar(structure)})
        if not settings.get("temperature"):
            # The server refuses 0; without sampling it is greedy anyway.
            settings.pop("temperature", None)
        prompt = as_prompt(self._tokenizer, messages, self)
        body = {"inputs": prompt, "parameters": {**settings, "details": True}}
        return Request(GENERATE_PATH, body, structure)

    def _chat_request(
        self, messages: StandardInput, structure: Structure | None, asked: dict[str, Any]
    ) -> Request:
        fields = {field: asked[name] for field, name in _CHAT_FIELDS.items()}
        if not asked["logprobs"]:
            fields["top_logprobs"] = None
        fields["response_format"] = self._response_format(structure)
        body = {"model": self.model_id or "tgi", "messages": messages, **_given(fields)}
        return Request(f"/v1{CHAT_PATH}", body, structure)

    def _response_format(self, structure: Structure | None) -> dict[str, Any] | None:
        if structure is None:
            return None
        if self._at_router:
            return json_schema_format(structure) if structure.format == "json" else None
        grammar = self._grammar(structure)
        return {**grammar, "type": "json_object"} if structure.format == "json" else grammar

    @staticmethod
    def _grammar(structure: Structure | None) -> dict[str, Any]:
        if structure is None:
            return {}
        if structure.format == "json":
            return {"type": "json", "value": dict(structure.schema)}
        return {"type": "regex", "value": structure.pattern}

    async def _send(self, request: Request, count: int) -> list[Reply]:
        client = self._client
        assert client is not None
        got = await client.post(
            request.path, as_json(request.body), timeout_seconds=self.timeout_seconds
        )
        if request.path != GENERATE_PATH:
            return openai_replies.samples(got.body, service=client.service)
        try:
            reply = _generated(got.body)
        except ModelReplyError as error:
            text = got.body[: 16 * 1024].decode("utf-8", "replace")
            raise RequestFailed(unreadable(f"{client.service}: {error}", detail=text)) from None
        details = reply.details or _Details()
        outcome: Outcome = "ok" if reply.generated_text else "empty"
        if details.finish_reason == "length":
            outcome = "truncated"
        tokens = (len(details.prefill), details.generated_tokens)
        return [Reply(outcome, got.body, got.headers.get("Server", ""), *tokens)]

    def _read(self, reply: Reply) -> Reading:
        if b'"choices"' in reply.body:
            text = openai_replies.text_of(reply.body)
            return Reading(text, openai_replies.logprobs_of(reply.body))
        return Reading(_generated(reply.body).generated_text)


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields that say something: what is ``None``, off or empty is left to the service."""
    return {
        name: value
        for name, value in fields.items()
        if value is not None and value is not False and value != {}
    }


def _generated(body: bytes) -> _Generated:
    found: _Generated | list[_Generated]
    try:
        found = _decoder.decode(body)
    except msgspec.DecodeError as error:
        raise ModelReplyError(f"the reply can't be read: {error}") from None
    if isinstance(found, list):
        if not found:
            raise ModelReplyError("the reply is an empty list")
        return found[0]
    return found
