"""Google's models, on Vertex AI or with a Gemini key, through Google's SDK."""

import os
from types import ModuleType
from typing import Any, ClassVar

import msgspec
from pydantic import Field

from asyncdistil.models import content, sdk
from asyncdistil.models.llms.remote import Reading, Request
from asyncdistil.models.llms.through_sdk import SdkLLM, decoded
from asyncdistil.models.parameters import Setting
from asyncdistil.models.reply import Outcome, Reply
from asyncdistil.models.typing import FormattedInput, GenerateOutput

_OUTCOMES: dict[str, Outcome] = {
    "MAX_TOKENS": "truncated",
    "SAFETY": "refused",
    "RECITATION": "refused",
    "BLOCKLIST": "refused",
    "PROHIBITED_CONTENT": "refused",
    "SPII": "refused",
}


class VertexAILLM(SdkLLM):
    """A Google model.

    Without a key the machine's own credentials are used, those that ``gcloud auth
    application-default login`` leaves.

    Attributes:
        model: Model id, such as ``gemini-2.5-flash``.
        project: Google Cloud project; from ``GOOGLE_CLOUD_PROJECT`` unless given.
        location: Region; from ``GOOGLE_CLOUD_LOCATION`` unless given.
        vertexai: Whether to ask Vertex AI; off: the Gemini API, which needs a key.
        base_url: Where the service is, if not at Google.
    """

    project: str | None = Field(default_factory=lambda: os.environ.get("GOOGLE_CLOUD_PROJECT"))
    location: str | None = Field(default_factory=lambda: os.environ.get("GOOGLE_CLOUD_LOCATION"))
    vertexai: bool = True
    base_url: Setting[str] | None = Field(default=None, description="Where the service is.")

    provider: ClassVar[str] = "google"
    key_variable: ClassVar[str] = "GOOGLE_API_KEY"
    package: ClassVar[str] = "google.genai"
    extra: ClassVar[str] = "google"

    def _service_url(self) -> str:
        if self.base_url is not None:
            return self.base_url
        if self.vertexai:
            return f"https://aiplatform.googleapis.com/{self.project or ''}"
        return "https://generativelanguage.googleapis.com"

    def _needs_key(self) -> bool:
        return not self.vertexai

    def _make_client(self, package: ModuleType, key: str) -> Any:
        types = sdk.require("google.genai.types", extra=self.extra, needed_by="VertexAILLM")
        options = types.HttpOptions(
            base_url=self.base_url,
            timeout=int(self.timeout_seconds * 1000),
            retry_options=types.HttpRetryOptions(attempts=1),
        )
        place = {} if key else {"project": self.project, "location": self.location}
        client = package.Client(
            vertexai=self.vertexai, api_key=key or None, http_options=options, **place
        )
        return client.aio

    async def agenerate(
        self,
        input: FormattedInput,
        num_generations: int = 1,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        max_output_tokens: int | None = None,
        stop_sequences: list[str] | None = None,
        safety_settings: dict[str, Any] | list[dict[str, Any]] | None = None,
        tools: list[dict[str, Any]] | None = None,
    ) -> GenerateOutput:
        """Answer one input.

        Args:
            input: A conversation, with or without the structure that its answer must have.
            num_generations: Answers wanted; each is a request.
            temperature: 0 to 2; at 0 equal requests share one answer.
            top_p: 0 to 1.
            top_k: Candidates per position.
            max_output_tokens: Longest answer, in tokens.
            stop_sequences: Texts that end an answer.
            safety_settings: Category to threshold, or a list of Google's own form.
            tools: Functions the model may call.
        """
        messages, structure = self._conversation(input)
        if isinstance(safety_settings, dict):
            pairs = safety_settings.items()
            safety_settings = [{"category": c, "threshold": t} for c, t in pairs]
        config: dict[str, Any] = {
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "max_output_tokens": max_output_tokens,
            "stop_sequences": stop_sequences,
            "safety_settings": safety_settings,
            "tools": tools,
        }
        if structure is not None and structure.format == "json":
            config["response_mime_type"] = "application/json"
            config["response_json_schema"] = dict(structure.schema)
        body = {
            "model": self.model,
            "messages": messages,
            "config": {name: value for name, value in config.items() if value is not None},
        }
        request = Request("generateContent", body, structure)
        return await self._answer(request, num_generations, temperature=temperature)

    async def _send(self, request: Request, count: int) -> list[Reply]:
        system, messages = content.without_system(request.body["messages"])
        config = dict(request.body["config"])
        if system:
            config["system_instruction"] = system
        async with self._calling() as client:
            got = await client.models.generate_content(
                model=self.model, contents=content.gemini_contents(messages), config=config
            )
            headers = getattr(got.sdk_http_response, "headers", None) or {}
            reply = got.model_dump(
                mode="json", exclude_none=True, exclude={"sdk_http_response", "parsed"}
            )
        usage = reply.get("usage_metadata") or {}
        candidates = reply.get("candidates") or [{}]
        outcome = _OUTCOMES.get(candidates[0].get("finish_reason") or "", "ok")
        if (reply.get("prompt_feedback") or {}).get("block_reason"):
            outcome = "refused"
        if outcome == "ok" and _text(reply) is None:
            outcome = "empty"
        return [
            Reply(
                outcome,
                msgspec.json.encode(reply),
                headers.get("server", "") or reply.get("model_version", ""),
                usage.get("prompt_token_count", 0),
                # Thoughts are paid for like answers.
                usage.get("candidates_token_count", 0) + usage.get("thoughts_token_count", 0),
            )
        ]

    def _read(self, reply: Reply) -> Reading:
        return Reading(_text(decoded(reply.body)))


def _text(reply: Any) -> str | None:
    candidates = reply.get("candidates") or [{}]
    parts = (candidates[0].get("content") or {}).get("parts") or ()
    # Thoughts are marked; they are no part of the answer.
    texts = [part["text"] for part in parts if part.get("text") and not part.get("thought")]
    return "".join(texts) if texts else None
