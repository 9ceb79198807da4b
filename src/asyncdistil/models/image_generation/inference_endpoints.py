"""Images from models served by Hugging Face."""

import base64
from typing import Any, ClassVar, Self

from pydantic import Field, PrivateAttr, model_validator

from asyncdistil.batch import Usage
from asyncdistil.models import memoized
from asyncdistil.models.http import as_json
from asyncdistil.models.image_generation.base import AsyncImageGenerationModel
from asyncdistil.models.image_generation.stored import MemoizedImages, output_of
from asyncdistil.models.memoized import Memoized, request_key
from asyncdistil.models.parameters import Setting
from asyncdistil.models.reply import ACCEPTED, Reply
from asyncdistil.models.retry import RequestFailed, unreadable
from asyncdistil.models.service import Service

_INFERENCE_URL = "https://router.huggingface.co/hf-inference/models"


class InferenceEndpointsImageGeneration(Service, AsyncImageGenerationModel):
    """A text-to-image model on Hugging Face, or on an endpoint of yours (``base_url=``).

    Attributes:
        model_id: Hub id.
        base_url: URL of an endpoint that takes ``{"inputs", "parameters"}`` and sends an image.
        model_display_name: Shown in the ``model_name`` column.
    """

    model_id: str | None = None
    base_url: Setting[str] | None = Field(default=None, description="Where the endpoint is.")
    model_display_name: str | None = None

    _memoized: Memoized = PrivateAttr(default_factory=MemoizedImages)

    provider: ClassVar[str] = "huggingface"
    key_variable: ClassVar[str] = "HF_TOKEN"

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.model_id is None and self.base_url is None:
            raise ValueError("say where the model is by `model_id` or `base_url`")
        return self

    @property
    def model_name(self) -> str:
        """Display name, hub id or URL: the first that is known."""
        return self.model_display_name or self.model_id or self._service_url()

    def _service_url(self) -> str:
        return self.base_url or f"{_INFERENCE_URL}/{self.model_id}"

    def _needs_key(self) -> bool:
        return self.base_url is None

    async def agenerate(
        self,
        input: str,
        num_generations: int = 1,
        negative_prompt: str | None = None,
        height: float | None = None,
        width: float | None = None,
        num_inference_steps: float | None = None,
        guidance_scale: float | None = None,
        seed: int | None = None,
    ) -> list[dict[str, Any]]:
        """Make images for one prompt.

        Args:
            input: The prompt.
            num_generations: Images wanted; each is a request.
            negative_prompt: What the image should not show.
            height: In pixels.
            width: In pixels.
            num_inference_steps: More take longer and may look better.
            guidance_scale: How closely to follow the prompt.
            seed: Makes an image repeatable.

        Returns:
            One ``{"images": [base64 text]}`` per image.
        """
        settings = {
            "negative_prompt": negative_prompt,
            "height": height,
            "width": width,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "seed": seed,
        }
        given = {name: value for name, value in settings.items() if value is not None}
        body = {"inputs": input, "parameters": given}
        await self._learn_who_answers()
        identity = {**self._request_identity(), "model_id": self.model_id}
        key = request_key(identity, body, model=f"{self.provider}:{self.model_name}")
        content = as_json(body)

        async def fetch(count: int) -> list[Reply]:
            return [await self._one(content) for _ in range(count)]

        replies = await self._memoized.samples(
            key,
            num_generations,
            fetch,
            deterministic=False,
            accept=ACCEPTED,
            several=False,
        )
        return [output_of([reply]) for reply in replies.values()]

    async def _one(self, body: bytes) -> Reply:
        async def send() -> tuple[Reply, int]:
            client = self._client
            assert client is not None
            got = await client.post("", body, timeout_seconds=self.timeout_seconds)
            if not got.headers.get("Content-Type", "").startswith("image/"):
                text = client.hide(got.body[: 16 * 1024].decode("utf-8", "replace"))
                raise RequestFailed(unreadable(f"{client.service} sent no image", detail=text))
            server = got.headers.get("Server", "")
            return Reply("ok", base64.b64encode(got.body), server), 0

        reply = await self._call(send)
        memoized.book(Usage(requests=1))
        return reply
