"""What enters the key of a step, and what does not."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, SecretStr

from asyncdistil.steps import (
    FilterRows,
    GeneratorStep,
    GlobalStep,
    KeepColumns,
    LoadDataFromDicts,
    LoadDataFromFileSystem,
    Map,
    Step,
    StepResources,
    step,
)


class Inner(BaseModel):
    size: int = 1
    key: SecretStr | None = None


class Work(Step):
    signature_ignore: ClassVar[set[str]] = {"cosmetic"}

    level: int = 1
    cosmetic: str = ""
    key: SecretStr | None = None
    inner: Inner = Inner()

    def process(self, inputs: Any) -> Any:
        yield inputs


def same(one: Any, other: Any) -> bool:
    return bool(one.identity().digest == other.identity().digest)


@pytest.mark.parametrize(
    "operational",
    [
        {"name": "other"},
        {"resources": StepResources(replicas=4)},
        {"use_cache": False},
        {"on_error": "raise"},
        {"max_failures": 3},
        {"batch_deadline_seconds": 5.0},
        {"cosmetic": "red"},
        {"key": SecretStr("x")},
        {"inner": Inner(key=SecretStr("y"))},
    ],
    ids=str,
)
def test_operational_fields_and_secrets_are_in_no_key(operational: dict[str, Any]) -> None:
    assert same(Work(), Work(**operational))
    assert Work().identity().uncacheable == ()


@pytest.mark.parametrize(
    "semantic",
    [
        {"level": 2},
        {"input_mappings": {"a": "b"}},
        {"output_mappings": {"a": "b"}},
        {"inner": Inner(size=2)},
        {"row_wise": True},
        {"join": "inner"},
    ],
    ids=str,
)
def test_every_other_field_is_in_the_key(semantic: dict[str, Any]) -> None:
    assert not same(Work(), Work(**semantic))


def test_the_batch_size_counts_only_where_rows_depend_on_it() -> None:
    assert not same(Work(), Work(input_batch_size=7))
    assert same(Work(row_wise=True), Work(row_wise=True, input_batch_size=7))
    assert same(GlobalStep(), GlobalStep(input_batch_size=7))


def test_library_steps_are_known_by_version_and_need_no_code() -> None:
    keep = KeepColumns(columns=["a"])
    assert keep.code() is None
    assert keep.identity().components["version"] == 1
    assert not same(keep, KeepColumns(columns=["b"]))


def test_the_function_of_a_map_is_part_of_it() -> None:
    assert same(Map(function=lambda row: row), Map(function=lambda row: row))
    assert not same(Map(function=lambda row: row), Map(function=lambda row: {**row}))
    assert not same(FilterRows(predicate=lambda row: 1), FilterRows(predicate=lambda row: 0))


def test_the_function_of_a_decorated_step_is_part_of_it() -> None:
    def made(text: str) -> Any:
        @step(outputs=["b"])
        def Say(rows: Any, times: int = 1) -> Any:
            yield [{**row, "b": text * times} for row in rows]

        return Say

    assert same(made("x")(), made("x")())
    assert not same(made("x")(), made("y")())
    assert not same(made("x")(), made("x")(times=2))
    assert made("x")().identity().uncacheable == ()


def test_a_data_class_in_a_field_counts_by_its_content_and_its_code() -> None:
    def made(suffix: str) -> Any:
        @dataclass
        class Settings:
            tags: list[str] = field(default_factory=list)

            def tagged(self, text: str) -> str:
                return text + suffix

        class Holds(Work):
            settings: Any = Settings(["a"])

        return Holds, Settings

    holds, settings = made("x")
    assert holds().identity().uncacheable == ()
    assert same(holds(), holds(settings=settings(["a"])))
    assert not same(holds(), holds(settings=settings(["b"])))
    other, other_settings = made("y")
    assert not same(holds(settings=settings(["c"])), other(settings=other_settings(["c"])))


def test_a_live_object_in_a_field_makes_the_step_uncacheable_by_name() -> None:
    class Live(Work):
        handle: Any = None

    (reason,) = Live(handle=threading.Lock()).identity().uncacheable
    assert "handle" in reason
    assert "signature_ignore" in reason


def test_a_live_object_may_sign_itself() -> None:
    class Signed:
        def __init__(self, text: str) -> None:
            self.text = text

        def __signature__(self) -> str:
            return self.text

    class Holds(Work):
        handle: Any = None

    assert same(Holds(handle=Signed("a")), Holds(handle=Signed("a")))
    assert not same(Holds(handle=Signed("a")), Holds(handle=Signed("b")))


def test_a_generator_has_a_data_identity_only_if_it_can_vouch_for_it() -> None:
    class Draws(GeneratorStep):
        count: int = 1

    class Knows(Draws):
        reads_only_fields: ClassVar[bool] = True

    assert Draws().data_identity() is None
    assert Knows().data_identity() == Knows().data_identity() is not None
    assert Knows().data_identity() != Knows(count=2).data_identity()


def test_given_rows_are_data_and_no_part_of_the_loaders_identity(tmp_path: Any) -> None:
    one, two = LoadDataFromDicts(data=[{"a": 1}]), LoadDataFromDicts(data=[{"a": 2}])
    assert same(one, two)
    assert one.data_identity() != two.data_identity()
    assert one.data_identity() == LoadDataFromDicts(data=[{"a": 1}], batch_size=3).data_identity()
    assert same(
        LoadDataFromFileSystem(data_files="a.jsonl"),
        LoadDataFromFileSystem(data_files="b.jsonl", num_examples=3),
    )
