"""Forecasts beyond a changed key: what is not known yet, what failed, what it costs."""

import json
import os
from pathlib import Path
from typing import Any, ClassVar

import pytest

from asyncdistil.batch import FRESH_ORIGINS, RunId, Usage
from asyncdistil.codec import encode_rows
from asyncdistil.errors import GraphError, ParameterError
from asyncdistil.log import SegmentWriter, Store
from asyncdistil.log.events import Commit, RunBegin, StepDef
from asyncdistil.models import OpenAILLM, openai_replies
from asyncdistil.models.llms import AsyncLLM
from asyncdistil.models.memoized import book
from asyncdistil.pipeline import Pipeline, RunOptions, build_plan, routing_batch_function
from asyncdistil.pipeline.history import Interval
from asyncdistil.steps import GeneratorStep, GlobalStep, LoadDataFromDicts, Step, StepInput
from asyncdistil.steps.tasks import TextGeneration
from asyncdistil.typing import GeneratorStepOutput, StepOutput

HANDLE = iter(range(3))


class Plus(Step):
    add: int = 1

    @property
    def inputs(self) -> list[str]:
        return ["n"]

    @property
    def outputs(self) -> list[str]:
        return [self.name]

    def process(self, inputs: StepInput) -> StepOutput:
        yield [row | {self.name: row["n"] + self.add} for row in inputs]


class Tripled(Plus):
    """Three rows of each, so that what comes below can be known from earlier runs only."""

    def process(self, inputs: StepInput) -> StepOutput:
        yield [row | {self.name: copy} for row in inputs for copy in range(3)]


class Held(Plus):
    def process(self, inputs: StepInput) -> StepOutput:
        assert HANDLE is not None
        yield [row | {self.name: 0} for row in inputs]


class Total(GlobalStep):
    inputs: ClassVar[list[str]] = ["n"]  # type: ignore[misc]

    def process(self, inputs: StepInput) -> StepOutput:
        yield [{"n": sum(row["n"] for row in inputs)}]


class Ticks(GeneratorStep):
    outputs: ClassVar[list[str]] = ["n"]  # type: ignore[misc]

    def process(self, offset: int = 0) -> GeneratorStepOutput:
        yield [{"n": n} for n in range(5)], True


class Priced(AsyncLLM):
    model_name: ClassVar[str] = "priced"  # type: ignore[misc]
    cost: int = 100

    async def agenerate(self, input: Any, num_generations: int = 1, **kwargs: Any) -> Any:
        for _ in range(num_generations):
            book(Usage(requests=1, input_tokens=6, output_tokens=4, cost_microusd=self.cost))
        return {"generations": ["yes"] * num_generations, "statistics": {}}


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"n": n, "instruction": f"say {n}"} for n in range(start, start + count)]


def chain(cache: Path, *steps: Step, data: list[dict[str, Any]] | None = None) -> Pipeline:
    pipeline = Pipeline("cases", cache_dir=cache)
    before: Any = LoadDataFromDicts(name="load", data=data or rows(10), pipeline=pipeline)
    for step in steps:
        pipeline.add_step(step)
        pipeline.connect(before.name, step.name)
        before = step
    return pipeline


def test_a_pipeline_that_never_ran_computes_everything(tmp_path: Path) -> None:
    forecast = chain(tmp_path, Plus(name="plus", input_batch_size=4)).plan()
    assert not forecast.hit
    assert [(s.replayed, s.compute, s.pending, s.calls) for s in forecast.steps] == [
        (0, 10, 0, 1),
        (0, 10, 0, 3),
    ]
    assert all(step.exact for step in forecast.steps)
    assert list(tmp_path.iterdir()) == []


def test_a_plan_leaves_the_steps_as_they_are(tmp_path: Path) -> None:
    pipeline = chain(tmp_path, Plus(name="plus", input_batch_size=4))
    forecast = pipeline.plan(parameters={"plus": {"input_batch_size": 5}})
    assert forecast["plus"].calls == 2
    assert pipeline["plus"].input_batch_size == 4  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="did you mean 'retry_failed'"):
        pipeline.plan(retry_faild=True)  # type: ignore[call-arg]
    with pytest.raises(ParameterError):
        pipeline.plan(on_error="sometimes")  # type: ignore[arg-type]


def test_rows_below_a_changed_step_are_expected_by_what_it_made_before(tmp_path: Path) -> None:
    def made(add: int) -> Pipeline:
        return chain(tmp_path, Tripled(name="three", add=add), Plus(name="plus"), Total(name="sum"))

    made(1).run()
    forecast = made(2).plan()
    assert forecast["load"].replayed == 10
    assert (forecast["three"].compute, forecast["three"].exact) == (10, True)
    assert (forecast["plus"].compute, forecast["plus"].pending) == (0, 30)
    assert not forecast["plus"].reusable
    assert forecast["sum"].calls == 1
    assert forecast["plus"].why == "upstream three changed"
    report: Any = made(2).run().report
    assert report["steps"]["plus"]["inputs_computed"] == 30


def test_rows_added_at_the_end_cost_only_themselves(tmp_path: Path) -> None:
    def made(count: int) -> Pipeline:
        return chain(tmp_path, Plus(name="plus", input_batch_size=5), data=rows(count))

    made(10).run()
    forecast = made(13).plan()
    assert forecast["load"].why == "its data changed"
    assert (forecast["plus"].replayed, forecast["plus"].compute) == (10, 3)
    report: Any = made(13).run().report
    assert report["steps"]["plus"]["inputs_replayed"] == 10
    assert report["steps"]["plus"]["inputs_computed"] == 3


def test_a_loader_goes_on_behind_what_is_stored(tmp_path: Path) -> None:
    def made() -> Pipeline:
        return chain(tmp_path, Plus(name="plus", input_batch_size=5))

    plan = build_plan(made(), RunOptions()).outline
    (load, _) = plan.steps
    assert load.data_identity is not None
    store = Store.open(tmp_path, "cases")
    segment, fd = store.create_segment(load.lineage)
    written = SegmentWriter(fd, segment, store.id).append(encode_rows(rows(7), step="load"))
    run = RunId("0" * 32)
    begin = RunBegin(run, plan.signature, plan.aggregated_signature, plan.options, 0.0)
    commit = Commit(run, load.lineage, (), (load.data_identity,), written, FRESH_ORIGINS)
    store.append([begin, StepDef(load.lineage, load.name, load.definition), commit])
    store.close(clean=True)

    forecast = made().plan()
    assert forecast.resumes
    assert (forecast["load"].replayed, forecast["load"].compute) == (7, 3)
    assert (forecast["plus"].compute, forecast["plus"].calls) == (10, 2)
    report: Any = made().run().report
    assert report["run"] == run
    assert report["steps"]["load"]["rows_replayed"] == 7
    assert report["steps"]["load"]["rows_computed"] == 3


def test_use_cache_false_is_foreseen_for_a_run_and_for_a_step(tmp_path: Path) -> None:
    chain(tmp_path, Plus(name="plus"), Plus(name="again")).run()
    forecast = chain(tmp_path, Plus(name="plus"), Plus(name="again")).plan(use_cache=False)
    assert [(step.replayed, step.to_run) for step in forecast.steps] == [(0, 10)] * 3
    assert {step.why for step in forecast.steps} == {"use_cache=False"}
    forecast = chain(tmp_path, Plus(name="plus", use_cache=False), Plus(name="again")).plan()
    assert [step.replayed for step in forecast.steps] == [10, 0, 0]
    assert [step.to_run for step in forecast.steps] == [0, 10, 10]


def test_a_step_that_can_not_be_told_apart_runs_every_time(tmp_path: Path) -> None:
    chain(tmp_path, Held(name="held")).run()
    forecast = chain(tmp_path, Held(name="held")).plan()
    assert not forecast.hit
    assert (forecast["held"].compute, forecast["held"].replayed) == (10, 0)
    assert "runs every time" in forecast["held"].why
    assert any("HANDLE" in warning for warning in forecast.warnings)


def test_a_generator_that_says_nothing_of_its_data_is_unknown(tmp_path: Path) -> None:
    def made() -> Pipeline:
        with Pipeline("ticks", cache_dir=tmp_path) as pipeline:
            Ticks(name="ticks") >> Plus(name="plus")
        return pipeline

    first = made().plan()
    assert first["ticks"].pending is None
    assert first["plus"].pending is None
    assert "unknown" in str(first)
    made().run()
    forecast = made().plan()
    assert forecast["ticks"].pending == 5
    assert (forecast["plus"].pending, forecast["plus"].reusable) == (5, True)
    assert not forecast.hit


@routing_batch_function
def to_both(steps: list[str]) -> list[str]:
    return steps


def test_branches_of_a_router_are_unknown_until_it_has_decided(tmp_path: Path) -> None:
    def made() -> Pipeline:
        with Pipeline("routed", cache_dir=tmp_path) as pipeline:
            load = LoadDataFromDicts(name="load", data=rows(6))
            load >> to_both >> [Plus(name="left"), Plus(name="right")]
        return pipeline

    forecast = made().plan()
    assert forecast["left"].pending is None
    assert forecast["left"].calls is None
    made().run()
    assert made().plan().hit


def test_model_calls_and_their_price_are_estimated_from_what_is_stored(tmp_path: Path) -> None:
    def made(count: int, **model: Any) -> Pipeline:
        task = TextGeneration(name="ask", llm=Priced(**model), num_generations=2)
        return chain(tmp_path, task, data=rows(count))

    first = made(4).plan()["ask"]
    assert (first.model_calls, first.tokens, first.cost_microusd) == (8, None, None)
    made(4).run()
    more = made(7).plan()
    assert more["ask"].model_calls == 6
    assert more["ask"].tokens == Interval(60, 60)
    assert more["ask"].cost_microusd == Interval(600, 600)
    assert "at most 6 model calls, 60 tokens, $0.0006" in more.summary
    changed = made(4, cost=300).plan()["ask"]
    assert changed.model_calls == 8
    assert [change.component for change in changed.changes] == ["field.llm.cost"]


class Answering(OpenAILLM):
    """Answers by itself, at an address where nobody could be asked."""

    async def _send(self, request: Any, count: int) -> Any:
        text = request.body["messages"][-1]["content"]
        choice = {"message": {"content": text.upper()}, "finish_reason": "stop"}
        body = {"choices": [choice] * count, "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
        return openai_replies.samples(json.dumps(body).encode(), service="nobody")


def test_answers_in_the_memo_are_foreseen(tmp_path: Path) -> None:
    def made(count: int, **task: Any) -> Pipeline:
        model = Answering(model="m", base_url="http://models.invalid/v1", api_key="sk-none")
        ask = TextGeneration(name="ask", llm=model, num_generations=2, **task)
        return chain(tmp_path, ask, data=rows(count))

    first = made(4).plan()["ask"]
    assert (first.model_calls, first.memo_answers) == (8, 0)
    report: Any = made(4).run().report
    assert report["steps"]["ask"]["failed"] == 0
    # Another column of metadata is another step, with the same requests.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    forecast = made(5, add_raw_output=False).plan()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    ask = forecast["ask"]
    assert (ask.compute, ask.model_calls, ask.memo_answers) == (5, 2, 8)
    assert "up to 2 of the model, 8 from the memo" in str(forecast)
    report = made(5, add_raw_output=False).run().report
    assert report["steps"]["ask"]["requests_cached"] == 8
    assert made(5, add_raw_output=True).plan(use_cache=False)["ask"].memo_answers == 0


def test_a_forecast_is_plain_data_and_a_table(tmp_path: Path) -> None:
    forecast = chain(tmp_path, Plus(name="plus")).plan()
    told = json.loads(json.dumps(forecast.to_dict()))
    assert [step["name"] for step in told["steps"]] == ["load", "plus"]
    assert str(forecast).splitlines()[1].startswith("step")
    assert "<table>" in forecast._repr_html_()
    with pytest.raises(KeyError, match="no step 'minus'"):
        forecast["minus"]


def test_an_unknown_step_can_not_be_explained(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="no step 'minus'"):
        chain(tmp_path, Plus(name="plus")).explain("minus")


def test_nothing_is_started_and_nothing_is_written_by_a_plan(tmp_path: Path) -> None:
    chain(tmp_path, Plus(name="plus")).run()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    children = os.listdir(f"/proc/{os.getpid()}/task/{os.getpid()}")
    chain(tmp_path, Plus(name="plus", add=2)).plan()
    chain(tmp_path, Plus(name="plus", add=2)).explain("plus")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert os.listdir(f"/proc/{os.getpid()}/task/{os.getpid()}") == children
