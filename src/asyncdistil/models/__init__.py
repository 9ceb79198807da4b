"""Language, embedding and image models: what they are asked through, retried, paced and paid by.

Every name is imported on first use, so that a worker pays only for the model that it runs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncdistil.models.embeddings.base import Embeddings
    from asyncdistil.models.image_generation.base import (
        AsyncImageGenerationModel,
        ImageGenerationModel,
    )
    from asyncdistil.models.llms.base import LLM, AsyncLLM
    from asyncdistil.models.llms.openai import OpenAILLM

_HOME = {
    "LLM": "llms.base",
    "AsyncLLM": "llms.base",
    "Embeddings": "embeddings.base",
    "ImageGenerationModel": "image_generation.base",
    "OpenAILLM": "llms.openai",
    "AsyncImageGenerationModel": "image_generation.base",
}

__all__ = [
    "LLM",
    "AsyncImageGenerationModel",
    "AsyncLLM",
    "Embeddings",
    "ImageGenerationModel",
    "OpenAILLM",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
