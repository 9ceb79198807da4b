"""Models that run in this process: stored answers first, weights only at a miss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from pydantic import PrivateAttr

from asyncdistil.memo import Memo, Replies
from asyncdistil.models import LlamaCppLLM, TransformersLLM, memoized
from asyncdistil.models.llms.local import Completed, LocalLLM
from asyncdistil.models.reply import Reply
from asyncdistil.transport.brokers import Ledger


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


class Engine(LocalLLM):
    """Counts its words; the number of an answer is part of it."""

    name: str = "engine"
    _loads: int = PrivateAttr(0)
    _asked: list[tuple[int, int]] = PrivateAttr(default_factory=list)
    _written: int = PrivateAttr(0)

    @property
    def model_name(self) -> str:
        return self.name

    def _load_weights(self) -> None:
        self._loads += 1

    def _weights_identity(self) -> dict[str, Any]:
        return {"name": self.name}

    def generate(
        self, inputs: list[Any], num_generations: int = 1, temperature: float = 1.0
    ) -> list[Any]:
        settings = {"temperature": temperature}
        return self._answer(inputs, num_generations, settings, deterministic=temperature == 0)

    def _complete(
        self, prompts: Sequence[Any], count: int, settings: Mapping[str, Any], structure: Any
    ) -> list[list[Completed]]:
        self._asked.append((len(prompts), count))
        answers = []
        for prompt in prompts:
            text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
            numbers = range(self._written, self._written + count)
            self._written += count
            answers.append([Completed(f"{text} {n}", 3, 2, text == "long") for n in numbers])
        return answers


@pytest.fixture
def memo(tmp_path: Path) -> Iterator[Memo]:
    opened = Memo.open(tmp_path / "memo")
    memoized.use_store(Replies(opened, Reply))
    yield opened
    opened.close()


def new_run() -> None:
    memoized._local_claims = memoized.LocalClaims()


def test_a_batch_is_answered_in_one_call() -> None:
    engine = Engine()
    engine.load()
    outputs = engine.generate_outputs([chat("a"), chat("b"), chat("c")], 2)
    assert [len(o["generations"]) for o in outputs] == [2, 2, 2]
    assert engine._asked == [(3, 2)]
    assert outputs[0]["statistics"] == {"input_tokens": [3, 3], "output_tokens": [2, 2]}


def test_weights_are_not_loaded_while_every_answer_is_stored(memo: Memo, ledger: Ledger) -> None:
    first = Engine()
    first.load()
    assert first._loads == 0
    outputs = first.generate_outputs([chat("a"), chat("b")], 2)
    assert first._loads == 1
    new_run()
    second = Engine()
    second.load()
    assert second.generate_outputs([chat("a"), chat("b")], 2) == outputs
    assert second._loads == 0
    assert ledger.usage is not None
    assert (ledger.usage.requests, ledger.usage.cached) == (2, 4)


def test_only_what_is_missing_is_computed(memo: Memo) -> None:
    engine = Engine()
    engine.generate_outputs([chat("a"), chat("b")])
    new_run()
    engine.generate_outputs([chat("a"), chat("new"), chat("b"), chat("other")], 2)
    assert sorted(engine._asked[1:]) == [(2, 1), (2, 2)]


def test_equal_rows_get_samples_of_their_own(memo: Memo, ledger: Ledger) -> None:
    outputs = Engine().generate_outputs([chat("a"), chat("a")])
    assert outputs[0]["generations"] != outputs[1]["generations"]
    assert sorted(number for _, number in ledger.samples) == [0, 1]


def test_other_weights_and_settings_are_other_answers(memo: Memo) -> None:
    for name, temperature in (("x", 1.0), ("y", 1.0), ("x", 0.5)):
        new_run()
        engine = Engine(name=name)
        engine.generate_outputs([chat("a")], temperature=temperature)
        assert engine._loads == 1


def test_a_wrong_structure_fails_its_row_alone() -> None:
    engine = Engine(structured_output={"format": "regex", "schema": r"a \d"})
    outputs = engine.generate_outputs([chat("a"), chat("b")])
    assert outputs[0]["generations"] == ["a 0"]
    assert "must match" in outputs[1]["failures"][0].message  # type: ignore[union-attr]


def test_a_truncated_answer_counts_unless_it_may_not() -> None:
    assert Engine().generate_outputs([chat("long")])[0]["generations"] == ["long 0"]
    (output,) = Engine(accept=("ok",)).generate_outputs([chat("long")])
    assert output["failures"][0].kind == "truncated"  # type: ignore[union-attr]


# --- transformers, with a model made here ---------------------------------------------------------

WORDS = [
    "<pad>",
    "<eos>",
    "<unk>",
    "<user>",
    "<assistant>",
    *["the", "a", "cat", "dog", "sat", "ran", "on", "mat"],
]
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    place = tmp_path_factory.mktemp("tiny")
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(place)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(place)
    return place


def transformer(place: Path, **kwargs: Any) -> TransformersLLM:
    return TransformersLLM(model=str(place), device="cpu", **kwargs)


def test_a_transformer_answers_each_input(tiny: Path) -> None:
    llm = transformer(tiny)
    llm.load()
    assert llm._model is None
    outputs = llm.generate_outputs(
        [chat("the cat sat"), chat("a dog")], 2, max_new_tokens=5, temperature=1.0
    )
    assert [len(o["generations"]) for o in outputs] == [2, 2]
    assert all(0 < n <= 5 for o in outputs for n in o["statistics"]["output_tokens"])
    assert [o["statistics"]["input_tokens"] for o in outputs] == [[5, 5], [4, 4]]
    llm.unload()
    assert llm._model is None


def test_padding_does_not_change_a_greedy_answer(tiny: Path) -> None:
    llm = transformer(tiny)
    llm.load()
    greedy = {"do_sample": False, "max_new_tokens": 6}
    alone = llm.generate_outputs([chat("a dog")], **greedy)
    beside = llm.generate_outputs([chat("the cat sat on the mat"), chat("a dog")], **greedy)
    assert beside[1] == alone[0]


def test_hidden_states_have_a_row_per_token(tiny: Path) -> None:
    llm = transformer(tiny)
    llm.load()
    states = llm.get_last_hidden_states([chat("the cat sat"), chat("a dog")])  # type: ignore[list-item]
    assert [state.shape for state in states] == [(5, 16), (4, 16)]


def test_a_transformer_writes_the_users_turn_for_magpie(tiny: Path) -> None:
    llm = transformer(tiny, use_magpie_template=True, magpie_pre_query_template="<user>")
    llm.load()
    (output,) = llm.generate_outputs([[]], max_new_tokens=4, temperature=1.0)
    assert output["statistics"]["input_tokens"] == [1]


def test_stored_answers_of_a_transformer_need_no_weights(tiny: Path, memo: Memo) -> None:
    for loads in (True, False):
        new_run()
        llm = transformer(tiny)
        llm.load()
        llm.generate_outputs([chat("a cat")], max_new_tokens=4)
        assert (llm._model is not None) == loads


def test_a_model_that_was_pickled_for_a_worker_starts_afresh(tmp_path: Path) -> None:
    path = tmp_path / "any.gguf"
    path.write_bytes(b"no weights are read here")
    llm = LlamaCppLLM(model_path=path)
    llm.load()
    copy = cloudpickle.loads(cloudpickle.dumps(llm))
    assert copy._weights is not llm._weights
    with copy._weights:
        assert not copy._weights_loaded
    assert copy.identity_fields() == llm.identity_fields()
