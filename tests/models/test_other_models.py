"""Embeddings, images, several models as one, GPU claims."""

from __future__ import annotations

import asyncio
import base64
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.errors import ModelAuthError, ModelRequestError, ParameterError
from asyncdistil.models import (
    InferenceEndpointsImageGeneration,
    MixtureOfAgentsLLM,
    OpenAIEmbeddings,
    OpenAIImageGeneration,
    OpenAILLM,
)
from asyncdistil.models.cuda import CudaDevices, visible_devices
from asyncdistil.testing.chaos import always, first_attempts
from asyncdistil.testing.model_server import ModelServer
from asyncdistil.transport.brokers import Ledger


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def cosine(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def test_texts_become_vectors_in_order(server: ModelServer, loaded: Any, ledger: Ledger) -> None:
    model = loaded(
        OpenAIEmbeddings(model="text-embedding-3-small", base_url=server.url, texts_per_request=3)
    )
    texts = [f"text number {n} about the weather" for n in range(10)]
    vectors = model.encode(texts)
    assert len(server.requests) == 4
    again = model.encode(list(reversed(texts)))
    assert vectors == list(reversed(again))
    assert all(math.isclose(cosine(v, v), 1.0) for v in vectors)
    assert ledger.usage is not None
    assert ledger.usage.requests == 8
    assert ledger.usage.input_tokens > 0


def test_vectors_may_be_shorter(server: ModelServer, loaded: Any) -> None:
    model = loaded(OpenAIEmbeddings(model="m", base_url=server.url, dimensions=7))
    assert [len(v) for v in model.encode(["a", "b"])] == [7, 7]


def test_embeddings_retry_and_raise(server: ModelServer, loaded: Any) -> None:
    server.script = first_attempts(["500", "garbage"])
    model = loaded(OpenAIEmbeddings(model="m", base_url=server.url))
    assert len(model.encode(["a"])) == 1
    server.script = always("422")
    with pytest.raises(ModelRequestError):
        model.encode(["b"])
    server.script = always("401")
    with pytest.raises(ModelAuthError):
        model.encode(["c"])


@pytest.mark.parametrize("form", ["url", "b64_json"])
def test_a_prompt_becomes_images(server: ModelServer, loaded: Any, form: str) -> None:
    model = loaded(OpenAIImageGeneration(model="m", base_url=server.url))
    ((one,), (two,)) = model.generate_outputs(["a cat", "a dog"], 2, response_format=form)
    assert len(one["images"]) == 2
    assert one["images"] != two["images"]
    # A URL would have expired before anybody reads the dataset.
    png = base64.b64decode(one["images"][0], validate=True)
    assert png.startswith(b"\x89PNG")


def test_a_refused_prompt_fails_alone(server: ModelServer, loaded: Any) -> None:
    server.script = always("400", containing="bad")
    model = loaded(OpenAIImageGeneration(model="m", base_url=server.url))
    ((good,), (bad,)) = model.generate_outputs(["a cat", "bad"])
    assert good["images"][0]
    assert bad["images"] == [None]
    assert bad["failures"][0].kind == "asyncdistil.errors.ModelRequestError"


def test_a_hugging_face_endpoint_makes_images(loaded: Any) -> None:
    async def start() -> Any:
        from aiohttp import web

        async def serve(request: web.BaseRequest) -> web.Response:
            prompt = (await request.json())["inputs"]
            if prompt == "no image":
                return web.json_response({"note": "queued"})
            return web.Response(body=prompt.encode(), content_type="image/jpeg")

        runner = web.ServerRunner(web.Server(serve))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/model"
        model = loaded(InferenceEndpointsImageGeneration(base_url=url, max_retries=0))
        outputs = await model.agenerate_outputs(["a cat", "no image"], 2)
        await runner.cleanup()
        return outputs

    good, bad = asyncio.run(start())
    assert [base64.b64decode(o["images"][0]) for o in good] == [b"a cat", b"a cat"]
    assert "sent no image" in bad[0]["failures"][0].message


def test_proposals_are_aggregated_in_rounds(server: ModelServer, loaded: Any) -> None:
    llms = [OpenAILLM(model=name, base_url=server.url) for name in ("agg", "p1", "p2")]
    moa = loaded(MixtureOfAgentsLLM(aggregator_llm=llms[0], proposers_llms=llms[1:], rounds=2))
    (output,) = moa.generate_outputs([chat("what is new")], 2)
    assert len(output["generations"]) == 2
    asked = [request.json["model"] for request in server.requests]
    assert sorted(asked[:4]) == ["p1", "p1", "p2", "p2"]
    assert asked[4] == "agg"
    assert "The answers:\n1. " in server.requests[4].prompt
    assert "The answers:\n1. what is new" in server.requests[2].prompt
    assert moa.model_name == "moa-agg-p1-p2"


def test_one_proposer_may_fail(server: ModelServer, loaded: Any) -> None:
    llms = [
        OpenAILLM(model=name, base_url=server.url, max_retries=0) for name in ("agg", "p1", "p2")
    ]
    moa = loaded(MixtureOfAgentsLLM(aggregator_llm=llms[0], proposers_llms=llms[1:]))
    server.script = lambda seen: None if seen.ordinal != 0 else always("422")(seen)
    (output,) = moa.generate_outputs([chat("a")])
    assert output["generations"][0]
    server.script = always("422")
    (output,) = moa.generate_outputs([chat("b")])
    assert output["failures"][0].kind == "asyncdistil.errors.ModelRequestError"


def test_a_gpu_is_claimed_by_one_process_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert visible_devices() == [2, 3]
    code = (
        "import sys, tempfile\n"
        "tempfile.tempdir = sys.argv[1]\n"
        "from asyncdistil.models.cuda import CudaDevices\n"
        "holder = CudaDevices()\n"
        "holder.place_on_devices()\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    mine = CudaDevices()
    mine.place_on_devices()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    with pytest.raises(ParameterError, match="1 GPU"):
        CudaDevices(cuda_devices=[2]).place_on_devices()
    other.kill()
    other.communicate()
    CudaDevices(cuda_devices=[2]).place_on_devices()  # a crash gives it back
    mine.give_up_devices()


def test_without_a_gpu_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    CudaDevices().place_on_devices()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
