"""Together AI's serverless models."""

import os
from typing import ClassVar

from pydantic import Field

from asyncdistil.models.llms.openai import OpenAILLM
from asyncdistil.models.parameters import Setting


class TogetherLLM(OpenAILLM):
    """Together AI's serverless models.

    The key is read from ``TOGETHER_API_KEY``, the URL from ``TOGETHER_BASE_URL`` unless given.
    """

    base_url: Setting[str] | None = Field(
        default_factory=lambda: os.environ.get("TOGETHER_BASE_URL", "https://api.together.xyz/v1"),
        description="Where the service is.",
    )

    provider: ClassVar[str] = "together"
    has_batches: ClassVar[bool] = False
    key_variable: ClassVar[str] = "TOGETHER_API_KEY"

    def _needs_key(self) -> bool:
        return True
