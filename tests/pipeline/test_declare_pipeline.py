from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.errors import GraphError, MissingRequirement, ParameterError
from asyncdistil.pipeline import (
    Budget,
    Pipeline,
    RunOptions,
    build_plan,
    requirements,
    routing_batch_function,
)
from asyncdistil.steps.generator import GeneratorStep
from asyncdistil.steps.load_dicts import LoadDataFromDicts
from asyncdistil.steps.step import Step
from asyncdistil.typing import GeneratorStepOutput, StepInput, StepOutput


class Count(GeneratorStep):
    @property
    def outputs(self) -> list[str]:
        return ["n"]

    def process(self, offset: int = 0) -> GeneratorStepOutput:
        yield [{"n": 1}], True


class Double(Step):
    @property
    def inputs(self) -> list[str]:
        return ["n"]

    @property
    def outputs(self) -> list[str]:
        return ["doubled"]

    def process(self, inputs: StepInput) -> StepOutput:
        yield [row | {"doubled": 2 * row["n"]} for row in inputs]


class Join(Step):
    def process(self, *inputs: StepInput) -> StepOutput:
        yield inputs[0]


@pytest.fixture(autouse=True)
def nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    cache = tmp_path / "cache"
    monkeypatch.setenv("ASYNCDISTIL_CACHE_DIR", str(cache))
    yield
    assert not cache.exists()


def chain(**arguments: Any) -> Pipeline:
    with Pipeline(**arguments) as pipeline:
        Count(name="load") >> Double(name="double")
    return pipeline


def refused(pipeline: Pipeline, words: str, **options: Any) -> None:
    with pytest.raises(GraphError, match=words):
        build_plan(pipeline, RunOptions(**options))


def test_steps_belong_to_the_pipeline_whose_block_makes_them() -> None:
    with Pipeline("outer") as outer:
        first = Count(name="a")
        with Pipeline("inner") as inner:
            second = Count(name="a")
        third = Count(name="b")
    assert (first.pipeline, second.pipeline, third.pipeline) == (outer, inner, outer)
    assert list(outer) == ["a", "b"]
    assert Count(name="c").pipeline is None


def test_a_pipeline_is_left_when_its_block_raises() -> None:
    with pytest.raises(RuntimeError), Pipeline():
        raise RuntimeError
    assert Count(name="free").pipeline is None


def test_steps_are_found_by_name_and_a_wrong_name_is_answered_with_the_closest() -> None:
    pipeline = chain()
    assert pipeline["load"].name == "load"
    assert "load" in pipeline
    assert len(pipeline) == 2
    with pytest.raises(KeyError, match="did you mean 'double'"):
        pipeline["doubel"]


def test_a_pipeline_without_a_name_is_called_after_its_steps() -> None:
    assert chain().name == "pipeline_load_double"


def test_a_long_automatic_name_is_cut_and_still_tells_pipelines_apart() -> None:
    names = []
    for last in ("x", "y"):
        with Pipeline() as pipeline:
            for number in range(20):
                Count(name=f"a_rather_long_name_{number}")
            Count(name=last)
        names.append(pipeline.name)
    assert names[0] != names[1]
    assert [len(name) for name in names] == [100, 100]


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x (dry run)", 5, ["a"]])
def test_a_name_that_could_be_mistaken_is_refused(name: Any) -> None:
    with pytest.raises(ParameterError, match="cannot be called"):
        Pipeline(name)


def test_requirements_are_not_taken_letter_by_letter() -> None:
    with pytest.raises(ParameterError, match="'numpy' are one text: give a list"):
        Pipeline("p", requirements="numpy")
    with pytest.raises(ParameterError, match="'numpy' are one text: give a list"):
        requirements("numpy")


def test_the_cache_is_where_one_says_then_where_the_environment_says_then_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chain(cache_dir=tmp_path / "own").cache_dir == tmp_path / "own"
    assert chain().cache_dir == tmp_path / "cache"
    monkeypatch.delenv("ASYNCDISTIL_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert chain().cache_dir == tmp_path / ".cache" / "asyncdistil"


def test_a_relative_cache_stays_where_it_was_when_the_pipeline_was_declared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pipeline = chain(cache_dir="here")
    monkeypatch.chdir("/")
    assert pipeline.cache_dir == tmp_path / "here"


def test_the_first_step_must_be_a_generator() -> None:
    with Pipeline() as pipeline:
        Double(name="double")
    refused(pipeline, "'double' has no predecessor and is not a GeneratorStep")


def test_an_empty_pipeline_is_refused() -> None:
    refused(Pipeline("empty"), "has no steps")


def test_a_required_column_must_reach_the_step() -> None:
    with Pipeline() as pipeline:
        LoadDataFromDicts(name="load", data=[{"m": 1}]) >> Double(name="double")
    refused(pipeline, "'double' needs column 'n'")


def test_a_join_needs_star_inputs() -> None:
    with Pipeline() as pipeline:
        [Count(name="a"), Count(name="b")] >> Double(name="double")
    refused(pipeline, "'double' reads 'a', 'b'")
    with Pipeline() as pipeline:
        [Count(name="a"), Count(name="b")] >> Join(name="join")
    assert build_plan(pipeline, RunOptions()).plan.steps[-1].name == "join"


def test_process_must_say_where_its_rows_come_in() -> None:
    class Bare(Step):
        def process(self, inputs):  # type: ignore[no-untyped-def]
            yield inputs

    class Twice(Step):
        def process(self, inputs: StepInput, others: StepInput) -> StepOutput:
            yield inputs + others

    class Quoted(Step):
        def process(self, inputs: "StepInput") -> "StepOutput":
            yield inputs

    for kind, words in ((Bare, "no parameter annotated"), (Twice, "several parameters annotated")):
        with Pipeline() as pipeline:
            Count(name="load") >> kind(name="step")
        refused(pipeline, f"process of step 'step' has {words} StepInput")
    with Pipeline() as pipeline:
        Count(name="load") >> Quoted(name="step")
    build_plan(pipeline, RunOptions())


def test_a_generator_has_an_offset_and_no_rows() -> None:
    class NoOffset(GeneratorStep):
        def process(self) -> GeneratorStepOutput:
            yield [], True

    class TakesRows(GeneratorStep):
        def process(self, inputs: StepInput, offset: int = 0) -> GeneratorStepOutput:
            yield inputs, True

    for kind, words in ((NoOffset, "has no `offset`"), (TakesRows, "takes rows")):
        with Pipeline() as pipeline:
            kind(name="load")
        refused(pipeline, f"generator 'load' {words}")


def test_a_step_that_does_nothing_is_refused() -> None:
    class Idle(Step):
        pass

    with Pipeline() as pipeline:
        Count(name="load") >> Idle(name="idle")
    refused(pipeline, "'idle' has no work to do")


def test_a_step_that_works_row_by_row_needs_no_process() -> None:
    class Row(Step):
        async def aprocess(self, row: dict[str, Any]) -> dict[str, Any]:
            return row

    with Pipeline() as pipeline:
        Count(name="load") >> Row(name="row", row_wise=True)
    build_plan(pipeline, RunOptions())


def test_a_step_renamed_after_it_was_added_is_refused() -> None:
    pipeline = chain()
    pipeline["load"].name = "other"
    refused(pipeline, "'load' was renamed to 'other'")


def test_a_router_needs_steps_to_choose_from() -> None:
    @routing_batch_function
    def first(steps: list[str]) -> list[str]:
        return steps[:1]

    with Pipeline() as pipeline:
        load, a, b = Count(name="load"), Double(name="a"), Double(name="b")
        load >> first >> [a, b]
        with pytest.raises(GraphError, match="already has a routing function"):
            load >> first >> [Double(name="c")]
    assert pipeline.graph.routed == {"load": ("a", "b")}
    assert pipeline.routers["load"].name == "first"


def test_load_groups_take_steps_and_their_names() -> None:
    pipeline = chain()
    by_step = pipeline.get_load_stages([[pipeline["load"]], ["double"]])
    assert by_step == ([["load"], ["double"]], [["load"], ["double"]])
    assert pipeline.get_load_stages() == ([["load", "double"]], [["double"]])
    refused(pipeline, "no step named 'x'", load_groups=[["x"]])


def test_requirements_compare_versions_and_not_texts() -> None:
    build_plan(chain(requirements=["pydantic>=2", "PyYAML"]), RunOptions())
    wrong = chain(requirements=["pydantic<1", "no-such-package>=3"])
    with pytest.raises(MissingRequirement, match=r"no-such-package is not installed.*pip install"):
        build_plan(wrong, RunOptions())
    with pytest.raises(ModuleNotFoundError, match="pydantic is 2"):
        build_plan(wrong, RunOptions())


def test_requirements_of_a_step_are_checked_with_those_of_the_pipeline() -> None:
    @requirements(["no-such-package"])
    class Needy(Double):
        pass

    with Pipeline() as pipeline:
        Count(name="load") >> Needy(name="needy")
    with pytest.raises(MissingRequirement, match="no-such-package"):
        build_plan(pipeline, RunOptions())


def test_a_requirement_for_another_platform_does_not_count() -> None:
    text = "no-such-package; sys_platform == 'never'"
    build_plan(chain(requirements=[text]), RunOptions())


def test_a_requirement_that_is_none_is_refused_when_it_is_written() -> None:
    with pytest.raises(ParameterError, match="cannot be read"):
        Pipeline(requirements=["a package"])


@pytest.mark.parametrize(
    "options",
    [
        {"on_error": "skip"},
        {"sync_mode": "fast"},
        {"on_corruption": "ignore"},
        {"dataset_batch_size": 0},
        {"wait_seconds": -1},
        {"max_failures": -1},
        {"parameters": ["a"]},
    ],
)
def test_a_run_is_not_told_what_it_cannot_do(options: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=next(iter(options))):
        RunOptions(**options)


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ParameterError, match="lets nothing run"):
        Budget(dollars=0)


def test_an_unknown_argument_of_a_run_is_answered_with_the_closest() -> None:
    with pytest.raises(TypeError, match="did you mean 'retry_failed'"):
        chain().run(retry_faild=True)  # type: ignore[call-arg]


def test_a_secret_among_the_parameters_is_in_no_repr() -> None:
    options = RunOptions(parameters={"task": {"llm": {"api_key": "sk-123"}}}, dataset=[{"a": 1}])
    assert "sk-123" not in repr(options)
    with pytest.raises(ParameterError) as refused:
        build_plan(chain(), RunOptions(parameters=options.parameters))
    assert "sk-123" not in str(refused.value)
