"""OpenAI's models on Azure."""

import os
from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import quote

from pydantic import Field

from asyncdistil.errors import ParameterError
from asyncdistil.models import offline
from asyncdistil.models.http import HttpClient
from asyncdistil.models.llms.openai import OpenAILLM
from asyncdistil.models.parameters import Setting


class AzureOpenAILLM(OpenAILLM):
    """A deployment on Azure; ``model`` is the name of the deployment.

    With ``use_offline_batch_generation=True`` the deployment must be one for batches: of the type
    Global Batch or Data Zone Batch.

    Attributes:
        base_url: The resource's endpoint, from ``AZURE_OPENAI_ENDPOINT`` unless given.
        api_version: From ``OPENAI_API_VERSION`` unless given.
    """

    base_url: Setting[str] | None = Field(
        default_factory=lambda: os.environ.get("AZURE_OPENAI_ENDPOINT"),
        description="The resource's endpoint.",
    )
    api_version: Setting[str] | None = Field(
        default_factory=lambda: os.environ.get("OPENAI_API_VERSION"),
        description="Version of the API.",
    )

    provider: ClassVar[str] = "azure"
    key_variable: ClassVar[str] = "AZURE_OPENAI_API_KEY"

    def _service_url(self) -> str:
        if not self.base_url:
            raise ParameterError(
                "AzureOpenAILLM needs the endpoint of your resource: set AZURE_OPENAI_ENDPOINT, or"
                " pass `base_url`"
            )
        return self.base_url

    def _needs_key(self) -> bool:
        return True

    def _headers(self, key: str) -> Mapping[str, str]:
        return {"api-key": key, **(self.default_headers or {})}

    def _version(self) -> str:
        if not self.api_version:
            raise ParameterError(
                "AzureOpenAILLM needs the version of the API: set OPENAI_API_VERSION, or pass"
                " `api_version`"
            )
        return self.api_version

    def _chat_path(self) -> str:
        deployment = quote(self.model, safe="")
        version = quote(self._version(), safe="")
        return f"/openai/deployments/{deployment}/chat/completions?api-version={version}"

    def _batch_service(self, client: HttpClient) -> "offline.BatchService":
        return offline.AzureBatches(
            client,
            self._call,
            timeout_seconds=self.timeout_seconds,
            api_version=self._version(),
        )

    def _length_field(self) -> str:
        return "max_completion_tokens"

    def _price_list(self) -> str:
        return "openai"
