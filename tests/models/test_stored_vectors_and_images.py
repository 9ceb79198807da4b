"""Vectors and images that were paid for once."""

from __future__ import annotations

import asyncio
import math
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from asyncdistil.errors import ModelRequestError
from asyncdistil.memo import Memo, Replies
from asyncdistil.models import (
    InferenceEndpointsImageGeneration,
    OpenAIEmbeddings,
    OpenAIImageGeneration,
    SentenceTransformerEmbeddings,
    memoized,
)
from asyncdistil.models.embeddings.stored import pack, unpack
from asyncdistil.models.image_generation.stored import MemoizedImages
from asyncdistil.models.reply import Reply
from asyncdistil.testing.chaos import always, in_order
from asyncdistil.testing.model_server import ModelServer
from asyncdistil.transport.brokers import Ledger


@pytest.fixture
def memo(tmp_path: Path) -> Iterator[Memo]:
    opened = Memo.open(tmp_path / "memo")
    memoized.use_store(Replies(opened, Reply))
    yield opened
    memoized.use_store(None)
    opened.close()


def new_run() -> None:
    memoized._local_claims = memoized.LocalClaims()


def embeddings(server: ModelServer, **options: Any) -> OpenAIEmbeddings:
    return OpenAIEmbeddings(**{"model": "m", "base_url": server.url, "api_key": "key-1", **options})


def texts_asked(server: ModelServer) -> list[str]:
    return [text for recorded in server.requests for text in recorded.json["input"]]


floats = st.floats(allow_nan=False) | st.floats(width=32, allow_nan=False)


@given(st.lists(floats) | st.lists(floats | st.integers(-128, 255)))
def test_a_vector_comes_back_as_it_was(vector: list[Any]) -> None:
    back = unpack(pack(vector))
    assert list(map(type, back)) == list(map(type, vector))
    assert [struct.pack("d", x) for x in back] == [struct.pack("d", x) for x in vector]


def test_numbers_of_single_precision_take_four_bytes_each() -> None:
    assert len(pack([0.5, -0.25, math.inf])) == 1 + 3 * 4
    assert len(pack([0.1, 0.2])) == 1 + 2 * 8
    assert len(pack([1e300])) == 1 + 8


def test_only_texts_that_are_new_are_embedded(
    server: ModelServer, loaded: Any, memo: Memo, ledger: Ledger
) -> None:
    texts = [f"text {n}" for n in range(20)]
    first = loaded(embeddings(server)).encode(texts)
    assert sorted(texts_asked(server)) == sorted(texts)
    more = [f"text {n}" for n in (20, 21)]
    again = loaded(embeddings(server)).encode([more[0], *reversed(texts), more[1]])
    assert texts_asked(server)[20:] == more
    assert again[1:-1] == list(reversed(first))
    assert ledger.usage is not None
    assert ledger.usage.cached == 20
    assert ledger.wrote_memo


def test_equal_texts_are_sent_once_and_get_vectors_of_their_own(
    server: ModelServer, loaded: Any
) -> None:
    one, two, three = loaded(embeddings(server)).encode(["a", "b", "a"])
    assert texts_asked(server) == ["a", "b"]
    assert one == three != two
    one[0] = 7.0
    assert three[0] != 7.0


@pytest.mark.parametrize("other", [{"model": "n"}, {"dimensions": 5}, {"model_identity": "x"}])
def test_another_model_knows_no_vector(
    server: ModelServer, loaded: Any, memo: Memo, other: dict[str, Any]
) -> None:
    loaded(embeddings(server)).encode(["a"])
    loaded(embeddings(server, **other)).encode(["a"])
    assert texts_asked(server) == ["a", "a"]


def test_settings_that_change_no_vector_ask_nothing(
    server: ModelServer, loaded: Any, memo: Memo
) -> None:
    loaded(embeddings(server)).encode(["a", "b"])
    settings = {"texts_per_request": 1, "max_concurrency": 2, "api_key": "key-2"}
    loaded(embeddings(server, **settings)).encode(["b", "a"])
    assert texts_asked(server) == ["a", "b"]


def test_what_was_embedded_before_a_failure_is_kept(
    server: ModelServer, loaded: Any, memo: Memo
) -> None:
    server.script = in_order([None, "422"])
    model = loaded(embeddings(server, texts_per_request=2, max_concurrency=1))
    with pytest.raises(ModelRequestError):
        model.encode(["a", "b", "c", "d"])
    asked = set(texts_asked(server)[:2])
    model.encode(["a", "b", "c", "d"])
    assert set(texts_asked(server)[4:]) == {"a", "b", "c", "d"} - asked


def test_vectors_of_a_stand_in_are_not_those_of_the_service(
    server: ModelServer, loaded: Any, memo: Memo
) -> None:
    loaded(embeddings(server, model_identity="production")).encode(["a"])
    (place,) = memo.statistics().models
    assert place.startswith("asyncdistil-stand-in")


class Engine:
    """Stands for sentence-transformers: counts what it loads and encodes."""

    loads = 0
    encoded: list[str] = []

    def __init__(self, *_: Any, **__: Any) -> None:
        Engine.loads += 1

    def encode(self, texts: list[str], **_: Any) -> Any:
        import numpy as np

        Engine.encoded += texts
        return np.array([[len(text), 0.5] for text in texts], dtype=np.float32)


def test_local_weights_are_loaded_for_new_texts_only(
    loaded: Any, memo: Memo, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = ModuleType("sentence_transformers")
    package.SentenceTransformer = Engine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", package)
    monkeypatch.setattr(Engine, "loads", 0)
    monkeypatch.setattr(Engine, "encoded", [])
    make = SentenceTransformerEmbeddings
    model = loaded(make(model="m", disable_cuda_device_placement=True))
    assert Engine.loads == 0
    assert model.encode(["a", "bb"]) == [[1.0, 0.5], [2.0, 0.5]]
    again = loaded(make(model="m", disable_cuda_device_placement=True))
    assert again.encode(["bb", "a"]) == [[2.0, 0.5], [1.0, 0.5]]
    assert Engine.loads == 1
    other = loaded(make(model="m", truncate_dim=2, disable_cuda_device_placement=True))
    other.encode(["a", "ccc"])
    assert Engine.encoded == ["a", "bb", "a", "ccc"]


def images(server: ModelServer, form: str) -> OpenAIImageGeneration:
    kwargs = {"response_format": form}
    return OpenAIImageGeneration(
        model="m", base_url=server.url, api_key="any", generation_kwargs=kwargs
    )


def made(model: Any, prompt: str, count: int) -> list[Any]:
    outputs = model.generate_outputs([prompt], count, **model.get_generation_kwargs())
    return [image for output in outputs[0] for image in output["images"]]


def test_an_image_is_paid_for_once_and_more_are_asked_for_beside_it(
    server: ModelServer, loaded: Any, memo: Memo
) -> None:
    model = loaded(images(server, "b64_json"))
    first = made(model, "a cat", 2)
    new_run()
    assert made(model, "a cat", 2) == first
    assert server.stats.requests == 1
    new_run()
    assert made(model, "a cat", 3)[:2] == first
    assert [recorded.json["n"] for recorded in server.requests] == [2, 1]


def test_a_link_to_an_image_is_not_kept_and_an_image_in_a_link_is() -> None:
    keeps = MemoizedImages().worth_keeping
    assert not keeps(Reply("ok", b"https://example.com/cat.png?expires=1"))
    assert keeps(Reply("ok", b"data:image/png;base64,iVBORw0KGgo="))
    assert keeps(Reply("ok", b"iVBORw0KGgo="))


def test_a_prompt_that_was_refused_is_asked_about_again(
    server: ModelServer, loaded: Any, memo: Memo
) -> None:
    server.script = always("400")
    model = loaded(images(server, "b64_json"))
    assert made(model, "a cat", 1) == [None]
    server.script = None
    new_run()
    assert made(model, "a cat", 1)[0]


def test_an_endpoint_of_hugging_face_makes_an_image_once(loaded: Any, memo: Memo) -> None:
    calls = []

    async def answer(request: web.Request) -> web.Response:
        calls.append(await request.json())
        return web.Response(body=b"image %d" % len(calls), content_type="image/png")

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        model = loaded(InferenceEndpointsImageGeneration(base_url=f"http://127.0.0.1:{port}"))
        ((one, two),) = await model.agenerate_outputs(["a cat"], 2)
        assert one["images"] != two["images"]
        new_run()
        assert await model.agenerate_outputs(["a cat"], 2) == [[one, two]]
        model.unload()
        await runner.cleanup()

    asyncio.run(main())
    assert len(calls) == 2
