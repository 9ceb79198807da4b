"""A chat template that needs no tokenizer writes prompts without one."""

from __future__ import annotations

import sys

import pytest

from asyncdistil.errors import ParameterError
from asyncdistil.models import ClientvLLM
from asyncdistil.models.tokenizing import TemplateAlone
from asyncdistil.testing.model_server import ModelServer

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MAGPIE = {"use_magpie_template": True, "magpie_pre_query_template": "qwen2"}


def test_magpie_needs_no_download_where_the_template_says_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    system = {"role": "system", "content": "Be {{ kind }}."}
    with ModelServer() as server:
        llm = ClientvLLM(model="m", base_url=server.url, chat_template=CHATML, **MAGPIE)
        llm.load()
        llm.generate_outputs([[system]])
        llm.generate_outputs([[system, {"role": "user", "content": "Hi"}]])
        llm.unload()
    head = "<|im_start|>system\nBe {{ kind }}.<|im_end|>\n<|im_start|>user\n"
    assert [asked.json["prompt"] for asked in server.requests] == [
        head,
        f"{head}Hi<|im_end|>\n<|im_start|>assistant\n",
    ]


@pytest.mark.parametrize("template", [None, "{{ bos_token }}{{ messages }}", "{% for %}"])
def test_a_template_that_needs_more_asks_for_the_tokenizer(
    template: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert not TemplateAlone.suffices(template)
    llm = ClientvLLM(model="m", base_url="http://127.0.0.1:9", chat_template=template, **MAGPIE)
    with pytest.raises(ParameterError, match="transformers"):
        llm.prepare()
