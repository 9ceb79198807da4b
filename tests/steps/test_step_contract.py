"""What a step does with rows, alone and for a worker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import Field, PrivateAttr, SecretStr, field_validator, model_validator

from asyncdistil.errors import StepError
from asyncdistil.steps import (
    FailedRow,
    GeneratorStep,
    GlobalStep,
    KeepColumns,
    RowStep,
    Step,
    StepInput,
    StepOutput,
    StepResources,
)
from asyncdistil.steps.rows import describe_failure


class Upper(Step):
    def process(self, inputs: StepInput) -> StepOutput:
        for row in inputs:
            row["a"] = row["a"].upper()
        yield inputs


class Entries(Step):
    """Yields what it is told to."""

    row_wise: bool = True
    told: Any = None

    def process(self, inputs: StepInput) -> StepOutput:
        yield from self.told


def applied(step: Any, *ports: list[dict[str, Any]]) -> list[Any]:
    return [entry for entries in step.apply(*ports) for entry in entries]


def test_a_step_works_alone() -> None:
    step = Upper()
    step.load()
    assert next(step.process([{"a": "x"}])) == [{"a": "X"}]


def test_all_yields_count() -> None:
    assert applied(Entries(told=[[{"n": 1}], [], [{"n": 2}]]), [{}, {}]) == [{"n": 1}, {"n": 2}]


def test_a_row_wise_step_gives_rows_none_or_lists() -> None:
    told = [[{"n": 1}, None], [[{"n": 2}, {"n": 3}]]]
    assert applied(Entries(told=told), [{}] * 3) == [{"n": 1}, None, [{"n": 2}, {"n": 3}]]


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ([[{}]], "gave 1 entries for 2 rows"),
        ([[{}, {}, {}]], "gave more than 2 entries"),
        ([[{}, 3]], "gave an int in place 1"),
        ([[{}], [[{}, None]]], "gave a list in place 1"),
        ([{}], "yielded a dict"),
    ],
)
def test_a_broken_row_wise_promise_is_refused_and_named(told: Any, message: str) -> None:
    step = Entries(told=told)
    with pytest.raises(StepError, match=message):
        applied(step, [{}, {}])


def test_a_batch_wise_step_gives_rows_only() -> None:
    assert applied(Entries(row_wise=False, told=[[{}, {}, {}]]), [{}]) == [{}, {}, {}]
    with pytest.raises(StepError, match="need row_wise=True"):
        applied(Entries(row_wise=False, told=[[None]]), [{}])


def test_a_process_that_returns_nothing_is_refused() -> None:
    class Forgot(Step):
        def process(self, inputs: StepInput) -> Any:
            return None

    with pytest.raises(StepError, match="returned nothing: it must yield lists of rows"):
        applied(Forgot(), [{}])


def test_a_process_that_returns_its_rows_is_told_to_yield_them() -> None:
    class Returns(Step):
        def process(self, inputs: StepInput) -> Any:
            return inputs

    with pytest.raises(StepError, match="returned its rows: it must `yield` them"):
        applied(Returns(), [{}])


def test_a_process_that_is_async_is_told_where_to_be_so() -> None:
    class Awaits(Step):
        async def process(self, inputs: StepInput) -> Any:  # type: ignore[override]
            return inputs

    class AwaitsAndYields(Step):
        async def process(self, inputs: StepInput) -> Any:  # type: ignore[override]
            yield inputs

    for step in (Awaits(), AwaitsAndYields()):
        with pytest.raises(StepError, match="async work is done in `aprocess`"):
            applied(step, [{}])


def test_a_traceback_is_kept_where_it_leads_to_code_of_the_user() -> None:
    class Own(Step):
        def process(self, inputs: StepInput) -> StepOutput:
            raise StepError("mine")

    for step, keeps in ((Own(), True), (Entries(told=[[{}]]), False)):
        with pytest.raises(StepError) as caught:
            applied(step, [{}, {}])
        error = caught.value
        # What is below the frames of this file is what a worker would have.
        while error.__traceback__ and error.__traceback__.tb_frame.f_globals is globals():
            error.__traceback__ = error.__traceback__.tb_next
        assert ("Traceback" in describe_failure(error).detail) is keeps


def test_an_exception_that_can_not_say_what_it_is_is_a_failure_like_others() -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise AttributeError("code")

    failure = describe_failure(Silent())
    assert failure.kind.endswith("Silent")
    assert "__str__ raised AttributeError" in failure.message
    assert "Silent" in failure.detail


def test_kinds_follow_the_class_and_the_row_wise_promise() -> None:
    assert Upper().kind() == "batch"
    assert Upper(row_wise=True).kind() == "row"
    assert KeepColumns(columns=["a"]).kind() == "row"
    assert GlobalStep().kind() == "global"
    assert GeneratorStep().kind() == "generator"
    assert (Upper().on_error, GlobalStep().on_error, GeneratorStep().on_error) == (
        "null",
        "raise",
        "raise",
    )


def test_only_var_args_take_several_ports() -> None:
    class Joins(Step):
        def process(self, *inputs: StepInput) -> StepOutput:
            yield [left | right for left, right in zip(*inputs, strict=True)]

    assert Joins().takes_many_ports
    assert not Upper().takes_many_ports
    assert not KeepColumns(columns=["a"]).takes_many_ports
    assert applied(Joins(), [{"a": 1}], [{"b": 2}]) == [{"a": 1, "b": 2}]


class Slow(Step):
    """Finishes rows in reverse order."""

    row_wise: bool = True
    _most: int = PrivateAttr(default=0)
    _now: int = PrivateAttr(default=0)

    async def aprocess(self, row: dict[str, Any]) -> Any:
        self._now += 1
        self._most = max(self._most, self._now)
        for _ in range(10 - row["n"]):
            await asyncio.sleep(0)
        self._now -= 1
        return {**row, "done": True}


def test_an_asynchronous_step_works_on_many_rows_at_once_and_keeps_their_order() -> None:
    step = Slow(input_batch_size=4)
    assert step.asynchronous
    assert step.concurrency == 4
    rows = [{"n": n} for n in range(10)]
    assert applied(step, rows) == [{"n": n, "done": True} for n in range(10)]
    assert step._most == 4


async def _process_below_a_loop() -> list[Any]:
    return next(Slow().process([{"n": 1}]))


def test_an_asynchronous_step_works_alone_below_a_running_loop() -> None:
    assert asyncio.run(_process_below_a_loop()) == [{"n": 1, "done": True}]


def test_aapply_maps_columns_in_and_out() -> None:
    step = Slow(input_mappings={"n": "number"}, output_mappings={"done": "ready"})
    assert asyncio.run(step.aapply({"number": 9})) == {"number": 9, "ready": True}


class Reciprocal(RowStep):
    key: SecretStr = SecretStr("s3cret")

    @property
    def outputs(self) -> list[str]:
        return ["r"]

    def transform(self, *rows: dict[str, Any]) -> dict[str, Any]:
        if not rows[0]["n"]:
            raise ZeroDivisionError(f"no reciprocal with {self.key.get_secret_value()}")
        return {**rows[0], "r": 1 / rows[0]["n"]}


def test_a_row_that_fails_in_a_row_step_fails_alone() -> None:
    one, failed, two = applied(Reciprocal(), [{"n": 1}, {"n": 0}, {"n": 2}])
    assert (one, two) == ({"n": 1, "r": 1.0}, {"n": 2, "r": 0.5})
    assert isinstance(failed, FailedRow)
    assert failed.row == {"n": 0, "r": None}
    assert failed.failure.kind == "ZeroDivisionError"


def test_a_failure_holds_no_secret_of_the_step() -> None:
    (failed,) = applied(Reciprocal(), [{"n": 0}])
    assert "s3cret" not in failed.failure.message + failed.failure.detail
    assert "Traceback" in failed.failure.detail


def test_pydantic_features_work_as_everywhere() -> None:
    class Rich(Step):
        low: int = Field(default=1, ge=1)
        high: int = 9
        _sum: int = PrivateAttr(default=0)

        @field_validator("high")
        @classmethod
        def _even(cls, value: int) -> int:
            return value - value % 2

        @model_validator(mode="after")
        def _ordered(self) -> Rich:
            if self.low > self.high:
                raise ValueError("low is above high")
            return self

        def model_post_init(self, context: Any) -> None:
            self._sum = self.low + self.high

        def process(self, inputs: StepInput) -> StepOutput:
            yield inputs

    step = Rich(high=5)
    assert (step.high, step._sum, step.name) == (4, 5, "rich_0")
    with pytest.raises(ValueError, match="low is above high"):
        Rich(low=8, high=2)
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        step.low = 0
    with pytest.raises(ValueError, match="no parameter 'medium'"):
        Rich(medium=3)


def test_generated_rows_are_checked_mapped_and_end_at_the_last() -> None:
    class Count(GeneratorStep):
        @property
        def outputs(self) -> list[str]:
            return ["n"]

        def process(self, offset: int = 0) -> Any:
            for n in range(offset, 100):
                yield [{"n": n}], n == 2

    step = Count(output_mappings={"n": "number"})
    assert list(step.generate()) == [
        ([{"number": 0}], False),
        ([{"number": 1}], False),
        ([{"number": 2}], True),
    ]
    assert list(step.generate(2)) == [([{"number": 2}], True)]


@pytest.mark.parametrize("made", [[{"n": 1}], ([1], True), ({"n": 1}, True)])
def test_a_generator_that_yields_something_else_is_refused(made: Any) -> None:
    class Wrong(GeneratorStep):
        def process(self, offset: int = 0) -> Any:
            yield made

    with pytest.raises(StepError, match="yield a tuple of a list of dicts and a bool"):
        list(Wrong().generate())


def test_a_global_step_may_work_on_a_table() -> None:
    class Total(GlobalStep):
        @property
        def inputs(self) -> list[str]:
            return ["n"]

        def process_table(self, table: Any) -> Any:
            yield [{"rows": table.num_rows}]
            yield table.slice(0, 1)

    import pyarrow as pa

    step = Total(input_mappings={"n": "number"})
    assert step.takes_table
    table = pa.table({"number": [4, 5], "n": [1, 2]})
    assert [row for rows in step.apply_table(table) for row in rows] == [
        {"rows": 2},
        {"number": 4, "n": 1},
    ]
    assert applied(step, [{"number": 4, "n": 1}, {"number": 5, "n": 2}]) == [
        {"rows": 2},
        {"number": 4, "n": 1},
    ]


def test_a_step_without_work_says_what_to_define() -> None:
    with pytest.raises(StepError, match=r"define `process\(self, inputs\)`"):
        applied(Step(), [{}])
    with pytest.raises(StepError, match=r"define `process\(self, offset=0\)`"):
        list(GeneratorStep().generate())


def test_artifacts_are_written_whole_or_not_at_all(tmp_path: Any) -> None:
    step = Upper(name="up")
    step.set_artifacts_path(tmp_path)
    step.save_artifact("index", lambda path: (path / "x").write_text("1"), {"type": "file"})

    def fails(path: Any) -> None:
        (path / "x").write_text("2")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        step.save_artifact("index", fails)
    assert (tmp_path / "up" / "index" / "x").read_text() == "1"
    assert (tmp_path / "up" / "index" / "metadata.json").exists()
    assert [path.name for path in (tmp_path / "up").iterdir()] == ["index"]
    with pytest.raises(ValueError, match="can't be called"):
        step.save_artifact("../index", fails)


def test_resources_default_to_one_replica_and_refuse_none() -> None:
    assert StepResources().replicas == 1
    with pytest.raises(ValueError, match="greater than 0"):
        StepResources(replicas=0)
