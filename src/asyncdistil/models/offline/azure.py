"""The batch service of OpenAI's models on Azure: OpenAI's, with paths and habits of its own.

A file that was uploaded is looked through before a batch can be made of it, and the deployment must
be of a type that takes batches (Global Batch, Data Zone Batch). A batch that takes longer than a
day goes on.

Source: https://learn.microsoft.com/azure/ai-foundry/openai/how-to/batch
"""

from __future__ import annotations

import asyncio
from urllib.parse import quote

from asyncdistil.errors import ModelRequestError
from asyncdistil.models.http import HttpClient
from asyncdistil.models.offline.openai import File, OpenAIBatches
from asyncdistil.models.offline.service import Caller, Line

_BETWEEN_LOOKS_SECONDS = 1.0
_MOST_LOOKS = 900
_USABLE = frozenset({"", "processed"})
_REFUSED = frozenset({"error", "failed", "canceled", "cancelled", "deleting", "deleted"})


class AzureBatches(OpenAIBatches):
    """Batches of one resource."""

    def __init__(
        self, client: HttpClient, call: Caller, *, timeout_seconds: float, api_version: str
    ) -> None:
        """Look at a resource; see `Account` for the others.

        Args:
            client: Talks to the resource's endpoint.
            call: Makes the tries.
            timeout_seconds: For one try of a small request.
            api_version: Of the API.
        """
        super().__init__(client, call, timeout_seconds=timeout_seconds)
        self._version = quote(api_version, safe="")

    def _route(self, path: str) -> str:
        return f"/openai{path}?api-version={self._version}"

    def _endpoint(self, line: Line) -> str:
        return "/chat/completions"  # the deployment is named by the model of the line

    async def _until_usable(self, file: File) -> None:
        for _ in range(_MOST_LOOKS):
            status = (file.status or "").lower()
            if status in _USABLE:
                return
            if status in _REFUSED:
                break
            await asyncio.sleep(_BETWEEN_LOOKS_SECONDS)
            told = await self._told_of(self._route(f"/files/{quote(file.id, safe='')}"), File)
            file = told or File(file.id, "deleted")
        raise ModelRequestError(
            f"{self._client.service} makes no batch of the file {file.id}, whose status is"
            f" {file.status!r}: look at it in the portal"
        )
