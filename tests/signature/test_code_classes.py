"""Which parts of a class count, for classes that libraries complete."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

from asyncdistil.signature import fingerprint

PREAMBLE = """
import abc, dataclasses, enum, functools, typing
from typing import *
import attrs, msgspec, pydantic
from asyncdistil.errors import DataError
def helper():
    return 1
"""
SOURCES = {
    "plain": "class X:\n    a = 1\n    def f(self): return 2\n",
    "slots": "class X:\n    __slots__ = ('a',)\n    def f(self): return 2\n",
    "metaclass": (
        "class M(type):\n    k = 3\n\nclass X(metaclass=M):\n    a = 1\n    def f(self): return 2\n"
    ),
    "abstract": (
        "class X(abc.ABC):\n    a = 1\n    @abc.abstractmethod\n    def f(self): return 2\n"
    ),
    "protocol": "class X(Protocol):\n    a = 1\n    def f(self): return 2\n",
    "dataclass": (
        "@dataclasses.dataclass(order=True)\nclass X:\n    a: int = 1\n"
        "    b: list = dataclasses.field(default_factory=list)\n"
        "    c: int = dataclasses.field(default=5, kw_only=True)\n    def f(self): return 2\n"
    ),
    "frozen": (
        "@dataclasses.dataclass(frozen=True, slots=True)\nclass X:\n    a: int = 1\n"
        "    def __eq__(self, other): return 2\n"
    ),
    "attrs": (
        "@attrs.define\nclass X:\n    a: int = attrs.field(default=1, converter=int)\n"
        "    b: list = attrs.Factory(list)\n    c: int = attrs.field(kw_only=True)\n"
        "    def f(self): return 2\n"
    ),
    "compared": (
        "@attrs.define(order=True)\nclass X:\n    a: str = attrs.field(eq=str.lower, repr=True,"
        " metadata={'hint': 'old'}, on_setattr=helper)\n"
    ),
    "described": (
        "@dataclasses.dataclass\nclass X:\n"
        "    a: int = dataclasses.field(default=1, metadata={'hint': 'old'})\n"
    ),
    "members": (
        "class X(enum.Enum):\n    A = 'a', 'old'\n    __table = {'k': 1}\n"
        "    def __new__(cls, value, text):\n        made = object.__new__(cls)\n"
        "        made._value_, made.text = value, text\n        return made\n"
        "    @property\n    def _private(self): return 22\n"
    ),
    "optional": (
        "class X(pydantic.BaseModel):\n    a: int | None = None\n    b: list = []\n"
        "    @classmethod\n    def __pydantic_init_subclass__(cls, **kwargs): cls.k = 3\n"
    ),
    "later": (
        "class X(pydantic.BaseModel):\n    a: 'list[Later]'\n"
        "class Later(pydantic.BaseModel):\n    b: int = 1\n"
    ),
    "bound": (
        "class B(pydantic.BaseModel):\n    b: int = 1\nT = TypeVar('T', bound=B)\n"
        "class X(pydantic.BaseModel, Generic[T]):\n    a: T\n"
    ),
    "alias": (
        "import typing_extensions\n"
        "Kind = typing_extensions.TypeAliasType('Kind', Literal['a', 'b'])\n"
        "class X(pydantic.BaseModel):\n    a: Kind\n"
    ),
    "struct": (
        "class X(msgspec.Struct):\n    z: str\n    a: int = 1\n    b: list = []\n"
        "    def f(self): return 2\n"
    ),
    "named tuple": (
        "class X(NamedTuple):\n    a: int = 1\n    def __repr__(self): return 'x' * 2\n"
    ),
    "typed dict": "class X(TypedDict):\n    a: int\n    b: NotRequired[str]\n",
    "enum": (
        "class X(str, enum.Enum):\n    A = 'a'\n    B = 'b'\n    def f(self): return 2\n"
        "    @classmethod\n    def _missing_(cls, value): return cls.A\n"
    ),
    "model": (
        "class X(pydantic.BaseModel):\n    a: int = pydantic.Field(default=1, gt=0,"
        " description='old text')\n    b: list[int]\n    _p: int = 4\n"
        "    @pydantic.field_validator('a', mode='after')\n    @classmethod\n"
        "    def v(cls, value): return value * 2\n"
        "    @pydantic.field_serializer('a')\n    def s(self, value): return value\n"
        "    def __hash__(self): return 2\n"
    ),
}
CHANGES = [
    *[(kind, "a = 1", "a = 9") for kind in ("plain", "metaclass", "abstract", "protocol")],
    *[(kind, "return 2", "return 9") for kind, source in SOURCES.items() if "return 2\n" in source],
    ("slots", "('a',)", "('a', 'b')"),
    ("metaclass", "k = 3", "k = 9"),
    ("dataclass", "a: int = 1", "a: int = 9"),
    ("dataclass", "a: int", "a: str"),
    ("dataclass", "default_factory=list", "default_factory=dict"),
    ("dataclass", "default=5", "default=6"),
    ("dataclass", "kw_only=True", "kw_only=False"),
    ("dataclass", "order=True", "order=False"),
    ("frozen", "frozen=True", "frozen=False"),
    ("attrs", "default=1", "default=9"),
    ("attrs", "converter=int", "converter=str"),
    ("attrs", "Factory(list)", "Factory(set)"),
    ("attrs", "kw_only=True", "kw_only=False, default=0"),
    ("compared", "order=True", "order=False"),
    ("compared", "eq=str.lower", "eq=str.upper"),
    ("compared", "repr=True", "repr=False"),
    ("compared", "'old'", "'new'"),
    ("compared", "on_setattr=helper", "on_setattr=None"),
    ("described", "'old'", "'new'"),
    ("members", "'old'", "'new'"),
    ("members", "'k': 1", "'k': 2"),
    ("members", "return 22", "return 23"),
    ("optional", "None = None", "None"),
    ("optional", " = []", ""),
    ("optional", "cls.k = 3", "cls.k = 4"),
    ("later", "b: int = 1", "b: int = 2"),
    ("bound", "b: int = 1", "b: int = 2"),
    ("alias", "'b'", "'c'"),
    ("struct", "a: int = 1", "a: int = 9"),
    ("struct", "z: str", "z: bytes"),
    ("struct", "b: list = []", "b: list = msgspec.field(default_factory=helper)"),
    ("named tuple", "a: int = 1", "a: int = 9"),
    ("named tuple", "* 2", "* 9"),
    ("typed dict", "a: int", "a: str"),
    ("typed dict", "NotRequired[str]", "str"),
    ("enum", "B = 'b'", "B = 'c'"),
    ("enum", "cls.A", "cls.B"),
    ("model", "default=1", "default=9"),
    ("model", "gt=0", "gt=-1"),
    ("model", "list[int]", "list[str]"),
    ("model", "old text", "new text"),
    ("model", "_p: int = 4", "_p: int = 9"),
    ("model", "mode='after'", "mode='before'"),
    ("model", "value * 2", "value * 9"),
    ("model", "('a')\n    def s", "('b')\n    def s"),
]


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    def build(source: str, name: str = "X") -> Any:
        module = types.ModuleType("built_for_a_test")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(PREAMBLE + source, vars(module))
        return vars(module)[name]

    return build


@pytest.mark.parametrize(("kind", "old", "new"), CHANGES)
def test_a_written_part_of_a_class_counts(
    build: Callable[[str], Any], kind: str, old: str, new: str
) -> None:
    assert old in SOURCES[kind]
    before = fingerprint(build(SOURCES[kind]))
    after = fingerprint(build(SOURCES[kind].replace(old, new)))
    assert before.digest != after.digest
    assert before.uncacheable == after.uncacheable == ()


@pytest.mark.parametrize("kind", SOURCES)
def test_a_class_built_twice_is_the_same(build: Callable[[str], Any], kind: str) -> None:
    source = SOURCES[kind]
    described = source.replace(":\n", ":\n    '''Described.'''\n", 1)
    shifted = "# comment\n\n" + described
    assert fingerprint(build(source)).parts == fingerprint(build(shifted)).parts


def test_the_help_text_of_a_steps_parameter_does_not_count(
    build: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import pydantic

    import asyncdistil.errors

    class Base(pydantic.BaseModel):
        pass

    # A class as the library has them: defined in its own package.
    Base.__module__, Base.__qualname__ = "asyncdistil.errors", "Base"
    monkeypatch.setattr(asyncdistil.errors, "Base", Base, raising=False)
    source = "from asyncdistil.errors import Base\nclass X(Base):\n"
    source += "    a: int = pydantic.Field(default=1, description='old text')\n"
    before = fingerprint(build(source))
    assert before.parts == fingerprint(build(source.replace("old text", "new"))).parts
    assert before.digest != fingerprint(build(source.replace("=1", "=2"))).digest
    assert "distribution asyncdistil" in before.parts


def test_an_attribute_that_repeats_an_inherited_one_does_not_count(
    build: Callable[[str], Any],
) -> None:
    base = "class B:\n    a = 1\n    l = [1]\n\nclass X(B):\n    b = 2\n"
    same = fingerprint(build(base)).parts
    assert same == fingerprint(build(base + "    a = 1\n    l = B.l\n")).parts
    assert same != fingerprint(build(base + "    a = True\n")).parts
    assert same != fingerprint(build(base + "    l = [2]\n")).parts


def test_generic_models_count_by_their_arguments(build: Callable[[str], Any]) -> None:
    source = "T = TypeVar('T')\nclass G(pydantic.BaseModel, Generic[T]):\n    a: T\n"
    digests = {
        fingerprint(build(source + f"X = G[{argument}]\n")).digest for argument in ("int", "str")
    }
    assert len(digests) == 2


def test_descriptors_count_by_their_functions(build: Callable[[str], Any]) -> None:
    source = """
class X:
    @property
    def p(self): return 1
    @p.setter
    def p(self, value): return 2
    @staticmethod
    def s(): return 3
    @classmethod
    def c(cls): return 4
    @functools.cached_property
    def k(self): return 5
    @functools.lru_cache
    def l(self): return 6
    class Inner:
        def i(self): return 7
    @functools.singledispatchmethod
    def d(self, x): return 8
"""
    expected = fingerprint(build(source))
    for number in range(1, 9):
        changed = fingerprint(build(source.replace(f"return {number}", "return 0")))
        assert changed.digest != expected.digest, number
    assert expected.uncacheable == ()


def test_a_validator_counts_where_it_was_written(build: Callable[[str], Any]) -> None:
    source = SOURCES["model"] + "\nclass Y(X):\n    c: int = 1\n"
    before = fingerprint(build(source, "Y")).parts
    after = fingerprint(build(source.replace("mode='after'", "mode='before'"), "Y")).parts
    assert [name for name in before if before[name] != after[name]] == ["X"]


def test_a_wrapper_around_a_generated_method_counts(build: Callable[[str], Any]) -> None:
    source = """
def decorate(function):
    @functools.wraps(function)
    def inner(self, *args, **kwargs):
        function(self, *args, **kwargs)
        self.b = 2
    return inner

@dataclasses.dataclass
class X:
    a: list = dataclasses.field(default_factory=list)

X.__init__ = decorate(X.__init__)
"""
    before = fingerprint(build(source))
    after = fingerprint(build(source.replace("self.b = 2", "self.b = 9")))
    assert before.digest != after.digest
    assert before.uncacheable == ()


def test_a_model_counts_alike_before_and_after_it_was_first_used(
    build: Callable[[str], Any],
) -> None:
    used = build(SOURCES["later"])
    used(a=[{"b": 3}])
    parts = fingerprint(used).parts
    assert parts == fingerprint(build(SOURCES["later"])).parts
    assert "Later" in parts
