"""Language, embedding and image models: what they are asked through, retried, paced and paid by.

Every name is imported on first use, so that a worker pays only for the model that it runs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncdistil.models.embeddings.base import Embeddings
    from asyncdistil.models.embeddings.openai import OpenAIEmbeddings
    from asyncdistil.models.embeddings.sentence_transformers import SentenceTransformerEmbeddings
    from asyncdistil.models.image_generation.base import (
        AsyncImageGenerationModel,
        ImageGenerationModel,
    )
    from asyncdistil.models.image_generation.encoding import image_from_str, image_to_str
    from asyncdistil.models.image_generation.inference_endpoints import (
        InferenceEndpointsImageGeneration,
    )
    from asyncdistil.models.image_generation.openai import OpenAIImageGeneration
    from asyncdistil.models.llms.anthropic import AnthropicLLM
    from asyncdistil.models.llms.anyscale import AnyscaleLLM
    from asyncdistil.models.llms.azure import AzureOpenAILLM
    from asyncdistil.models.llms.base import LLM, AsyncLLM
    from asyncdistil.models.llms.cohere import CohereLLM
    from asyncdistil.models.llms.groq import GroqLLM
    from asyncdistil.models.llms.huggingface.inference_endpoints import InferenceEndpointsLLM
    from asyncdistil.models.llms.huggingface.transformers import TransformersLLM
    from asyncdistil.models.llms.litellm import LiteLLM
    from asyncdistil.models.llms.llamacpp import LlamaCppLLM
    from asyncdistil.models.llms.mistral import MistralLLM
    from asyncdistil.models.llms.moa import MixtureOfAgentsLLM
    from asyncdistil.models.llms.ollama import OllamaLLM
    from asyncdistil.models.llms.openai import OpenAILLM
    from asyncdistil.models.llms.together import TogetherLLM
    from asyncdistil.models.llms.vertexai import VertexAILLM
    from asyncdistil.models.llms.vllm import ClientvLLM, vLLM
    from asyncdistil.models.magpie import MagpieChatTemplate

_HOME = {
    "AnthropicLLM": "llms.anthropic",
    "AnyscaleLLM": "llms.anyscale",
    "AsyncImageGenerationModel": "image_generation.base",
    "AsyncLLM": "llms.base",
    "AzureOpenAILLM": "llms.azure",
    "ClientvLLM": "llms.vllm",
    "CohereLLM": "llms.cohere",
    "Embeddings": "embeddings.base",
    "GroqLLM": "llms.groq",
    "ImageGenerationModel": "image_generation.base",
    "InferenceEndpointsImageGeneration": "image_generation.inference_endpoints",
    "InferenceEndpointsLLM": "llms.huggingface.inference_endpoints",
    "LLM": "llms.base",
    "LiteLLM": "llms.litellm",
    "LlamaCppLLM": "llms.llamacpp",
    "MagpieChatTemplate": "magpie",
    "MistralLLM": "llms.mistral",
    "MixtureOfAgentsLLM": "llms.moa",
    "OllamaLLM": "llms.ollama",
    "OpenAIEmbeddings": "embeddings.openai",
    "OpenAIImageGeneration": "image_generation.openai",
    "OpenAILLM": "llms.openai",
    "SentenceTransformerEmbeddings": "embeddings.sentence_transformers",
    "TogetherLLM": "llms.together",
    "TransformersLLM": "llms.huggingface.transformers",
    "VertexAILLM": "llms.vertexai",
    "image_from_str": "image_generation.encoding",
    "image_to_str": "image_generation.encoding",
    "vLLM": "llms.vllm",
}

__all__ = [
    "LLM",
    "AnthropicLLM",
    "AnyscaleLLM",
    "AsyncImageGenerationModel",
    "AsyncLLM",
    "AzureOpenAILLM",
    "ClientvLLM",
    "CohereLLM",
    "Embeddings",
    "GroqLLM",
    "ImageGenerationModel",
    "InferenceEndpointsImageGeneration",
    "InferenceEndpointsLLM",
    "LiteLLM",
    "LlamaCppLLM",
    "MagpieChatTemplate",
    "MistralLLM",
    "MixtureOfAgentsLLM",
    "OllamaLLM",
    "OpenAIEmbeddings",
    "OpenAIImageGeneration",
    "OpenAILLM",
    "SentenceTransformerEmbeddings",
    "TogetherLLM",
    "TransformersLLM",
    "VertexAILLM",
    "image_from_str",
    "image_to_str",
    "vLLM",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        from asyncdistil.compat.aliases import old_names

        return old_names(__name__)(name)
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
