"""Images from OpenAI, or from any service that speaks its dialect."""

import os
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import msgspec
from pydantic import Field, PrivateAttr

from asyncdistil.batch import Usage
from asyncdistil.models import memoized
from asyncdistil.models.http import as_json
from asyncdistil.models.image_generation.base import AsyncImageGenerationModel
from asyncdistil.models.image_generation.stored import MemoizedImages, output_of
from asyncdistil.models.llms.openai import OPENAI_URL
from asyncdistil.models.memoized import Memoized, request_key
from asyncdistil.models.parameters import Setting
from asyncdistil.models.reply import ACCEPTED, Reply, token_count
from asyncdistil.models.retry import RequestFailed, unreadable
from asyncdistil.models.service import Service


class _Image(msgspec.Struct):
    url: str | None = None
    b64_json: str | None = None


class _Tokens(msgspec.Struct):
    input_tokens: Any = 0
    output_tokens: Any = 0


class _Made(msgspec.Struct):
    data: list[_Image]
    usage: _Tokens | None = None
    system_fingerprint: str | None = None


_decoder = msgspec.json.Decoder(_Made)
_PATH = "/images/generations"


class OpenAIImageGeneration(Service, AsyncImageGenerationModel):
    """OpenAI's image models, or a service that speaks its dialect (``base_url=``).

    Images that come as base64 (``response_format="b64_json"``) are kept in the memo and not paid
    for twice; a URL is not, because it expires.

    Attributes:
        model: Model id.
        base_url: Where the service is; from ``OPENAI_BASE_URL`` unless given.
    """

    model: str
    base_url: Setting[str] | None = Field(
        default_factory=lambda: os.environ.get("OPENAI_BASE_URL", OPENAI_URL),
        description="Where the service is.",
    )

    _memoized: Memoized = PrivateAttr(default_factory=MemoizedImages)

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

    async def agenerate(
        self,
        input: str,
        num_generations: int = 1,
        quality: Literal["standard", "hd", "low", "medium", "high", "auto"] | None = "standard",
        response_format: Literal["url", "b64_json"] | None = "url",
        size: str | None = None,
        style: Literal["vivid", "natural"] | None = None,
    ) -> list[dict[str, Any]]:
        """Make images for one prompt.

        Args:
            input: The prompt.
            num_generations: Images wanted; one request asks for all of them.
            quality: As the model knows it.
            response_format: ``url`` and ``b64_json`` both ask for base64, for a URL expires and a
                dataset stays; ``None`` for models that take no such field.
            size: Such as ``1024x1024``.
            style: As the model knows it.

        Returns:
            One ``{"images": [...]}`` with base64 texts; with URLs if the service gives only those.
        """
        body = {
            "model": self.model,
            "prompt": input,
            "n": num_generations,
            "quality": quality,
            "response_format": None if response_format is None else "b64_json",
            "size": size,
            "style": style,
        }
        given = {name: value for name, value in body.items() if value is not None}
        await self._learn_who_answers()
        key = request_key(
            {**self._request_identity(), "path": _PATH},
            {name: value for name, value in given.items() if name != "n"},
            model=f"{self.provider}:{self.model}",
        )
        replies = await self._memoized.samples(
            key,
            num_generations,
            lambda count: self._fetch({**given, "n": count}),
            deterministic=False,
            accept=ACCEPTED,
        )
        return [output_of([*replies.values()])]

    async def _fetch(self, body: Mapping[str, Any]) -> list[Reply]:
        content = as_json(body)

        async def send() -> tuple[_Made, int]:
            client = self._client
            assert client is not None
            got = await client.post(_PATH, content, timeout_seconds=self.timeout_seconds)
            try:
                reply = _decoder.decode(got.body)
            except msgspec.DecodeError as error:
                raise RequestFailed(
                    unreadable(f"{client.service}: the reply can't be read: {error}")
                ) from None
            if not all(image.b64_json or image.url for image in reply.data):
                raise RequestFailed(unreadable(f"{client.service} sent no image"))
            return reply, token_count((reply.usage or _Tokens()).output_tokens)

        made = await self._call(send)
        usage = made.usage or _Tokens()
        asked, given = token_count(usage.input_tokens), token_count(usage.output_tokens)
        cost = self._price(self.model).cost_microusd(asked, given)
        memoized.book(Usage(1, 0, asked, given, cost))
        each = len(made.data) or 1
        return [
            Reply(
                "ok",
                (image.b64_json or image.url or "").encode(),
                made.system_fingerprint or "",
                asked // each,
                given // each,
                cost // each,
            )
            for image in made.data
        ]
