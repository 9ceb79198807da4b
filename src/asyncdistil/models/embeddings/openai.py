"""Embedding services that speak OpenAI's dialect."""

import asyncio
import os
from typing import Any, ClassVar

import msgspec
from pydantic import Field, PositiveInt

from asyncdistil.batch import Usage
from asyncdistil.models import loop, memoized
from asyncdistil.models.embeddings.base import Embeddings
from asyncdistil.models.embeddings.stored import Lookup, StoredVectors
from asyncdistil.models.http import as_json
from asyncdistil.models.llms.openai import OPENAI_URL
from asyncdistil.models.parameters import Setting
from asyncdistil.models.reply import token_count
from asyncdistil.models.retry import RequestFailed, unreadable
from asyncdistil.models.service import Service


class _Vector(msgspec.Struct):
    embedding: list[float]
    index: int


class _Tokens(msgspec.Struct):
    prompt_tokens: Any = 0


class _Embedded(msgspec.Struct):
    data: list[_Vector]
    usage: _Tokens | None = None
    model: str | None = None
    system_fingerprint: str | None = None


_decoder = msgspec.json.Decoder(_Embedded)


class OpenAIEmbeddings(Service, Embeddings):
    """OpenAI's embeddings, or those of any service that speaks its dialect (``base_url=``).

    A text that was embedded before by the same model is found in the memo and not sent again.

    Attributes:
        model: Model id.
        base_url: Where the service is; from ``OPENAI_BASE_URL`` unless given.
        dimensions: Length to cut vectors to, for models that can.
        texts_per_request: Texts sent together.
    """

    model: str
    base_url: Setting[str] | None = Field(
        default_factory=lambda: os.environ.get("OPENAI_BASE_URL", OPENAI_URL),
        description="Where the service is.",
    )
    dimensions: PositiveInt | None = None
    texts_per_request: Setting[PositiveInt] = Field(default=128, description="Texts sent together.")

    provider: ClassVar[str] = "openai"
    key_variable: ClassVar[str] = "OPENAI_API_KEY"

    @property
    def model_name(self) -> str:
        """The model id."""
        return self.model

    def _service_url(self) -> str:
        return self.base_url or OPENAI_URL

    def _needs_key(self) -> bool:
        return self._service_url().startswith(OPENAI_URL)

    def encode(self, inputs: list[str]) -> list[list[float]]:
        """One vector per text, in order.

        Raises:
            ModelError: The service refused or failed for longer than we may wait.
        """
        return loop.run(self.aencode(inputs))

    async def aencode(self, inputs: list[str]) -> list[list[float]]:
        """As `encode`, on the running loop."""
        await self._learn_who_answers()
        wanted = self._look_up(inputs)
        size = self.texts_per_request
        missing = wanted.missing
        parts = [missing[start : start + size] for start in range(0, len(missing), size)]
        await asyncio.gather(*(self._encode_part(wanted, part) for part in parts))
        return wanted.vectors()

    def stored_only(self) -> StoredVectors:
        """What gives the vectors that are in the memo, and asks nobody."""
        return StoredVectors(self.model, self._look_up)

    def _look_up(self, inputs: list[str]) -> Lookup:
        asked = {**self._request_identity(), "model": self.model, "dimensions": self.dimensions}
        return Lookup(inputs, asked, model=f"{self.provider}:{self.model}", memoized=self._memoized)

    async def _encode_part(self, wanted: Lookup, texts: list[str]) -> None:
        body: dict[str, Any] = {"model": self.model, "input": texts}
        if self.dimensions is not None:
            body["dimensions"] = self.dimensions
        content = as_json(body)

        async def send() -> tuple[_Embedded, int]:
            client = self._client
            assert client is not None
            got = await client.post("/embeddings", content, timeout_seconds=self.timeout_seconds)
            try:
                reply = _decoder.decode(got.body)
            except msgspec.DecodeError as error:
                raise RequestFailed(
                    unreadable(f"{client.service}: the reply can't be read: {error}")
                ) from None
            if sorted(vector.index for vector in reply.data) != list(range(len(texts))):
                raise RequestFailed(
                    unreadable(f"{client.service} sent {len(reply.data)} of {len(texts)} vectors")
                )
            return reply, token_count((reply.usage or _Tokens()).prompt_tokens)

        reply = await self._call(send)
        tokens = token_count((reply.usage or _Tokens()).prompt_tokens)
        cost = self._price(self.model).cost_microusd(tokens, 0)
        usage = Usage(requests=1, input_tokens=tokens, cost_microusd=cost)
        memoized.book(usage)
        in_order = sorted(reply.data, key=lambda vector: vector.index)
        wanted.learn(
            texts,
            [vector.embedding for vector in in_order],
            usage=usage,
            reported=reply.system_fingerprint or reply.model or "",
        )
