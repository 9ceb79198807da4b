"""What a retry asks anew, and which vectors the memo holds, are foreseen as the run makes them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.errors import ParameterError
from asyncdistil.mixins.runtime_parameters import RuntimeParameter
from asyncdistil.models import OpenAIEmbeddings, OpenAILLM, openai_replies
from asyncdistil.models.http import HttpReply
from asyncdistil.pipeline import Pipeline
from asyncdistil.pipeline.history import Interval
from asyncdistil.steps import EmbeddingGeneration, LoadDataFromDicts, RowStep
from asyncdistil.steps.tasks import TextGeneration

NOBODY = {"model": "m", "base_url": "http://models.invalid/v1", "api_key": "sk-none"}


class Halve(RowStep):
    less: RuntimeParameter[int] = 0

    @property
    def inputs(self) -> list[str]:
        return ["n"]

    @property
    def outputs(self) -> list[str]:
        return ["half"]

    def transform(self, row: dict[str, Any]) -> dict[str, Any]:
        if row["n"] in json.loads(os.environ.get("BAD", "[]")):
            raise ValueError("odd")
        return row | {"half": row["n"] / 2 - (self.less or 0)}


class Add(RowStep):
    @property
    def inputs(self) -> list[str]:
        return ["half"]

    @property
    def outputs(self) -> list[str]:
        return ["more"]

    def transform(self, row: dict[str, Any]) -> dict[str, Any]:
        return row | {"more": None if row["half"] is None else row["half"] + 1}


class Answering(OpenAILLM):
    """Answers by itself, at an address where nobody could be asked."""

    async def _send(self, request: Any, count: int) -> Any:
        text = request.body["messages"][-1]["content"]
        choice = {"message": {"content": text.upper()}, "finish_reason": "stop"}
        body = {"choices": [choice] * count, "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
        return openai_replies.samples(json.dumps(body).encode(), service="nobody")


class Measuring(OpenAIEmbeddings):
    """Measures texts by itself, at an address where nobody could be asked."""

    def _connect(self) -> None:
        super()._connect()
        assert self._client is not None

        async def post(_path: str, body: bytes, **_: Any) -> HttpReply:
            texts = json.loads(body)["input"]
            data = [{"embedding": [len(text), 0.5], "index": n} for n, text in enumerate(texts)]
            told = {"data": data, "usage": {"prompt_tokens": 10 * len(texts)}}
            return HttpReply(json.dumps(told).encode(), {})

        self._client.post = post  # type: ignore[method-assign]


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"n": n, "instruction": f"say {n}"} for n in range(start, start + count)]


def halves(cache: Path) -> Pipeline:
    with Pipeline("halves", cache_dir=cache) as pipeline:
        load = LoadDataFromDicts(name="load", data=rows(10), batch_size=4)
        load >> Halve(name="halve") >> Add(name="add")
    return pipeline


def figures(report: Any, step: str) -> tuple[int, int]:
    told = report["steps"][step]
    return told["inputs_computed"], told["inputs_replayed"]


RETRIES: dict[str, dict[str, Any]] = {
    "all failed rows": {},
    "those of a step that meet a condition": {"where": "n > 3", "step": ""},
    "good rows of a step": {"step": "halve", "where": "n in [1, 2, 8]"},
    "with a changed parameter": {
        "step": "halve",
        "where": "n < 3",
        "parameters": {"halve": {"less": 1}},
    },
}


@pytest.mark.parametrize("wanted", RETRIES.values(), ids=RETRIES)
def test_what_a_retry_will_compute_is_foreseen_row_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, Any]
) -> None:
    monkeypatch.setenv("BAD", "[3, 5, 7]")
    halves(tmp_path).run()
    monkeypatch.delenv("BAD")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    forecast = halves(tmp_path).plan_retry(**wanted)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert not forecast.hit
    made: Any = halves(tmp_path).retry(**wanted).report
    halve, add = forecast["halve"], forecast["add"]
    assert halve.exact
    assert (halve.compute, halve.replayed) == figures(made, "halve")
    assert "asked anew" in halve.why or "less" in halve.why
    computed, replayed = figures(made, "add")
    assert add.to_run is not None
    assert add.to_run + add.replayed == computed + replayed == 10
    # A good row that is asked again may come out as it was: nothing below it is computed then.
    assert computed == (0 if wanted == RETRIES["good rows of a step"] else add.to_run)
    assert add.reusable
    assert forecast["load"].replayed == 10
    assert not forecast["load"].runs
    again = halves(tmp_path).plan_retry(**wanted)
    assert not any(step.runs for step in again.steps)


def test_a_retry_that_is_refused_has_no_forecast(tmp_path: Path) -> None:
    halves(tmp_path).run()
    pipeline = halves(tmp_path)
    pipeline["halve"].less = 2
    with pytest.raises(ParameterError, match="other steps or parameters"):
        pipeline.plan_retry()


def asking(cache: Path) -> Pipeline:
    with Pipeline("asking", cache_dir=cache) as pipeline:
        ask = TextGeneration(name="ask", llm=Answering(**NOBODY), num_generations=2)
        LoadDataFromDicts(name="load", data=rows(6)) >> ask
    return pipeline


def test_calls_of_a_retry_are_foreseen_and_answers_of_other_runs_do_not_stand_for_them(
    tmp_path: Path,
) -> None:
    asking(tmp_path).run()
    forecast = asking(tmp_path).plan_retry("ask", "n in [1, 4]")
    ask = forecast["ask"]
    assert (ask.compute, ask.replayed) == (2, 4)
    assert (ask.model_calls, ask.memo_answers) == (4, 0)
    made: Any = asking(tmp_path).retry("ask", "n in [1, 4]").report
    told = made["steps"]["ask"]
    assert told["inputs_computed"] == 2
    assert told["requests_cached"] == 0
    assert 0 < told["requests"] <= 4


def embedding(cache: Path, texts: list[str], *, name: str = "embedding") -> Pipeline:
    with Pipeline(name, cache_dir=cache) as pipeline:
        data = [{"text": text} for text in texts]
        step = EmbeddingGeneration(name="embed", embeddings=Measuring(**NOBODY, price=(1.0, 0.0)))
        LoadDataFromDicts(name="load", data=data) >> step
    return pipeline


def test_vectors_in_the_memo_are_foreseen_text_by_text(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(12)]
    first = embedding(tmp_path, texts).plan()["embed"]
    assert (first.model_calls, first.memo_answers, first.tokens) == (12, 0, None)
    told: Any = embedding(tmp_path, texts).run().report
    assert told["steps"]["embed"]["requests"] == 1

    new = ["a new one", *texts[:5], "another"]
    more = embedding(tmp_path, new, name="more").plan()["embed"]
    assert (more.compute, more.model_calls, more.memo_answers) == (7, 2, 5)
    told = embedding(tmp_path, new, name="more").run().report
    made = told["steps"]["embed"]
    assert (made["requests_cached"], made["requests"]) == (5, 1)

    known = embedding(tmp_path, texts[3:], name="known")
    assert (known.plan()["embed"].model_calls, known.plan()["embed"].memo_answers) == (0, 9)
    told = known.run().report
    made = told["steps"]["embed"]
    assert (made["requests_cached"], made["requests"]) == (9, 0)


def test_tokens_of_texts_that_are_sent_together_are_reckoned_by_the_text(tmp_path: Path) -> None:
    embedding(tmp_path, [f"text {number}" for number in range(12)]).run()
    more = embedding(tmp_path, [f"text {number}" for number in range(15)]).plan()["embed"]
    assert (more.model_calls, more.tokens) == (3, Interval(30, 30))
