"""A worker that rebuilds code by value finds the digest that was signed."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import cloudpickle
import pytest
from pydantic import BaseModel, Field, PrivateAttr, field_validator

from asyncdistil.pipeline.payload import packed
from asyncdistil.signature import fingerprint

HELPERS = """
    import logging, re, enum, dataclasses, typing, string
    log = logging.getLogger(__name__)
    WORDS = {"alpha", "beta", "gamma", "delta"}
    PATTERN = re.compile("a+", re.I)
    TABLE = {"b": [1, 2.0, None], "a": (True, b"x")}
    MISSING = object()
    PROMPT = string.Template("judge $x")

    class Level(enum.Enum):
        LOW = 1
        HIGH = "high"

        def weight(self):
            return WORDS if self is Level.HIGH else 0

    class Flags(enum.Flag):
        A = enum.auto()
        B = enum.auto()

    @dataclasses.dataclass(frozen=True, order=True)
    class Settings:
        level: Level = Level.LOW
        names: list = dataclasses.field(default_factory=list)

        def first(self):
            return self.names[0] if self.names else PATTERN

    class Point(typing.NamedTuple):
        x: int
        y: int = 3

        def length(self):
            return self.x + self.y

    SETTINGS = Settings(Level.HIGH)
    POINT = Point(1)

    def decorate(scale):
        def wrap(function):
            import functools
            @functools.wraps(function)
            def inner(*args, **kwargs):
                return function(*args, **kwargs) * scale
            return inner
        return wrap

    @decorate(3)
    def clean(text, *, limit=10):
        log.info("cleaning")
        return [w for w in text.split() if w in {"x", "y", "z"} and w not in WORDS][:limit]

    def even(n):
        return n == 0 or odd(n - 1)

    def odd(n):
        return n != 0 and even(n - 1)

    class Base:
        scale = 2

        def twice(self, n):
            return super().__hash__() + n * self.scale
"""

STEPS = """
    import json, functools
    from typing import Annotated, Any, Generic, TypeVar
    import attrs
    import msgspec
    import numpy as np
    import pydantic
    from annotated_types import Gt
    from asyncdistil.errors import DataError
    import helpers as h
    from helpers import Base, Flags, Level, Point, Settings, clean, even

    T = TypeVar("T")
    WEIGHTS = np.arange(6).reshape(2, 3)

    class Inner(pydantic.BaseModel):
        score: Annotated[int, Gt(0)] = 1
        tags: list[Annotated[str, pydantic.Field(min_length=2)]] = pydantic.Field(
            default_factory=list, description="what it is")
        level: Level = Level.LOW

    class Box(pydantic.BaseModel, Generic[T]):
        item: T

    class Frozen(pydantic.BaseModel, frozen=True):
        a: int = 1

    class Step(pydantic.BaseModel):
        inner: Inner = Inner()
        box: Box[int] | None = None
        scale: float = 2.0
        _seen: dict = pydantic.PrivateAttr(default_factory=dict)
        _count: int = 0

        @pydantic.field_validator("scale")
        @classmethod
        def positive(cls, value):
            if value <= 0:
                raise DataError("scale")
            return value

        @pydantic.model_validator(mode="after")
        def check(self):
            return self

        @pydantic.computed_field
        @property
        def double(self) -> float:
            return self.scale * 2

        @property
        def inputs(self):
            return ["text"]

        def model_post_init(self, context: Any) -> None:
            self._seen["x"] = 1

        @functools.lru_cache
        def cached(self, n):
            return h.even(n)

        @staticmethod
        def parse(text):
            return json.loads(text) if text is not ... else None

        def process(self, inputs):
            def weigh(row, by=h.TABLE):
                return row["n"] * np.exp(self.scale) + by["b"][0] + WEIGHTS.sum()
            for row in inputs:
                try:
                    row["out"] = clean(row["text"]), weigh(row), even(4), h.PROMPT
                except (KeyError, TypeError) as error:
                    h.log.warning("bad %s", error)
                finally:
                    row["f"] = lambda x: (x, h.SETTINGS, h.POINT, h.MISSING, Flags.A | Flags.B)
            yield inputs

    @attrs.define
    class Attrs:
        a: int = attrs.field(default=1, validator=attrs.validators.instance_of(int))
        b: list = attrs.Factory(list)

        def total(self):
            return self.a

    class Derived(Base):
        scale = 2

        def go(self):
            return self.twice(Attrs().a)

    part = functools.partial(clean, limit=h.Base.scale)
    made = Settings(Level.HIGH, ["a"])

    def use_instances(row):
        return made, part, Point(1, 2).length(), Inner(), Frozen(), Attrs(), Derived

    def use_inline(row):
        import helpers
        from helpers import clean as c
        from os import path
        return helpers.odd(row), c(row), path

    async def gather(rows):
        async with rows as r:
            return [x async for x in r if (y := x)]

    def match(row):
        match row:
            case {"a": [first, *rest]}:
                return first
            case Point(x=1):
                return 2
        return f"{row!r:>{10}}"
"""
NAMES = ["Inner", "Box", "Frozen", "Step", "Attrs", "Derived", "part", "use_instances"]
NAMES += ["use_inline", "gather", "match"]


def test_everything_in_user_modules_is_rebuilt_equal(project: Any) -> None:
    project.write(helpers=HELPERS, steps=STEPS)
    objects = "{" + ", ".join(f"{name!r}: steps.{name}" for name in NAMES) + "}"
    script = project.sender + f"\nimport steps\n_send({objects}, 'message')\n"
    project.run("-c", script, PYTHONHASHSEED="1", PYTHONPATH=str(project.root))
    found = project.assert_rebuilt_equal(project.root / "message")
    assert {name: reasons for name, reasons in found["reasons"].items() if reasons} == {}
    assert "Base.twice" in found["parts"]["Derived"]
    assert "clean" in found["parts"]["Step"]


SCRIPT = """
    LIMIT = 3

    def helper(x):
        return x + LIMIT

    class Base:
        def run(self):
            return helper(1)

    class Step(Base):
        def process(self):
            return super().run()

    def make(n):
        class Local(Step):
            size = n

            def process(self):
                return n, __name__, __file__

        def local(x):
            def again(y):
                return local(y) + n
            return again(x)

        return Local, local

    Local, local = make(4)
    _send({"Step": Step, "Local": Local, "local": local, "anonymous": lambda x: helper(x)},
          "message")
"""


def test_a_script_is_rebuilt_equal(project: Any) -> None:
    (project.root / "script.py").write_text(project.sender + dedent(SCRIPT))
    project.run("script.py")
    project.assert_rebuilt_equal(project.root / "message")


def test_a_command_line_is_rebuilt_equal(project: Any) -> None:
    project.run("-c", project.sender + dedent(SCRIPT))
    project.assert_rebuilt_equal(project.root / "message")


def test_notebook_cells_are_rebuilt_equal_after_a_class_was_defined_twice(project: Any) -> None:
    cells = [project.sender, dedent(SCRIPT).split("\n_send")[0]]
    cells += ["class Step(Step):\n    '''Again.'''\n    more = 1\n"]
    cells += ["_send({'Step': Step, 'local': local}, 'message')"]
    (project.root / "cells.json").write_text(json.dumps(cells))
    project.run(
        "-c",
        "import json, sys\n"
        "for n, cell in enumerate(json.load(open('cells.json'))):\n"
        "    exec(compile(cell, f'<ipython-input-{n}>', 'exec'), vars(sys.modules['__main__']))",
    )
    found = project.assert_rebuilt_equal(project.root / "message")
    assert "Step#2" in found["parts"]["Step"]


FACTOR = 7


class Loaded(BaseModel):
    size: int = Field(default=FACTOR)
    _cache: dict[str, int] = PrivateAttr(default_factory=dict)

    @field_validator("size")
    @classmethod
    def check(cls, value: int) -> int:
        assert value > 0, "assertions are rewritten under pytest"
        return value * FACTOR


@dataclasses.dataclass
class Config:
    a: int = 1


def unwrapped(a: int) -> Config:
    return Config(a)


@functools.wraps(unwrapped)
def build(*args: Any) -> Config:
    return unwrapped(*args)


def test_classes_of_a_test_module_are_rebuilt_equal(
    project: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    closed_over = ["a", 1]

    def local(x: int) -> Any:
        return build(x), closed_over, Loaded

    objects = {"Loaded": Loaded, "local": local, "build": build}
    codes = {name: fingerprint(obj) for name, obj in objects.items()}
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    request.addfinalizer(lambda: cloudpickle.unregister_pickle_by_value(module))
    message = tmp_path / "message"
    message.write_text(
        json.dumps(
            [
                {name: code.digest.hex() for name, code in codes.items()},
                {name: code.parts for name, code in codes.items()},
                {name: code.uncacheable for name, code in codes.items()},
                {name: cloudpickle.dumps(obj).hex() for name, obj in objects.items()},
                sys.path,
            ]
        )
    )
    found = project.assert_rebuilt_equal(message)
    assert "FACTOR" in found["parts"]["Loaded"]
    assert codes["Loaded"].modules == (__name__,)


def test_a_class_made_by_the_library_from_a_users_function_counts_the_function(
    project: Any,
) -> None:
    # What a decorator such as ``step`` does: a local class of an installed module.
    source = """
        import pydantic
        SCALE = 2
        def work(rows):
            return [r * SCALE for r in rows]
        Made = pydantic.create_model("Made", __module__="pydantic.main", x=(int, 1))
        Made.process = lambda self, rows: work(rows)
    """
    project.write(maker=source)
    script = project.sender + "\nimport maker\n_send({'Made': maker.Made}, 'message')\n"
    project.run("-c", script, PYTHONPATH=str(project.root))
    found = project.assert_rebuilt_equal(project.root / "message")
    assert "work" in found["parts"]["Made"]
    assert "SCALE" in found["parts"]["Made"]


def test_what_the_journey_damages_is_found_out_before_it_runs(project: Any) -> None:
    # cloudpickle drops the fields of a Struct and what a class body in a function reads.
    source = """
        import msgspec
        CONSTANT = 3
        class Fields(msgspec.Struct):
            a: int = 1
        def body():
            class Local:
                x = CONSTANT
            return Local
    """
    project.write(damaged=source)
    objects = "{'Fields': damaged.Fields, 'body': damaged.body}"
    script = project.sender + f"\nimport damaged\n_send({objects}, 'message')\n"
    project.run("-c", script, PYTHONPATH=str(project.root))
    message = project.root / "message"
    sent = json.loads(message.read_text())[0]
    received = project.received(message)
    assert received["Fields"][0] != sent["Fields"]
    assert received["body"][0] != sent["body"]


def test_members_arrive_with_what_they_hold_beside_their_value(
    project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = """
        import enum
        class Tone(enum.Enum):
            DRY = "d", "Write drily."
            def __new__(cls, value, prompt):
                made = object.__new__(cls)
                made._value_, made.prompt = value, prompt
                return made
        def prompts():
            return [tone.prompt for tone in Tone]
    """
    project.write(tones=source)
    monkeypatch.syspath_prepend(str(project.root))
    tones = importlib.import_module("tones")
    code = fingerprint(tones.prompts)
    (project.root / "payload").write_bytes(packed(tones.prompts, code.modules, owner="it"))
    monkeypatch.delitem(sys.modules, "tones")
    output = project.run(
        "-P",
        "-c",
        "import pickle\n"
        "from asyncdistil.signature import fingerprint\n"
        "made = pickle.load(open('payload', 'rb'))\n"
        "print(fingerprint(made).digest.hex(), made())",
    )
    assert output.strip() == f"{code.digest.hex()} ['Write drily.']"
