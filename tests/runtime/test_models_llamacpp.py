"""The real llama.cpp on a model of random weights, 100 kB large, written on the spot.

Skipped where `llama_cpp` or `gguf` is not installed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.models import LlamaCppLLM
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts
from asyncdistil.steps.tasks import TextGeneration

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
gguf = pytest.importorskip("gguf", reason="gguf, which writes the model, is not installed")

WIDTH, LAYERS, INNER, WORDS = 32, 2, 64, 300
COUNT = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def vocabulary(writer: Any) -> None:
    """Three marks, the 256 bytes, and words of a letter."""
    letters = [bytes([ord("a") + n % 26]) for n in range(WORDS - 259)]
    words = [(b"\xe2\x96\x81" if n < 26 else b"") + letter for n, letter in enumerate(letters)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(
        [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % n for n in range(256)), *words]
    )
    writer.add_token_scores([0.0] * 3 + [-1000.0] * 256 + [-float(n) for n in range(len(words))])
    kinds = gguf.TokenType
    marks = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL]
    writer.add_token_types([*marks, *[kinds.BYTE] * 256, *[kinds.NORMAL] * len(words)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }} {% endfor %}")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import numpy as np

    path = tmp_path_factory.mktemp("weights") / "tiny.gguf"
    draw = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_rope_dimension_count(WIDTH // 4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(WORDS)
    vocabulary(writer)

    def random(name: str, *shape: int) -> None:
        writer.add_tensor(f"{name}.weight", draw.normal(0, 0.3, shape).astype(np.float32))

    def ones(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))

    random("token_embd", WORDS, WIDTH)
    random("output", WORDS, WIDTH)
    ones("output_norm")
    for layer in range(LAYERS):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            random(f"blk.{layer}.{part}", WIDTH, WIDTH)
        random(f"blk.{layer}.ffn_gate", INNER, WIDTH)
        random(f"blk.{layer}.ffn_up", INNER, WIDTH)
        random(f"blk.{layer}.ffn_down", WIDTH, INNER)
        ones(f"blk.{layer}.attn_norm")
        ones(f"blk.{layer}.ffn_norm")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def model(weights: Path, **options: Any) -> LlamaCppLLM:
    return LlamaCppLLM(model_path=weights, n_gpu_layers=0, extra_kwargs={"n_threads": 1}, **options)


@pytest.fixture
def llm(weights: Path) -> Any:
    made = model(weights)
    made.load()
    yield made
    made.unload()


def test_it_answers_with_counts_as_often_as_asked(llm: LlamaCppLLM) -> None:
    one, two = llm.generate_outputs([chat("a b c"), chat("d e")], 2, max_new_tokens=6)
    for output in (one, two):
        assert len(output["generations"]) == 2
        assert all(isinstance(text, str) for text in output["generations"])
        # Its count of tokens is that of the text: bytes that are no UTF-8 count more.
        assert all(count >= 6 for count in output["statistics"]["output_tokens"])
    assert one["statistics"]["input_tokens"] == [6, 6]
    assert one["generations"][0] != one["generations"][1]


def test_it_repeats_itself_at_temperature_0(llm: LlamaCppLLM) -> None:
    kwargs = {"max_new_tokens": 8, "temperature": 0.0}
    (first,) = llm.generate_outputs([chat("a b c")], **kwargs)
    (again,) = llm.generate_outputs([chat("a b c")], **kwargs)
    assert first == again


def test_it_is_held_to_a_structure(llm: LlamaCppLLM) -> None:
    asked: Any = (chat("how many"), {"format": "json", "schema": COUNT})
    (output,) = llm.generate_outputs([asked], max_new_tokens=60)
    assert isinstance(json.loads(output["generations"][0] or "")["n"], int)


def test_a_conversation_that_is_too_long_fails_alone(llm: LlamaCppLLM) -> None:
    outputs = llm.generate_outputs([chat("a " * 1000), chat("b")], max_new_tokens=4)
    assert "context window" in outputs[0]["failures"][0].message
    assert outputs[1]["generations"][0] is not None


def test_an_answer_that_may_not_be_cut_off_fails_if_it_is(weights: Path) -> None:
    strict = model(weights, accept=("ok",))
    strict.load()
    (output,) = strict.generate_outputs([chat("a")], max_new_tokens=1)
    strict.unload()
    assert output["failures"][0].kind == "truncated"


def test_a_pipeline_asks_it_once_for_each_row(weights: Path, cache: Path, tmp_path: Path) -> None:
    def generated(path: Path, count: int, **task: Any) -> tuple[list[str], int, int]:
        llm = model(path, generation_kwargs={"max_new_tokens": 6})
        with Pipeline(name="local", cache_dir=cache) as pipeline:
            load = LoadDataFromDicts(data=[{"instruction": f"a b {n}"} for n in range(count)])
            load >> TextGeneration(name="ask", llm=llm, input_batch_size=4, **task)
        distiset = pipeline.run()
        step = distiset.report["steps"]["ask"]
        texts = list(distiset["default"]["train"]["generation"])
        return texts, step["requests"], step["requests_cached"]

    first, requests, _ = generated(weights, 10)
    assert all(text is not None for text in first)
    assert requests == 10
    # The same file elsewhere is the same model; only the new rows are asked about.
    moved = tmp_path / "moved.gguf"
    moved.write_bytes(weights.read_bytes())
    more, requests, _ = generated(moved, 12)
    assert more[:10] == first
    assert requests == 2
    # A task that shows its answers otherwise finds all of them.
    again, requests, cached = generated(moved, 12, add_raw_input=False)
    assert again == more
    assert (requests, cached) == (0, 12)
