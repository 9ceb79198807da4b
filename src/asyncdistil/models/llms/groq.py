"""Groq's models."""

import os
from typing import ClassVar

from pydantic import Field, PrivateAttr

from asyncdistil.models.llms.openai import ChatCompletionsLLM
from asyncdistil.models.parameters import Setting
from asyncdistil.models.typing import FormattedInput, GenerateOutput


class GroqLLM(ChatCompletionsLLM):
    """Groq; the key is read from ``GROQ_API_KEY``, the URL from ``GROQ_BASE_URL`` unless given."""

    base_url: Setting[str] | None = Field(
        default_factory=lambda: os.environ.get("GROQ_BASE_URL", "https://api.groq.com/openai/v1"),
        description="Where the service is.",
    )

    provider: ClassVar[str] = "groq"
    key_variable: ClassVar[str] = "GROQ_API_KEY"

    # The service refuses n > 1.
    _several_per_request: bool = PrivateAttr(default=False)

    def _service_url(self) -> str:
        url = self.base_url or "https://api.groq.com/openai/v1"
        # distilabel's default, what the SDK takes, leaves the path to the client.
        return f"{url.rstrip('/')}/openai/v1" if url.rstrip("/").endswith("groq.com") else url

    async def agenerate(
        self,
        input: FormattedInput,
        num_generations: int = 1,
        seed: int | None = None,
        max_new_tokens: int = 128,
        temperature: float = 1.0,
        top_p: float = 1.0,
        stop: str | list[str] | None = None,
    ) -> GenerateOutput:
        """Answer one input.

        Args:
            input: A conversation, with or without the structure that its answer must have.
            num_generations: Answers wanted; each is a request.
            seed: Makes a sample repeatable, as far as the service can.
            max_new_tokens: Longest answer, in tokens.
            temperature: 0 to 2; at 0 equal requests share one answer.
            top_p: 0 to 1.
            stop: Texts that end an answer.
        """
        fields = {
            "max_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "stop": stop,
            "seed": seed,
        }
        request = self._request(input, fields)
        return await self._answer(request, num_generations, temperature=temperature)
