"""Runs of tasks that make several rows of one, some of which cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asyncdistil.errors import FailureBudgetExceeded
from asyncdistil.models import OllamaLLM, OpenAILLM
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts
from asyncdistil.steps.tasks import Task, TextGeneration
from asyncdistil.testing.chaos import Fault, Seen
from asyncdistil.testing.fake_llm import FakeLLM
from asyncdistil.testing.model_server import ModelServer


class Read(Task):
    """Reads what has no "bad" in it."""

    @property
    def inputs(self) -> list[str]:
        return ["a"]

    @property
    def outputs(self) -> list[str]:
        return ["b", "model_name"]

    def format_input(self, input: dict[str, Any]) -> Any:
        return [{"role": "user", "content": input["a"]}]

    def format_output(self, output: Any, input: dict[str, Any] | None = None) -> dict[str, Any]:
        if "bad" in output:
            raise ValueError(output)
        return {"b": output}


def made(folder: Path, reply: Any) -> list[Any]:
    with Pipeline("several", cache_dir=folder) as pipeline:
        rows = LoadDataFromDicts(data=[{"a": "1"}, {"a": "2"}])
        rows >> Read(llm=FakeLLM(reply=reply), num_generations=3)
    return [row["b"] for row in pipeline.run()["default"]["train"]]


def test_more_failures_than_inputs_do_not_stop_a_run_with_good_rows(tmp_path: Path) -> None:
    assert made(tmp_path, ["good", "bad", "bad"]) == ["good", None, None] * 2


def test_an_input_none_of_whose_answers_is_good_keeps_all_its_rows(tmp_path: Path) -> None:
    def reply(asked: str) -> str:
        return "bad" if asked == "2" else "good"

    assert made(tmp_path, reply) == ["good"] * 3 + [None] * 3


def test_a_run_without_a_single_good_row_stops(tmp_path: Path) -> None:
    with pytest.raises(FailureBudgetExceeded, match="looks like a bug"):
        made(tmp_path, "bad")


class Numbered:
    """A service that numbers its answers, and refuses or garbles some while it is ``ill``."""

    def __init__(self) -> None:
        self.answers = 0
        self.ill = True
        self.server = ModelServer(answer=self._answer, script=self._script)

    def _answer(self, wanted: Any, index: int) -> str:
        self.answers += 1
        garbled = self.ill and "garbled" in wanted.prompt and index == 1
        return "bad" if garbled else f"answer {self.answers}"

    def _script(self, seen: Seen) -> Fault | None:
        refused = self.ill and "refused" in seen.prompt and seen.attempt in {2, 3}
        return Fault("400") if refused else None


def asking(folder: Path, llm: Any, prompts: list[str], **options: Any) -> Pipeline:
    kind = Read if isinstance(llm, OpenAILLM) else TextGeneration
    column = "a" if kind is Read else "instruction"
    with Pipeline("asking", cache_dir=folder) as pipeline:
        data = [{column: prompt, "n": n} for n, prompt in enumerate(prompts)]
        LoadDataFromDicts(data=data) >> kind(llm=llm, num_generations=4, **options)
    return pipeline


def texts(distiset: Any) -> list[Any]:
    rows = distiset["default"]["train"]
    column = "b" if "b" in rows.column_names else "generation"
    flat: list[Any] = []
    for value in rows[column]:
        flat += value if isinstance(value, list) else [value]
    return flat


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("way", ["run", "retry"])
@pytest.mark.parametrize(("trouble", "failed"), [("garbled", 1), ("refused", 2)])
def test_of_several_generations_those_that_failed_are_asked_for_again_and_no_others(
    tmp_path: Path, grouped: bool, way: str, trouble: str, failed: int
) -> None:
    service = Numbered()
    with service.server as server:
        if trouble == "garbled":
            llm: Any = OpenAILLM(model="m", base_url=server.url, api_key="any")
        else:
            llm = OllamaLLM(model="m", host=server.url.removesuffix("/v1"))
        prompts = ["fine", f"{trouble} one", "fine too", f"{trouble} two"]
        pipeline = asking(tmp_path, llm, prompts, group_generations=grouped)
        first = {text for text in texts(pipeline.run()) if text is not None}
        assert len(first) == 16 - 2 * failed
        service.ill = False
        before = service.answers
        mended = texts(getattr(pipeline, way)())
    assert service.answers == before + 2 * failed
    assert None not in mended
    assert len(set(mended)) == 16
    assert first < set(mended)


def test_a_failed_row_that_stands_keeps_its_good_answers_to_itself(tmp_path: Path) -> None:
    service = Numbered()
    with service.server as server:
        llm = OpenAILLM(model="m", base_url=server.url, api_key="any")
        asking(tmp_path, llm, ["garbled"]).run()
        service.ill = False
        both = texts(asking(tmp_path, llm, ["garbled"] * 2).run(retry_failed=False))
        assert len({*both} - {None}) == 7
        mended = texts(asking(tmp_path, llm, ["garbled"] * 2).run())
        assert len({*mended}) == 8
        assert {*both} - {None} < {*mended}
    assert service.answers == 9
