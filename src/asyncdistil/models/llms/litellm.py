"""Any provider that LiteLLM knows, through LiteLLM."""

import os
from types import ModuleType
from typing import Any, ClassVar

from pydantic import Field, PrivateAttr

from asyncdistil.models import openai_replies
from asyncdistil.models.llms.openai import json_schema_format
from asyncdistil.models.llms.remote import Reading, Request
from asyncdistil.models.llms.through_sdk import SdkLLM
from asyncdistil.models.parameters import Setting
from asyncdistil.models.reply import Reply
from asyncdistil.models.typing import FormattedInput, GenerateOutput

_SHAPING = (
    "functions",
    "function_call",
    "temperature",
    "top_p",
    "stop",
    "max_tokens",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "api_base",
    "api_version",
    "mock_response",
    "custom_llm_provider",
    "drop_params",
)
"""Parameters of ``agenerate`` that can change an answer; sent under their own names."""


class LiteLLM(SdkLLM):
    """A model by LiteLLM's name for it, such as ``anthropic/claude-3-5-haiku-latest``.

    Keys are read by LiteLLM from each provider's environment variable unless ``api_key`` is given;
    it is a field, not a generation parameter, so that it can't end up in a key of the cache.

    Attributes:
        model: LiteLLM's name of provider and model.
        base_url: Where the service is, if not where LiteLLM knows it.
        verbose: Whether LiteLLM logs what it does; its logs may hold prompts.
    """

    base_url: Setting[str] | None = Field(default=None, description="Where the service is.")
    verbose: Setting[bool] = Field(default=False, description="Whether LiteLLM logs.")

    provider: ClassVar[str] = "litellm"
    package: ClassVar[str] = "litellm"
    extra: ClassVar[str] = "litellm"

    _several_per_request: bool = PrivateAttr(default=True)

    def _service_url(self) -> str:
        return self.base_url or f"litellm://{self.model.partition('/')[0]}"

    def _needs_key(self) -> bool:
        return False

    def _connect(self) -> None:
        # Its price list is otherwise fetched from the network by the import.
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        super()._connect()

    def _make_client(self, package: ModuleType, key: str) -> Any:
        litellm: Any = package
        litellm.telemetry = False
        litellm.suppress_debug_info = not self.verbose
        if self.verbose:
            litellm._turn_on_debug()
        return litellm

    async def agenerate(
        self,
        input: FormattedInput,
        num_generations: int = 1,
        functions: list[dict[str, Any]] | None = None,
        function_call: str | None = None,
        temperature: float | None = 1.0,
        top_p: float | None = 1.0,
        stop: str | list[str] | None = None,
        max_tokens: int | None = None,
        presence_penalty: float | None = None,
        frequency_penalty: float | None = None,
        logit_bias: dict[str, float] | None = None,
        user: str | None = None,
        metadata: dict[str, Any] | None = None,
        api_base: str | None = None,
        api_version: str | None = None,
        mock_response: str | None = None,
        custom_llm_provider: str | None = None,
        drop_params: bool | None = None,
    ) -> GenerateOutput:
        """Answer one input.

        Args:
            input: A conversation, with or without the structure that its answer must have.
            num_generations: Answers wanted; one request asks for all of them.
            functions: Functions the model may call.
            function_call: Which of them it should.
            temperature: At 0 equal requests share one answer.
            top_p: 0 to 1.
            stop: Texts that end an answer.
            max_tokens: Longest answer, in tokens.
            presence_penalty: -2 to 2.
            frequency_penalty: -2 to 2.
            logit_bias: Token to bias.
            user: Name of an end user, for the provider's abuse checks; changes no answer.
            metadata: For LiteLLM's logs; changes no answer.
            api_base: Where the service is; the field ``base_url`` is the better place.
            api_version: Version of the provider's API.
            mock_response: Answered without asking anyone.
            custom_llm_provider: Provider, if the model's name does not tell it.
            drop_params: Whether parameters that the provider does not know are left out.
        """
        asked = dict(locals())
        messages, structure = self._conversation(input)
        body: dict[str, Any] = {"model": self.model, "messages": messages}
        body.update((name, asked[name]) for name in _SHAPING if asked[name] is not None)
        if structure is not None and structure.format == "json":
            body["response_format"] = json_schema_format(structure)
        unkeyed = {name: asked[name] for name in ("user", "metadata") if asked[name] is not None}
        request = Request("acompletion", body, structure, unkeyed)
        return await self._answer(request, num_generations, temperature=temperature)

    async def _send(self, request: Request, count: int) -> list[Reply]:
        options: dict[str, Any] = {
            "num_retries": 0,
            "max_retries": 0,
            "timeout": self.timeout_seconds,
        }
        if count > 1:
            options["n"] = count
        if self._secret:
            options["api_key"] = self._secret
        if self.base_url is not None and "api_base" not in request.body:
            options["api_base"] = self.base_url
        async with self._calling() as litellm:
            got = await litellm.acompletion(**request.body, **request.unkeyed, **options)
            body = got.model_dump_json().encode()
        return openai_replies.samples(body, service=self._service_name)

    def _read(self, reply: Reply) -> Reading:
        return Reading(openai_replies.text_of(reply.body))
