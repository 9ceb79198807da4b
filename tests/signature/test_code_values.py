"""What counts as a value, and what is reported as having no stable identity."""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime
import enum
import fractions
import functools
import ipaddress
import itertools
import logging
import operator
import pathlib
import re
import string
import threading
import types
import typing
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NewType, TypedDict

import attrs
import msgspec
import numpy as np
import pydantic
import pytest
from annotated_types import Gt
from hypothesis import given
from hypothesis import strategies as st

from asyncdistil.signature import CodeFingerprint, fingerprint


def code_of(value: Any, **options: Any) -> CodeFingerprint:
    """Fingerprint of a function that closes over a value."""

    def use() -> Any:
        return value

    return fingerprint(use, **options)


def digest_of(value: Any) -> bytes:
    code = code_of(value)
    assert code.uncacheable == ()
    return code.digest


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Perm(enum.Flag):
    R = 1
    W = 2


@dataclasses.dataclass
class Config:
    a: int = 1
    items: list[int] = dataclasses.field(default_factory=list)


@attrs.define
class Tuned:
    a: int = 1


class Packed(msgspec.Struct):
    a: int = 1
    b: list[int] = msgspec.field(default_factory=list)
    c: list[int] = []


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    a: int = 1
    secret: pydantic.SecretStr = pydantic.SecretStr("")
    _seen: int = pydantic.PrivateAttr(default=0)


class Pair(NamedTuple):
    x: int
    y: int = 0


class Shape(TypedDict, total=False):
    x: int


class Words(list[str]):
    pass


class Signed:
    def __init__(self, n: int) -> None:
        self.n = n
        self.lock = threading.Lock()

    def __signature__(self) -> Any:
        return {"n": self.n}


class Live:
    def method(self) -> int:
        return 1


@functools.singledispatch
def dispatched(x: Any) -> int:
    return 0


@dispatched.register
def _(x: int) -> int:
    return 1


class WithDescriptors:
    part = functools.partialmethod(operator.add, 1)

    @functools.cached_property
    def kept(self) -> int:
        return 1

    @functools.singledispatchmethod
    def by_type(self, x: Any) -> int:
        return 1

    @types.DynamicClassAttribute
    def dynamic(self) -> int:
        return 1


UserId = NewType("UserId", int)
T = typing.TypeVar("T")


def frames() -> list[Callable[[], Any]]:
    """Values that are all different, each made anew by a call."""
    plain: list[Any] = [None, True, 1, 1.0, "1", b"1", 0.0, -0.0, [], (), {}, set(), frozenset()]
    makers: list[Callable[[], Any]] = [functools.partial(lambda v: v, value) for value in plain]
    return [
        *makers,
        lambda: [1],
        lambda: (1,),
        lambda: [True],
        lambda: {"a": 1, "b": 2},
        lambda: {"b": 2, "a": 1},
        lambda: {1: "x"},
        lambda: {"x", "y", "z"},
        lambda: {("x", 1), ("y", 2)},
        lambda: frozenset({"x", "y", "z"}),
        lambda: types.MappingProxyType({"m": [1]}),
        lambda: collections.deque([1], maxlen=3),
        lambda: collections.OrderedDict(a=1),
        lambda: collections.defaultdict(list, a=[1]),
        lambda: collections.defaultdict(int, a=[1]),
        lambda: collections.Counter("aab"),
        lambda: Words(["a"]),
        lambda: 1 << 100,
        lambda: 1j,
        lambda: ...,
        lambda: NotImplemented,
        lambda: range(3),
        lambda: slice(1, 2),
        lambda: bytearray(b"1"),
        lambda: array.array("i", [1]),
        lambda: datetime.date(2024, 1, 1),
        lambda: datetime.datetime(2024, 1, 1),
        lambda: Decimal("1.0"),
        lambda: Decimal("1.00"),
        lambda: fractions.Fraction(1, 2),
        lambda: ipaddress.ip_address("127.0.0.1"),
        lambda: pathlib.PurePosixPath("a"),
        lambda: uuid.UUID(int=1),
        lambda: re.compile("a"),
        lambda: re.compile("a", re.IGNORECASE),
        lambda: string.Template("$x"),
        lambda: logging.getLogger("a"),
        object,
        lambda: Color.RED,
        lambda: Color.BLUE,
        lambda: Perm.R,
        lambda: Perm.R | Perm.W,
        lambda: Perm(0),
        Config,
        lambda: Config(2),
        Tuned,
        lambda: Tuned(2),
        Packed,
        lambda: Packed(2),
        Model,
        lambda: Model(a=2),
        lambda: Model(other=2),
        lambda: Pair(1),
        lambda: Pair(1, 2),
        lambda: types.SimpleNamespace(a=1),
        lambda: Signed(1),
        lambda: Signed(2),
        lambda: np.arange(3),
        lambda: np.arange(3.0),
        lambda: np.arange(4).reshape(2, 2),
        lambda: np.array(["a", None], dtype=object),
        lambda: np.float32(1),
        lambda: np.exp,
        lambda: np.sin,
        lambda: Shape,
        lambda: Packed,
        lambda: Pair,
        lambda: Color,
        lambda: WithDescriptors,
        lambda: dispatched,
        lambda: len,
        lambda: str.upper,
        lambda: "a".upper,
        lambda: tuple.__new__,
        lambda: dict.fromkeys,
        lambda: object().__repr__,
        lambda: operator.itemgetter(1),
        lambda: operator.itemgetter(2),
        lambda: operator.methodcaller("f", 1),
        lambda: functools.partial(int, base=2),
        lambda: functools.partial(int, base=3),
        lambda: Signed(1).__signature__,
        lambda: re,
        lambda: re.sub,
        lambda: functools.cache(re.sub),
        lambda: dict[str, int],
        lambda: dict[str, str],
        lambda: typing.Optional[int],  # noqa: UP045
        lambda: Literal["a"],
        lambda: Literal["b"],
        lambda: Annotated[int, Gt(1)],
        lambda: Annotated[int, Gt(2)],
        lambda: Annotated[str, pydantic.Field(min_length=2)],
        lambda: Annotated[str, pydantic.Field(min_length=3)],
        lambda: Annotated[int, pydantic.Field()],
        lambda: Annotated[int, pydantic.AfterValidator(abs)],
        lambda: Callable[[int], str],
        lambda: typing.ForwardRef("Later"),
        lambda: UserId,
        lambda: T,
        lambda: typing.Any,
        lambda: typing.List,  # noqa: UP006
        lambda: typing.ClassVar,
        lambda: msgspec.UNSET,
        lambda: dataclasses.MISSING,
    ]


def test_every_kind_of_value_counts_by_type_and_content() -> None:
    makers = frames()
    digests = [digest_of(make()) for make in makers]
    assert digests == [digest_of(make()) for make in makers]
    seen: dict[bytes, int] = {}
    for position, digest in enumerate(digests):
        assert seen.setdefault(digest, position) == position, makers[position]


def test_what_carries_no_result_counts_only_as_being_there() -> None:
    assert digest_of(logging.getLogger("a")) == digest_of(logging.getLogger("b"))
    assert digest_of(pydantic.SecretStr("a")) == digest_of(pydantic.SecretStr("b"))
    assert digest_of(Model(secret="a")) == digest_of(Model(secret="b"))

    class Proxy:
        __module__ = "structlog._config"

    assert digest_of(Proxy()) == digest_of(Proxy())


LIVE: Any = Live()
LIVE_ITERATOR = itertools.count()


def uses_a_live_global() -> Any:
    return LIVE


def test_a_live_object_is_reported_with_its_name_and_a_remedy() -> None:
    code = fingerprint(uses_a_live_global)
    [reason] = code.uncacheable
    assert reason.startswith(f"{__name__}.LIVE is a {__name__}.Live object")
    assert "__signature__()" in reason
    assert "'LIVE' to signature_ignore" in reason
    # Its class still counts.
    assert "Live.method" in code.parts


@pytest.mark.parametrize("name", ["LIVE", f"{__name__}.LIVE"])
def test_an_ignored_variable_makes_no_reason_and_no_part(name: str) -> None:
    code = fingerprint(uses_a_live_global, ignore={name})
    assert code.uncacheable == ()
    assert "LIVE" not in code.parts


def test_a_class_can_name_what_it_leaves_out() -> None:
    class Step:
        signature_ignore: typing.ClassVar[set[str]] = {"LIVE", "handle", "size", "_p"}
        handle = threading.Lock()

        def process(self) -> Any:
            return LIVE

    class Declared(pydantic.BaseModel):
        signature_ignore: typing.ClassVar[set[str]] = {"size", "_p"}
        size: Any = pydantic.Field(default_factory=threading.Lock)
        _p: Any = pydantic.PrivateAttr(default_factory=threading.Lock)

    assert fingerprint(Step).uncacheable == ()
    assert fingerprint(Declared).uncacheable == ()


def test_ignoring_reaches_into_dicts_and_instances_and_modules() -> None:
    value = {"lock": threading.Lock(), 1: types.SimpleNamespace(lock=threading.Lock())}
    assert code_of(value).uncacheable != ()
    assert code_of(value, ignore={"lock"}).uncacheable == ()

    def uses_a_module() -> Any:
        return pathlib.Path

    def imports_a_module() -> Any:
        import json

        return json

    before = fingerprint(uses_a_module).digest
    assert before != fingerprint(uses_a_module, ignore={"pathlib"}).digest
    assert fingerprint(imports_a_module, ignore={"json"}).digest != (
        fingerprint(imports_a_module).digest
    )


@pytest.mark.parametrize(
    "value",
    [LIVE_ITERATOR, threading.Lock(), Live(), Live().method, {frames, digest_of}, iter([])],
    ids=lambda value: type(value).__name__,
)
def test_state_without_identity_is_never_passed_over(value: Any) -> None:
    code = code_of(value)
    assert len(code.uncacheable) == 1
    assert code.uncacheable[0].startswith(f"{__name__}.code_of.use.value")


def test_cycles_come_to_an_end_and_count() -> None:
    one: list[Any] = [1]
    one.append(one)
    two: list[Any] = [2]
    two.append(two)
    assert digest_of(one) != digest_of(two)
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]
    assert len(code_of(deep).uncacheable) == 1

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)

    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    assert {"odd", "even"} <= {part.rpartition(".")[2] for part in fingerprint(odd).parts}


def test_functions_that_differ_only_in_what_they_are_bound_to_stay_apart() -> None:
    def make(n: Any) -> Callable[[], Any]:
        def inner() -> Any:
            return n

        return inner

    def both(a: Any, b: Any) -> Callable[[], Any]:
        return lambda: (a, b)

    one, two = make(1), make(2)
    digests = {fingerprint(both(a, b)).digest for a in (one, two) for b in (one, two)}
    assert len(digests) == 4
    # A copy of a function is the same function.
    assert fingerprint(both(one, one)).digest == fingerprint(both(one, make(1))).digest
    nested = fingerprint(make(make(make(1))))
    assert nested.digest != fingerprint(make(make(1))).digest


def test_an_empty_cell_counts_as_empty() -> None:
    def outer() -> Callable[[], Any]:
        def inner() -> Any:
            return later

        if False:
            later = 1
        return inner

    assert fingerprint(outer()).uncacheable == ()


def test_a_signature_ignore_of_another_object_is_not_followed() -> None:
    bound = fingerprint(Signed(1).__signature__)
    assert bound.uncacheable == ()
    assert "Signed.__signature__" in bound.parts
    assert "distribution pydantic" in fingerprint(pydantic.BaseModel).parts


@given(st.recursive(st.none() | st.integers() | st.text() | st.floats() | st.binary(), st.lists))
def test_any_plain_value_has_one_digest(value: Any) -> None:
    assert digest_of(value) == digest_of(value)


def test_sources_explain_code_and_constants_and_hide_secrets() -> None:
    api_key = "sk-abcdefghijklmnopqrst"
    prompt = "Judge {x}, with key sk-abcdefghijklmnopqrst"
    table = {"api_key": "hidden-one", "n": [1, None], "live": Live()}

    def use() -> Any:
        return api_key, prompt, table

    sources = fingerprint(use).sources
    texts = "\n".join(sources.values())
    assert "return api_key, prompt, table" in texts
    assert "Judge {x}, with key [hidden]" in texts
    assert "'n': [1, None]" in texts
    assert "<Live>" in texts
    assert "sk-abc" not in texts
    assert "hidden-one" not in texts
    assert not any(name.endswith("api_key") for name in sources)
    assert "class Live():\n    method" in sources["Live"]


def test_code_without_a_source_file_has_no_source_text() -> None:
    namespace: dict[str, Any] = {"__name__": "nowhere"}
    exec("def f():\n    return 1\n", namespace)
    code = fingerprint(namespace["f"])
    assert "f" not in code.sources
    assert code.modules == ()


@dataclasses.dataclass
class Kept(dict[str, int]):
    size: int = 0

    @functools.cached_property
    def twice(self) -> int:
        return self.size * 2


class Slotted(list[int]):
    __slots__ = ("__inner", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = self.__inner = limit


def test_an_instance_counts_with_all_that_it_holds() -> None:
    def digest(held: Any) -> bytes:
        return fingerprint(lambda: held).digest

    plain, content, beside, read = Kept(), Kept(), Kept(), Kept()
    content["a"] = 1
    vars(beside)["more"] = 1
    assert read.twice == 0
    assert len({digest(plain), digest(content), digest(beside)}) == 3
    assert digest(read) == digest(plain), "a cached property follows from the rest"
    assert digest(Slotted(1)) == digest(Slotted(1)) != digest(Slotted(2))
