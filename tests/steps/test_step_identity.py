"""What enters the key of a step, and what does not."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, PrivateAttr, SecretStr

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


HELD = {
    "a function behind a text": ("[('short', check)]", "return 1"),
    "a function behind None": ("[None, check]", "return 1"),
    "a function in a dict in a list": ("[1, {'a': check}]", "return 1"),
    "a function that a dict calls": ("collections.defaultdict(check, a=1)", "return 1"),
    "a method of a model in a list": ("['a', Model()]", "return 2"),
    "a method of what signs itself": ("Signed()", "return 3"),
    "a method of a member": ("Level.LOW", "return 4"),
    "a method of a text's member": ("Tone.DRY", "return 5"),
    "a method of a named tuple": ("Point(1, 2)", "return 6"),
    "the names in a tuple": ("Point(1, 2)", "x: int\n    y: int"),
    "a method of a dict": ("Table(a=1)", "return 7"),
    "an attribute of a dict": ("table", "table.limit = 8"),
    "the order of a dict": ("{'n': ORDERED}", "{'a': 1, 'b': 2}"),
    "the order of a dict in a model": ("Model(labels=ORDERED)", "{'a': 1, 'b': 2}"),
    "an extra value of a model": ("Model(extra=EXTRA)", "EXTRA = 9"),
    "a private attribute of a model": ("model", "model._seed = 10"),
    "what a data class keeps beside its fields": ("Data(DATA)", "DATA = 11"),
}
HOLDERS = """
import collections, dataclasses, enum, typing
import pydantic
ORDERED, EXTRA = {'a': 1, 'b': 2}, None
EXTRA = 9
DATA = 11
def check(row=None): return 1
class Model(pydantic.BaseModel, extra="allow"):
    labels: dict = {}
    _seed: int = 0
    def use(self): return 2
class Signed:
    def __signature__(self): return "signed"
    def use(self): return 3
class Level(enum.Enum):
    LOW = 1
    def use(self): return 4
class Tone(str, enum.Enum):
    DRY = "dry"
    def use(self): return 5
class Point(typing.NamedTuple):
    x: int
    y: int
    def use(self): return 6
class Table(dict):
    def use(self): return 7
table = Table(a=1)
table.limit = 8
model = Model()
model._seed = 10
@dataclasses.dataclass
class Data:
    size: int
    def __post_init__(self): self.twice, self.size = self.size, 0
"""
OTHERWISE = {"x: int\n    y: int": "y: int\n    x: int", "{'a': 1, 'b': 2}": "{'b': 2, 'a': 1}"}


class Holder(Step):
    held: Any = None

    def process(self, inputs: Any) -> Any:
        yield inputs


@pytest.mark.parametrize("what", HELD)
def test_what_a_field_holds_counts_with_its_code_and_all_its_content(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expression, old = HELD[what]
    new = OTHERWISE.get(old, old.rstrip("0123456789") + "99")
    assert old in HOLDERS
    steps = []
    for source in (HOLDERS, HOLDERS, HOLDERS.replace(old, new)):
        module = ModuleType("holders_of_a_test")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(source, vars(module))
        made = Holder(held=eval(expression, vars(module)))
        # Named while its module can be found, as a run does it.
        steps.append((made, made.identity()))
    before, again, after = (identity for _, identity in steps)
    assert before.uncacheable == ()
    assert before.digest == again.digest
    assert before.digest != after.digest


def test_a_private_attribute_set_from_outside_counts_and_is_not_stored() -> None:
    class Reads(Step):
        _prompt: str = ""

        def process(self, inputs: Any) -> Any:
            yield inputs

    one, other, untouched = Reads(), Reads(), Reads()
    one._prompt, other._prompt = "canary", "other"
    assert not same(one, other)
    assert not same(one, untouched)
    assert "_prompt" not in str(untouched.identity().components)
    assert "canary" not in str(one.identity().components)


class Keeps(Step):
    """Holds what many steps hold: a template made of its fields, a lock, a time, a list."""

    text: str = "a"
    _template: Any = None
    _lock: Any = PrivateAttr(default_factory=threading.Lock)
    _started: float = PrivateAttr(default_factory=time.monotonic)
    _seen: list[str] = PrivateAttr(default_factory=list)

    def model_post_init(self, context: Any) -> None:
        super().model_post_init(context)
        self._template = Template(self.text)

    def process(self, inputs: Any) -> Any:
        yield inputs


class Template:
    def __init__(self, text: str) -> None:
        self.text = text


def test_live_objects_and_made_defaults_in_private_attributes_let_a_step_be_cached() -> None:
    one, other, filled = Keeps(), Keeps(), Keeps()
    filled._seen.append("x")
    assert one.identity().uncacheable == ()
    assert same(one, other)
    assert not same(one, filled)
    assert not same(one, Keeps(text="b"))


def test_the_order_inside_a_models_options_counts() -> None:
    from asyncdistil.models import OpenAILLM

    def task(*fields: str) -> Any:
        schema = {"type": "object", "properties": {name: {"type": "string"} for name in fields}}
        wanted: Any = {"format": "json", "schema": schema}
        return Holder(held=OpenAILLM(model="m", api_key="k", structured_output=wanted))

    assert same(task("reason", "score"), task("reason", "score"))
    assert not same(task("reason", "score"), task("score", "reason"))


def test_the_order_of_a_models_options_does_not_count() -> None:
    from asyncdistil.models import OpenAILLM

    def task(**options: Any) -> Any:
        return Holder(held=OpenAILLM(model="m", api_key="k", generation_kwargs=options))

    assert same(task(temperature=0.5, top_p=0.5), task(top_p=0.5, temperature=0.5))
