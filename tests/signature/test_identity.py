"""Signatures and lineages: what is passed is what counts, and explain names what changed."""

from __future__ import annotations

import enum
import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdistil.batch import Digest, StepName
from asyncdistil.codec import decode_value, encode_value
from asyncdistil.errors import FormatError
from asyncdistil.signature import (
    ABSENT,
    Identity,
    aggregated_signature,
    differences,
    fingerprint,
    lineage,
    nearest,
    pipeline_signature,
    read_definition,
    same_key,
    step_identity,
)

FIELDS = {
    "threshold": 3,
    "template": "Judge this:\n{text}\nAnswer with a number.",
    "llm": {"model": "small", "generation": {"temperature": 0.5, "stop": None}},
}
PARENT = Digest(b"p" * 16)


def identity(**changes: Any) -> Identity:
    given = {
        "name": "judge",
        "kind": "row",
        "qualname": "Judge",
        "version": 2,
        "fields": FIELDS,
        "code": None,
        "extra": {"model": "org/model@abc"},
        **changes,
    }
    return step_identity(**given)


def define(
    step: Identity | None = None, *, name: str = "judge", **changes: Any
) -> tuple[Digest, bytes]:
    wiring: dict[str, Any] = {
        "edges": [{"upstream": "load", "input_mappings": {"text": "body"}, "routed": False}],
        "parents": [PARENT],
        **changes,
    }
    return lineage(step or identity(), name=StepName(name), **wiring)


def nested(**generation: Any) -> dict[str, Any]:
    return {**FIELDS, "llm": {"model": "small", "generation": {"stop": None, **generation}}}


CHANGES: dict[str, tuple[Callable[[], tuple[Digest, bytes]], str, Any, Any]] = {
    "a parameter": (
        lambda: define(identity(fields={**FIELDS, "threshold": 4})),
        "field.threshold",
        3,
        4,
    ),
    "a parameter of a nested model": (
        lambda: define(identity(fields=nested(temperature=0.7))),
        "field.llm.generation.temperature",
        0.5,
        0.7,
    ),
    "the model id": (
        lambda: define(identity(extra={"model": "org/model@def"})),
        "extra.model",
        "org/model@abc",
        "org/model@def",
    ),
    "the version of a library step": (lambda: define(identity(version=3)), "version", 2, 3),
    "the kind": (lambda: define(identity(kind="batch")), "kind", "row", "batch"),
    "the class": (lambda: define(identity(qualname="Other")), "qualname", "Judge", "Other"),
    "the step name": (lambda: define(name="other"), "name", "judge", "other"),
    "an upstream step": (
        lambda: define(parents=[Digest(b"q" * 16)]),
        "upstream load",
        (b"p" * 16).hex(),
        (b"q" * 16).hex(),
    ),
    "the wiring": (
        lambda: define(
            edges=[{"upstream": "load", "input_mappings": {"text": "t"}, "routed": False}]
        ),
        "input 0.input_mappings.text",
        "body",
        "t",
    ),
    "routing": (
        lambda: define(
            edges=[{"upstream": "load", "input_mappings": {"text": "body"}, "routed": True}]
        ),
        "input 0.routed",
        False,
        True,
    ),
}


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_change_changes_the_lineage_and_is_explained(change: str) -> None:
    make, component, old, new = CHANGES[change]
    before, stored = define()
    after, now = make()
    assert before != after
    assert not same_key(stored, now)
    [difference] = differences(stored, now)
    assert (difference.component, difference.old, difference.new) == (component, old, new)
    assert str(difference) == f"{component}: {old!r} → {new!r}"


def test_a_prompt_is_explained_by_a_diff() -> None:
    template = FIELDS["template"].replace("number", "word")  # type: ignore[attr-defined]
    _, stored = define()
    _, now = define(identity(fields={**FIELDS, "template": template}))
    [difference] = differences(stored, now)
    assert difference.component == "field.template"
    assert "-Answer with a number." in difference.diff
    assert "+Answer with a word." in str(difference)


def code_from(source: str) -> Any:
    import linecache
    import uuid

    file = f"<{uuid.uuid4()}>"
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    namespace: dict[str, Any] = {"__name__": "user"}
    exec(compile(source, file, "exec"), namespace)
    return namespace["judge"]


def test_changed_code_is_explained_by_a_diff_of_the_function_that_changed() -> None:
    source = "def clean(x):\n    return x\n\ndef judge(x):\n    return clean(x)\n"
    one = fingerprint(code_from(source))
    two = fingerprint(code_from(source.replace("return x", "return x.strip()")))
    _, stored = define(identity(code=one, version=None))
    _, now = define(identity(code=two, version=None))
    [difference] = differences(stored, now)
    assert difference.component == "code.clean"
    assert difference.old == one.parts["clean"]
    assert "-    return x\n+    return x.strip()" in difference.diff


def test_text_beside_a_key_is_stored_and_never_counts() -> None:
    source = "def judge(x):\n    return x\n"
    plain = identity(code=fingerprint(code_from(source)))
    described = identity(code=fingerprint(code_from("# moved\n\n" + source.replace("x)", "x )"))))
    (one, stored), (two, now) = define(plain), define(described)
    assert one == two
    assert stored != now
    assert same_key(stored, now)
    assert differences(stored, now) == []
    assert "code.judge" in read_definition(stored)[1]
    assert decode_value(stored)["key"]["name"] == "judge"


def test_what_is_not_passed_does_not_count_and_order_does_not_either() -> None:
    shuffled = dict(reversed(FIELDS.items()))
    assert define(identity(fields=shuffled))[0] == define()[0]
    assert same_key(define(identity(fields=shuffled))[1], define()[1])
    # The name tells steps apart by lineage, not by signature: equal steps share a memo.
    assert identity(name="a").digest == identity(name="b").digest


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, True), (1, 1.0), (1, "1"), (None, "None"), ([], ""), (["a", "b"], ["a-b"]), ((), [])],
)
def test_values_of_different_types_stay_apart(one: Any, other: Any) -> None:
    first, second = identity(fields={"x": one}), identity(fields={"x": other})
    assert first.digest != second.digest
    assert [d.component for d in differences(define(first)[1], define(second)[1])] == ["field.x"]


class Mood(enum.Enum):
    GOOD = "good"


def double(x: int) -> int:
    return x * 2


def triple(x: int) -> int:
    return x * 3


class Schema:
    def check(self) -> int:
        return 1


def test_classes_and_functions_in_fields_count_by_their_code() -> None:
    digests = {
        identity(fields={"hook": hook}).digest
        for hook in (double, triple, functools.partial(double, 1), Schema, len, Schema.check)
    }
    assert len(digests) == 6
    step = identity(fields={"hooks": [double, {"a": (Schema,)}], "mood": Mood.GOOD})
    assert step.uncacheable == ()
    assert step.components["field.mood"] == ["enum", "Mood", "GOOD", "good"]
    assert "return x * 2" in step.beside["field.hooks.0.double"]
    definition = define(step)[1]
    assert same_key(definition, encode_value(decode_value(definition)))


def test_a_changed_function_in_a_field_is_named() -> None:
    source = "def judge(x):\n    return x\n"
    one, two = code_from(source), code_from(source.replace("return x", "return -x"))
    stored, now = (define(identity(fields={"hook": hook}))[1] for hook in (one, two))
    [difference] = differences(stored, now)
    assert difference.component == "field.hook.judge"
    assert "+    return -x" in difference.diff


def test_a_field_without_identity_makes_the_step_uncacheable_by_name() -> None:
    lock = threading.Lock()
    step = identity(fields={"a": {"lock": lock}})
    [reason] = step.uncacheable
    assert reason.startswith("field.a.lock of step 'judge' holds a _thread.lock")
    assert "signature_ignore" in reason

    def use() -> Any:
        return lock

    assert len(identity(code=fingerprint(use), fields={"f": use}).uncacheable) == 1
    assert define(step)[0] == define(identity(fields={"a": {"lock": threading.Lock()}}))[0]


def test_an_added_and_a_removed_component_are_explained() -> None:
    _, stored = define(identity(fields={"old": 1}))
    _, now = define(identity(fields={"new": "a\nb"}))
    added, removed = differences(stored, now)
    assert (added.component, added.old) == ("field.new", ABSENT)
    assert added.diff.endswith("+a\n+b")
    assert (removed.component, removed.old, removed.new) == ("field.old", 1, ABSENT)
    assert str(removed) == "field.old: 1 → (absent)"


def test_the_nearest_definition_is_the_least_different_of_the_same_step() -> None:
    _, now = define()
    _, near = define(identity(fields={**FIELDS, "threshold": 4}))
    _, far = define(identity(fields={**FIELDS, "threshold": 4}, version=9))
    _, renamed = define(name="other")
    _, stranger = define(identity(qualname="Other"), name="other")
    assert nearest(now, [far, near, renamed, stranger]) == near
    assert nearest(now, [near, far]) == near
    assert nearest(now, [stranger, renamed]) == renamed
    assert nearest(now, [stranger]) is None
    assert nearest(now, []) is None
    assert nearest(now, [b"\xc1", encode_value([1]), near]) == near
    _, later = define(identity(fields={**FIELDS, "threshold": 5}))
    assert nearest(now, [near, later]) == later


@pytest.mark.parametrize("damaged", [encode_value(1), encode_value({"key": 1}), b"", b"\xc1"])
def test_what_is_not_a_definition_is_refused(damaged: bytes) -> None:
    with pytest.raises(FormatError):
        differences(damaged, define()[1])
    with pytest.raises(FormatError):
        same_key(define()[1], damaged)


def test_a_definition_without_text_is_read() -> None:
    key, beside = read_definition(encode_value({"key": {"name": "x"}}))
    assert (key, beside) == ({"name": "x"}, {})
    _, now = define()
    assert "name" in [d.component for d in differences(encode_value({"key": {}}), now)]
    more = encode_value({"key": {"name": "judge", "parents": [b"p"]}})
    assert "upstream 0" in [d.component for d in differences(more, now)]


def test_the_pipeline_signature_is_names_and_connections() -> None:
    edges = [("a", "c"), ("b", "c")]
    signature = pipeline_signature(["a", "b", "c"], edges)
    assert len(signature) == 32
    assert signature == pipeline_signature(["c", "b", "a"], edges)
    # The order of a step's ports is part of the wiring, that of the steps is not.
    assert signature != pipeline_signature(["a", "b", "c"], edges[::-1])
    more = [*edges, ("a", "d")]
    assert pipeline_signature("abcd", more) == pipeline_signature("abcd", [more[2], *edges])
    assert signature != pipeline_signature(["a", "b", "c"], edges[:1])
    assert signature != pipeline_signature(["a", "b", "c"], edges, {"a": "router"})


def test_the_aggregated_signature_is_all_parameters() -> None:
    one, two = identity(name="a"), identity(name="b", version=3)
    signature = aggregated_signature([one, two])
    assert len(signature) == 32
    assert signature == aggregated_signature([two, one])
    swapped = [identity(name="b"), identity(name="a", version=3)]
    assert signature != aggregated_signature(swapped)
    assert signature != aggregated_signature([one])


DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), DATA, max_size=4))
def test_a_stored_definition_equals_itself_and_decodes(fields: dict[str, Any]) -> None:
    digest, definition = define(identity(fields=fields))
    again = encode_value(decode_value(definition))
    assert same_key(definition, again)
    assert differences(definition, again) == []
    assert define(identity(fields=dict(reversed(fields.items()))))[0] == digest
