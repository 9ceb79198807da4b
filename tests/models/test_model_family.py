"""Every class of the family against a scripted service: what it sends, how it reads the reply."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import BaseModel

from asyncdistil.errors import ModelError, ParameterError
from asyncdistil.models import (
    AnyscaleLLM,
    AzureOpenAILLM,
    ClientvLLM,
    GroqLLM,
    InferenceEndpointsLLM,
    OllamaLLM,
    TogetherLLM,
    vLLM,
)
from asyncdistil.testing.chaos import always, first_attempts
from asyncdistil.testing.model_server import ModelServer

CANARY = "key-canary-77aa01"


class City(BaseModel):
    name: str
    people: int


class Tokenizer:
    """Writes a conversation the way that a tokenizer's template would."""

    def apply_chat_template(self, messages: Any, **options: Any) -> str:
        turns = "".join(f"<{m['role']}>{m['content']}" for m in messages)
        return turns + ("<assistant>" if options["add_generation_prompt"] else "")


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def root(server: ModelServer) -> str:
    return server.url.removesuffix("/v1")


MAKERS: dict[str, Any] = {
    "azure": lambda s: AzureOpenAILLM(
        model="dep", base_url=root(s), api_key=CANARY, api_version="2024-10-21"
    ),
    "together": lambda s: TogetherLLM(model="m", base_url=s.url, api_key=CANARY),
    "anyscale": lambda s: AnyscaleLLM(model="m", base_url=s.url, api_key=CANARY),
    "groq": lambda s: GroqLLM(model="m", base_url=s.url, api_key=CANARY),
    "ollama": lambda s: OllamaLLM(model="m", host=root(s)),
    "vllm client": lambda s: ClientvLLM(model="m", base_url=s.url, api_key=CANARY),
    "endpoints": lambda s: InferenceEndpointsLLM(base_url=root(s), api_key=CANARY),
}
family = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


@family
def test_it_answers_with_counts(make: Any, server: ModelServer, loaded: Any) -> None:
    (output,) = loaded(make(server)).generate_outputs([chat("some words here")], 2)
    assert len(output["generations"]) == 2
    assert all(text.startswith("some words here") for text in output["generations"])
    assert output["statistics"]["input_tokens"] == [4, 4]
    assert all(count > 0 for count in output["statistics"]["output_tokens"])


@family
def test_it_is_asked_for_a_structure_and_checked(
    make: Any, server: ModelServer, loaded: Any
) -> None:
    (output,) = loaded(make(server)).generate_outputs([(chat("a city"), {"schema": City})])
    City.model_validate_json(output["generations"][0])
    assert "properties" in server.requests[0].body.decode()


@family
def test_it_tries_again_and_fails_a_row_alone(make: Any, server: ModelServer, loaded: Any) -> None:
    server.script = first_attempts(["500", "garbage", "reset"], containing="unlucky")
    llm = loaded(make(server))
    outputs = llm.generate_outputs([chat("unlucky"), chat("lucky")])
    assert all(o["generations"][0] for o in outputs)
    server.script = always("422", containing="wrong")
    outputs = llm.generate_outputs([chat("wrong"), chat("right")])
    assert outputs[0]["failures"][0].kind == "asyncdistil.errors.ModelRequestError"
    assert outputs[1]["generations"][0]


@family
def test_its_key_travels_in_a_header_and_is_told_to_nobody(
    make: Any, server: ModelServer, loaded: Any
) -> None:
    server.script = always("401")
    llm = loaded(make(server))
    with pytest.raises(ModelError) as caught:
        llm.generate_outputs([chat("a")])
    assert CANARY not in repr(caught.value) + repr(llm) + repr(llm.identity_fields())
    assert CANARY.encode() not in server.requests[0].body
    if llm.api_key is not None:
        assert any(CANARY in value for value in server.requests[0].headers.values())


@pytest.mark.parametrize(
    ("make", "variable"),
    [
        (lambda: AzureOpenAILLM(model="m", base_url="http://h"), "AZURE_OPENAI_API_KEY"),
        (lambda: TogetherLLM(model="m"), "TOGETHER_API_KEY"),
        (lambda: AnyscaleLLM(model="m"), "ANYSCALE_API_KEY"),
        (lambda: GroqLLM(model="m"), "GROQ_API_KEY"),
        (lambda: InferenceEndpointsLLM(model_id="a/b"), "HF_TOKEN"),
    ],
)
def test_a_missing_key_is_named_by_its_variable(
    make: Any, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ParameterError, match=variable):
        make().load()


def test_azure_asks_the_deployment(server: ModelServer, loaded: Any) -> None:
    loaded(MAKERS["azure"](server)).generate_outputs([chat("a")])
    request = server.requests[0]
    assert request.path == "/openai/deployments/dep/chat/completions"
    assert request.headers["api-key"] == CANARY
    assert "authorization" not in request.headers


def test_azure_says_what_is_missing() -> None:
    llm = AzureOpenAILLM(model="m", base_url=None, api_key="k")
    with pytest.raises(ParameterError, match="AZURE_OPENAI_ENDPOINT"):
        llm.load()


def test_groq_takes_the_url_that_its_sdk_takes() -> None:
    assert GroqLLM(model="m", base_url="https://api.groq.com")._service_url().endswith("/openai/v1")


def test_ollama_sends_options_and_keeps_alive(server: ModelServer, loaded: Any) -> None:
    llm = loaded(MAKERS["ollama"](server))
    llm.generate_outputs([chat("a")], options={"num_predict": 9, "seed": 3}, keep_alive="5m")
    assert server.requests[0].path == "/api/chat"
    assert server.requests[0].json == {
        "model": "m",
        "messages": chat("a"),
        "options": {"num_predict": 9, "seed": 3},
        "keep_alive": "5m",
        "stream": False,
    }


def test_a_vllm_server_is_asked_for_its_model(loaded: Any) -> None:
    with ModelServer(model="org/name") as server:
        llm = loaded(ClientvLLM(base_url=server.url))
        assert llm.model_name == "org/name"
        llm.generate_outputs([chat("a")])
        assert server.requests[0].json["model"] == "org/name"


def test_a_vllm_server_is_asked_for_a_pattern(server: ModelServer, loaded: Any) -> None:
    wanted = {"format": "regex", "schema": r"[\s\S]+"}
    llm = loaded(ClientvLLM(model="m", base_url=server.url, structured_output=wanted))
    (output,) = llm.generate_outputs([chat("a")])
    assert output["generations"][0]
    assert server.requests[0].json["structured_outputs"] == {"regex": r"[\s\S]+"}


def test_an_endpoint_is_asked_by_chat(server: ModelServer, loaded: Any) -> None:
    llm = loaded(InferenceEndpointsLLM(base_url=f"{server.url}/chat/completions"))
    llm.generate_outputs(
        [(chat("a"), {"schema": City})], stop_sequences=["x"], logprobs=True, top_logprobs=1
    )
    body = server.requests[0].json
    assert server.requests[0].path == "/v1/chat/completions"
    assert body["model"] == "tgi"
    assert body["stop"] == ["x"]
    assert body["top_logprobs"] == 1
    assert body["response_format"]["type"] == "json_object"
    assert "value" in body["response_format"]


def test_an_endpoint_completes_raw_text(server: ModelServer, loaded: Any) -> None:
    llm = loaded(InferenceEndpointsLLM(base_url=root(server)))
    (output,) = llm.generate_outputs(
        ["Once upon a time there was"], max_new_tokens=40, temperature=0.0, top_k=5
    )
    assert output["generations"][0].startswith("Once upon")
    request = server.requests[0]
    assert request.path == "/generate"
    assert request.json == {
        "inputs": "Once upon a time there was",
        "parameters": {"max_new_tokens": 40, "top_k": 5, "details": True},
    }


@pytest.mark.parametrize(
    "fields",
    [{}, {"model_id": "a", "endpoint_name": "b"}, {"endpoint_name": "b", "base_url": "http://h"}],
)
def test_an_endpoint_is_in_one_place(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="by one of"):
        InferenceEndpointsLLM(**fields)


def test_the_router_is_asked_by_model_id() -> None:
    llm = InferenceEndpointsLLM(model_id="meta-llama/Llama", api_key="k")
    assert llm.model_name == "meta-llama/Llama"
    assert llm._service_url() == "https://router.huggingface.co"


@pytest.mark.parametrize("kind", ["ollama", "endpoints", "vllm"])
def test_magpie_sends_the_head_of_a_users_turn(
    kind: str, server: ModelServer, loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("ollama", "huggingface.inference_endpoints", "vllm"):
        monkeypatch.setattr(
            f"asyncdistil.models.llms.{place}.load_tokenizer", lambda *a, **k: Tokenizer()
        )
    magpie = {"use_magpie_template": True, "magpie_pre_query_template": "qwen2"}
    llm: Any = {
        "ollama": lambda: OllamaLLM(model="m", host=root(server), tokenizer_id="t", **magpie),
        "endpoints": lambda: InferenceEndpointsLLM(
            base_url=root(server), tokenizer_id="t", **magpie
        ),
        "vllm": lambda: ClientvLLM(model="m", base_url=server.url, **magpie),
    }[kind]()
    loaded(llm)
    system = [{"role": "system", "content": "be brief"}]
    (output,) = llm.generate_outputs([system])
    assert output["generations"][0]
    assert server.requests[0].prompt == "<system>be brief<|im_start|>user\n"
    llm.generate_outputs([[*system, *chat("hello")]])
    assert server.requests[1].prompt == "<system>be brief<user>hello<assistant>"


def test_magpie_needs_its_template() -> None:
    with pytest.raises(ValueError, match="magpie_pre_query_template"):
        ClientvLLM(model="m", use_magpie_template=True)


class Managed(vLLM):
    """A vLLM whose server is the stand-in."""

    module: str = "asyncdistil.testing.model_server"

    def _command(self, port: int) -> list[str]:
        return ["-m", self.module, "--port", str(port)]


def test_a_managed_server_starts_at_the_first_answer_and_ends_with_unload(loaded: Any) -> None:
    llm = loaded(Managed(model="m"))
    assert llm._server.pid is None
    (output,) = llm.generate_outputs([chat("a b c")])
    assert output["generations"][0].startswith("a b c")
    process = psutil.Process(llm._server.pid)
    llm.unload()
    assert not process.is_running()


def test_a_managed_server_that_cannot_start_shows_its_last_words(loaded: Any) -> None:
    llm = loaded(Managed(model="m", module="asyncdistil.no_such_module"))
    (output,) = llm.generate_outputs([chat("a")])
    message = output["failures"][0].message
    assert "ended before it was ready" in message
    assert "no_such_module" in message


def test_a_managed_server_that_dies_stops_the_run(loaded: Any) -> None:
    llm = loaded(Managed(model="m"))
    llm.generate_outputs([chat("a")])
    process = psutil.Process(llm._server.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(60)
    with pytest.raises(ModelError, match="has died"):
        llm.generate_outputs([chat("b")])


def test_a_managed_server_dies_with_its_process(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, time\n"
        "from asyncdistil.models.served import ModelServerProcess\n"
        "import asyncio\n"
        "server = ModelServerProcess(lambda port: ['-m', 'asyncdistil.testing.model_server',"
        " '--port', str(port)], start_seconds=60)\n"
        "asyncio.run(server.ready())\n"
        "print(server.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    child = psutil.Process(int(owner.stdout.readline()))
    owner.kill()
    owner.wait()
    child.wait(60)
    owner.stdout.close()
    assert not child.is_running()


def test_the_command_of_a_managed_server_holds_every_option() -> None:
    llm = vLLM(
        model="org/m", revision="r", trust_remote_code=True, extra_kwargs={"max_model_len": 99}
    )
    command = llm._command(1234)
    assert command[:2] == ["-m", "vllm.entrypoints.openai.api_server"]
    text = " ".join(command)
    assert "--model org/m" in text
    assert "--port 1234" in text
    assert "--revision r" in text
    assert "--trust-remote-code" in command
    assert "--max-model-len 99" in text
    assert "--quantization" not in command
