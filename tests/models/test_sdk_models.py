"""Models that are asked through a provider's SDK: requests, replies, errors, retries off."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import BaseModel

from asyncdistil.errors import ModelAuthError, ParameterError
from asyncdistil.models import AnthropicLLM, CohereLLM, LiteLLM, MistralLLM, VertexAILLM
from asyncdistil.testing.chaos import Fault, always, first_attempts
from asyncdistil.testing.model_server import ModelServer

CANARY = "key-canary-5ee0"


class City(BaseModel):
    name: str
    people: int


def chat(text: str, system: str = "") -> list[dict[str, str]]:
    before = [{"role": "system", "content": system}] if system else []
    return [*before, {"role": "user", "content": text}]


def root(server: ModelServer) -> str:
    return server.url.removesuffix("/v1")


MAKERS: dict[str, Any] = {
    "anthropic": lambda s, **kw: AnthropicLLM(model="m", base_url=root(s), api_key=CANARY, **kw),
    "mistralai": lambda s, **kw: MistralLLM(model="m", endpoint=root(s), api_key=CANARY, **kw),
    "cohere": lambda s, **kw: CohereLLM(model="m", base_url=root(s), api_key=CANARY, **kw),
    "google.genai": lambda s, **kw: VertexAILLM(model="m", base_url=root(s), api_key=CANARY, **kw),
    "litellm": lambda s, **kw: LiteLLM(model="openai/m", base_url=s.url, api_key=CANARY, **kw),
}


@pytest.fixture(params=MAKERS.keys())
def make(request: pytest.FixtureRequest) -> Any:
    # Each SDK is an extra: where it is not installed its tests are skipped by its name.
    if request.param == "litellm":
        import os

        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    pytest.importorskip(request.param)
    return MAKERS[request.param]


def test_it_answers_with_counts(make: Any, server: ModelServer, loaded: Any) -> None:
    (output,) = loaded(make(server)).generate_outputs([chat("some words here", "be brief")], 2)
    assert len(output["generations"]) == 2
    assert all(output["generations"])
    assert output["statistics"]["input_tokens"] == [6, 6]
    assert all(count > 0 for count in output["statistics"]["output_tokens"])
    assert server.requests[0].prompt == "be brief\nsome words here"


def test_it_is_asked_for_a_structure_and_checked(
    make: Any, server: ModelServer, loaded: Any
) -> None:
    (output,) = loaded(make(server)).generate_outputs([(chat("a city"), {"schema": City})])
    City.model_validate_json(output["generations"][0])
    assert "people" in server.requests[0].body.decode()


def test_the_sdk_does_not_retry_and_we_do(make: Any, server: ModelServer, loaded: Any) -> None:
    server.script = always("500")
    (output,) = loaded(make(server, max_retries=0)).generate_outputs([chat("a")])
    assert output["failures"][0].kind == "asyncdistil.errors.ModelUnavailable"
    assert "500" in output["failures"][0].message
    assert server.stats.requests == 1
    server.script = first_attempts(["503", "reset", Fault("429", "0")], containing="b")
    (output,) = loaded(make(server)).generate_outputs([chat("b")])
    assert output["generations"][0]


def test_each_error_has_its_class(make: Any, server: ModelServer, loaded: Any) -> None:
    server.script = always(Fault("422", message="no such thing"))
    llm = loaded(make(server))
    (output,) = llm.generate_outputs([chat("a")])
    assert output["failures"][0].kind == "asyncdistil.errors.ModelRequestError"
    assert "no such thing" in output["failures"][0].message
    server.script = always(Fault("401", message="bad key {authorization}"))
    with pytest.raises(ModelAuthError) as caught:
        llm.generate_outputs([chat("b")])
    assert CANARY not in str(caught.value) + repr(caught.value.__dict__)


def test_refused_and_truncated_answers_are_told(
    make: Any, server: ModelServer, loaded: Any
) -> None:
    llm = loaded(make(server, accept=("ok",)))
    server.script = always("length")
    (output,) = llm.generate_outputs([chat("some words to be cut")])
    assert output["failures"][0].kind == "truncated"
    server.script = always("content_filter")
    (output,) = llm.generate_outputs([chat("b")])
    assert output["failures"][0].kind == "refused"


def test_a_stalled_service_is_given_up(make: Any, server: ModelServer, loaded: Any) -> None:
    server.script = first_attempts(["stall"])
    (output,) = loaded(make(server, timeout_seconds=0.5)).generate_outputs([chat("a")])
    assert output["generations"][0]


def test_a_missing_package_names_its_extra() -> None:
    code = (
        "import sys\n"
        "sys.modules['anthropic'] = None\n"
        "from asyncdistil.models import AnthropicLLM\n"
        "try:\n"
        "    AnthropicLLM(model='m', api_key='k').load()\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'asyncdistil[anthropic]'" in done.stdout


def test_a_class_is_made_without_its_sdk() -> None:
    code = (
        "import sys\n"
        "import asyncdistil.models as models\n"
        "for name in models.__all__:\n"
        "    getattr(models, name)\n"
        "sdks = 'aiohttp anthropic mistralai cohere google.genai litellm torch httpx pyarrow'\n"
        "print([name for name in sdks.split() if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_anthropic_gets_images_in_its_own_form(server: ModelServer, loaded: Any) -> None:
    pytest.importorskip("anthropic")
    images = ["data:image/png;base64,iVBORw0KGgo=", "https://example.com/a.png"]
    content = [{"type": "text", "text": "look"}]
    content += [{"type": "image_url", "image_url": {"url": url}} for url in images]  # type: ignore[misc]
    llm = loaded(MAKERS["anthropic"](server))
    llm.generate_outputs([[{"role": "user", "content": content}]])
    sent = server.requests[0].json["messages"][0]["content"]
    assert [part["type"] for part in sent] == ["text", "image", "image"]
    assert sent[1]["source"]["type"] == "base64"
    assert sent[2]["source"] == {"type": "url", "url": "https://example.com/a.png"}


def test_a_key_is_no_generation_parameter_of_litellm() -> None:
    with pytest.raises(ValueError, match="api_key"):
        LiteLLM(model="m", generation_kwargs={"api_key": "k"})


@pytest.mark.parametrize(
    ("make_without_key", "variable"),
    [
        (lambda: AnthropicLLM(model="m"), "ANTHROPIC_API_KEY"),
        (lambda: MistralLLM(model="m"), "MISTRAL_API_KEY"),
        (lambda: CohereLLM(model="m"), "COHERE_API_KEY"),
        (lambda: VertexAILLM(model="m", vertexai=False), "GOOGLE_API_KEY"),
    ],
)
def test_a_missing_key_is_named_by_its_variable(
    make_without_key: Any, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ParameterError, match=variable):
        make_without_key().load()
