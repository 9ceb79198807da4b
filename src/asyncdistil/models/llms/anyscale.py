"""Anyscale's endpoints; the public service has closed, private ones remain."""

import os
from typing import ClassVar

from pydantic import Field

from asyncdistil.models.llms.openai import OpenAILLM
from asyncdistil.models.parameters import Setting


class AnyscaleLLM(OpenAILLM):
    """Anyscale's endpoints; the public service has closed, private ones remain.

    The key is read from ``ANYSCALE_API_KEY``, the URL from ``ANYSCALE_BASE_URL`` unless given.
    """

    base_url: Setting[str] | None = Field(
        default_factory=lambda: os.environ.get(
            "ANYSCALE_BASE_URL", "https://api.endpoints.anyscale.com/v1"
        ),
        description="Where the service is.",
    )

    provider: ClassVar[str] = "anyscale"
    has_batches: ClassVar[bool] = False
    key_variable: ClassVar[str] = "ANYSCALE_API_KEY"

    def _needs_key(self) -> bool:
        return True
