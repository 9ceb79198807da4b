"""Every class that asks a service, side by side: what it sends, and what it does with trouble.

A class that is added without a line here fails the first test.
"""

from __future__ import annotations

import inspect
import logging
import traceback
from pathlib import Path
from typing import Any

import pytest

import asyncdistil.models as models
from asyncdistil.errors import ModelError
from asyncdistil.memo import Memo, Replies
from asyncdistil.models import memoized
from asyncdistil.models.model import Model
from asyncdistil.models.reply import Reply
from asyncdistil.testing.chaos import Fault, always, first_attempts
from asyncdistil.testing.model_server import ModelServer

CANARY = "sk-canary-every-3f9d17"
PROMPT = "tell me of the unlucky number 7"

# Class to: where its service is told, with or without the version, and further fields; its package
# if it needs one; the end of the route that it asks.
CHAT = "/chat/completions"
SERVICES: dict[str, tuple[dict[str, Any], str, str]] = {
    "OpenAILLM": ({"base_url": "url"}, "", CHAT),
    "AzureOpenAILLM": (
        {"base_url": "root", "api_version": "2024-10-21"},
        "",
        "/openai/deployments/m" + CHAT,
    ),
    "TogetherLLM": ({"base_url": "url"}, "", CHAT),
    "AnyscaleLLM": ({"base_url": "url"}, "", CHAT),
    "GroqLLM": ({"base_url": "url"}, "", CHAT),
    "ClientvLLM": ({"base_url": "url"}, "", CHAT),
    "OllamaLLM": ({"host": "root"}, "", "/api/chat"),
    "InferenceEndpointsLLM": ({"base_url": "root"}, "", CHAT),
    "AnthropicLLM": ({"base_url": "root"}, "anthropic", "/v1/messages"),
    "MistralLLM": ({"endpoint": "root"}, "mistralai", "/v1/chat/completions"),
    "CohereLLM": ({"base_url": "root"}, "cohere", "/v2/chat"),
    "VertexAILLM": ({"base_url": "root"}, "google.genai", ":generateContent"),
    "LiteLLM": ({"base_url": "url", "model": "openai/m"}, "litellm", CHAT),
    "OpenAIEmbeddings": ({"base_url": "url"}, "", "/embeddings"),
    "OpenAIImageGeneration": ({"base_url": "url"}, "", "/images/generations"),
}
ELSEWHERE = {
    "LlamaCppLLM": "tests/runtime/test_models_llamacpp.py",
    "TransformersLLM": "tests/models/test_local_models.py",
    "SentenceTransformerEmbeddings": "tests/models/test_stored_vectors_and_images.py",
    "vLLM": "tests/models/test_model_family.py",
    "MixtureOfAgentsLLM": "tests/models/test_other_models.py",
    "InferenceEndpointsImageGeneration": "tests/models/test_other_models.py",
}
STREAMING = ["OpenAILLM", "AzureOpenAILLM", "TogetherLLM", "AnyscaleLLM", "GroqLLM", "ClientvLLM"]
NO_NAME = {"InferenceEndpointsLLM"}  # of a model: the endpoint has one
NO_KEY = {"OllamaLLM"}


def make(name: str, server: ModelServer, **options: Any) -> Any:
    fields, package, _ = SERVICES[name]
    if package:
        pytest.importorskip(package)
    places = {"url": server.url, "root": server.url.removesuffix("/v1")}
    given = {field: places.get(value, value) for field, value in fields.items()}
    if name not in NO_NAME:
        given.setdefault("model", "m")
    if name not in NO_KEY:
        given["api_key"] = CANARY
    return getattr(models, name)(**given, **options)


def ask(model: Any, prompt: str = PROMPT) -> Any:
    """What it answers: a text, a vector or an image; raises if it failed."""
    if isinstance(model, models.Embeddings):
        return model.encode([prompt])[0]
    if isinstance(model, models.ImageGenerationModel):
        ((output, *_),) = model.generate_outputs([prompt])
        answers = output["images"]
    else:
        (output,) = model.generate_outputs([[{"role": "user", "content": prompt}]])
        answers = output["generations"]
    for failure in output.get("failures") or ():
        raise RuntimeError(f"{failure.kind}: {failure.message}\n{failure.detail}")
    return answers[0]


every = pytest.mark.parametrize("name", SERVICES)


def test_no_class_of_the_family_is_left_out() -> None:
    kinds = {name: getattr(models, name) for name in models.__all__}
    concrete = {
        name
        for name, kind in kinds.items()
        if isinstance(kind, type) and issubclass(kind, Model) and not inspect.isabstract(kind)
    }
    assert concrete == SERVICES.keys() | ELSEWHERE.keys()
    root = Path(__file__).parents[2]
    assert [n for n, path in ELSEWHERE.items() if n not in (root / path).read_text()] == []


@every
def test_it_asks_the_route_of_its_service_with_its_key_in_the_header(
    name: str, server: ModelServer, loaded: Any
) -> None:
    assert ask(loaded(make(name, server)))
    (request,) = server.requests
    assert request.path.endswith(SERVICES[name][2])
    assert request.prompt == PROMPT
    assert CANARY not in request.path + request.body.decode()
    if name not in NO_KEY:
        assert CANARY in " ".join(request.headers.values())


@every
@pytest.mark.parametrize("fault", ["reset", "reset_midway", "truncated", "garbage", "503"])
def test_what_breaks_on_the_way_is_asked_again(
    name: str, fault: str, server: ModelServer, loaded: Any
) -> None:
    server.script = first_attempts([fault])
    assert ask(loaded(make(name, server)))
    assert server.stats.requests == 2


@every
def test_a_wait_that_is_asked_for_costs_no_try(name: str, server: ModelServer, loaded: Any) -> None:
    server.script = first_attempts([Fault("429", "0"), Fault("429", "0.01")])
    assert ask(loaded(make(name, server, max_retries=0)))
    assert server.stats.requests == 3


@pytest.mark.parametrize("name", STREAMING)
@pytest.mark.parametrize("fault", ["reset_midway", "truncated", "stall_midway"])
def test_a_stream_that_is_cut_midway_is_no_answer(
    name: str, fault: str, server: ModelServer, loaded: Any
) -> None:
    whole = ask(loaded(make(name, server)))
    server.script = first_attempts([fault])
    streamed = ask(loaded(make(name, server, stream=True, timeout_seconds=0.5)))
    assert streamed == whole
    assert server.stats.faults == {fault: 1}
    assert b'"stream":true' in server.requests[-1].body


@every
def test_its_key_is_in_no_log_error_record_or_file(
    name: str,
    server: ModelServer,
    loaded: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    memo = Memo.open(tmp_path / "memo")
    memoized.use_store(Replies(memo, Reply))
    model = loaded(make(name, server))
    said = [repr(model), str(model), repr(model.identity_fields()), model.model_dump_json()]
    assert ask(model, "good")
    for status in ("400", "422", "401"):
        server.script = always(Fault(status, message="you sent {authorization}"))
        try:
            ask(model, f"bad {status}")
        except (ModelError, RuntimeError) as error:
            said += traceback.format_exception(error)
        else:
            pytest.fail(f"{status} is no answer")
    memo.close()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    said += [path.read_bytes().decode("utf-8", "replace") for path in files]
    # aiohttp and the SDKs log below DEBUG what they are told to; ours is what counts.
    said += [record.getMessage() for record in caplog.records]
    assert [text for text in said if CANARY in text] == []
