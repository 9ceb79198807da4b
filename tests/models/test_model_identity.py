"""What makes two models the same model."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from asyncdistil.codec import canonical_bytes
from asyncdistil.models import (
    AsyncLLM,
    AzureOpenAILLM,
    InferenceEndpointsLLM,
    MixtureOfAgentsLLM,
    OllamaLLM,
    OpenAILLM,
)
from asyncdistil.models.identity import is_loopback, public_url


class Answer(BaseModel):
    text: str


def test_keys_and_operations_are_no_part_of_it() -> None:
    plain = OpenAILLM(model="m", base_url="http://h/v1")
    busy = OpenAILLM(
        model="m",
        base_url="http://user:pw@h/v1/?token=t",
        api_key="k",
        max_retries=1,
        timeout=3,
        max_concurrency=7,
        stream=True,
    )
    assert plain.identity_fields() == busy.identity_fields()


@pytest.mark.parametrize(
    "other",
    [
        {"model": "n"},
        {"base_url": "http://other/v1"},
        {"base_url": "http://h:81/v1"},
        {"generation_kwargs": {"temperature": 0.1}},
        {"structured_output": {"schema": Answer}},
        {"accept": ("ok",)},
        {"share_duplicates": True},
    ],
)
def test_what_can_change_an_answer_is(other: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"model": "m", "base_url": "http://h/v1"}
    assert (
        OpenAILLM(**fields).identity_fields() != OpenAILLM(**{**fields, **other}).identity_fields()
    )


def test_a_declared_identity_stands_for_the_place() -> None:
    one = OpenAILLM(model="m", base_url="http://a/v1", model_identity="llama")
    two = OpenAILLM(model="m", base_url="http://b/v1", model_identity="llama")
    assert one.identity_fields() == two.identity_fields()


@pytest.mark.parametrize(
    "model",
    [
        OpenAILLM(model="m", structured_output={"schema": Answer}),
        AzureOpenAILLM(model="m", base_url="http://h", api_version="1"),
        OllamaLLM(model="m"),
        InferenceEndpointsLLM(model_id="a/b"),
        MixtureOfAgentsLLM(
            aggregator_llm=OpenAILLM(model="m"), proposers_llms=[OpenAILLM(model="n")]
        ),
    ],
)
def test_the_codec_takes_it(model: Any) -> None:
    assert canonical_bytes("test/1", model.identity_fields())


def test_a_secret_is_left_out_wherever_it_stands() -> None:
    class Own(AsyncLLM):
        password: SecretStr = SecretStr("canary")
        nested: dict[str, Any] = {}

        @property
        def model_name(self) -> str:
            return "own"

        async def agenerate(self, input: Any, num_generations: int = 1) -> Any: ...

    fields = Own(nested={"token": SecretStr("canary"), "list": [SecretStr("canary")]})
    assert "canary" not in repr(fields.identity_fields())


def test_a_custom_model_may_leave_fields_out() -> None:
    class Own(AsyncLLM):
        retries: int = 1

        @property
        def model_name(self) -> str:
            return "own"

        @property
        def signature_ignore(self) -> set[str]:
            return {"retries"}

        async def agenerate(self, input: Any, num_generations: int = 1) -> Any: ...

    assert Own(retries=2).identity_fields() == Own(retries=3).identity_fields()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pw@h.example:8443/v1/?key=1#x", "https://h.example:8443/v1"),
        ("http://[::1]:80/v1", "http://[::1]:80/v1"),
        ("http://h", "http://h"),
    ],
)
def test_a_url_is_shown_without_secrets(url: str, shown: str) -> None:
    assert public_url(url) == shown


def test_loopback_is_told_from_the_rest() -> None:
    assert [is_loopback(u) for u in ("http://127.0.0.1:1", "http://localhost/v1", "http://[::1]/")]
    assert not is_loopback("https://api.openai.com/v1")
    assert not is_loopback("http://localhost.example.com")
