"""Routers choose among steps by the batch alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdistil.errors import ParameterError, StepError
from asyncdistil.steps import RoutingBatchFunction, routing_batch_function, sample_n_steps

STEPS = ["a", "b", "c"]


@routing_batch_function
def bare(steps: list[str]) -> list[str]:
    return steps[1:]


@routing_batch_function(description="By language.")
def by_language(steps: list[str], rows: list[dict[str, Any]]) -> list[str]:
    return [step for step in steps if step == rows[0]["language"]]


def test_both_spellings_make_routers() -> None:
    assert isinstance(bare, RoutingBatchFunction)
    assert bare.choose(STEPS) == ["b", "c"]
    assert not bare.takes_rows
    assert by_language.description == "By language."


def test_a_router_may_look_at_the_rows() -> None:
    assert by_language.takes_rows
    assert by_language.choose(STEPS, [{"language": "c"}]) == ["c"]


def test_choices_come_back_in_the_order_of_the_steps() -> None:
    assert RoutingBatchFunction(lambda steps: ["c", "a"]).choose(STEPS) == ["a", "c"]


@pytest.mark.parametrize(("chosen", "what"), [([], "chose no step"), (["z"], "chose 'z'")])
def test_a_choice_of_nothing_or_of_a_stranger_is_refused(chosen: list[str], what: str) -> None:
    with pytest.raises(StepError, match=what):
        RoutingBatchFunction(lambda steps: chosen).choose(STEPS)


def test_a_function_of_other_parameters_is_refused() -> None:
    with pytest.raises(ParameterError, match="must take"):
        routing_batch_function(list)


@given(digest=st.binary(min_size=16, max_size=16), n=st.integers(1, 3), seed=st.integers(0, 9))
def test_a_sample_depends_on_batch_and_seed_alone(digest: bytes, n: int, seed: int) -> None:
    first = sample_n_steps(n, seed).choose(STEPS, (), digest)
    again = cloudpickle.loads(cloudpickle.dumps(sample_n_steps(n, seed))).choose(STEPS, (), digest)
    assert first == again
    assert len(first) == n


def test_samples_reach_every_step() -> None:
    router = sample_n_steps(1)
    seen = Counter(router.choose(STEPS, (), bytes(15) + bytes([n]))[0] for n in range(200))
    assert set(seen) == set(STEPS)
    assert min(seen.values()) > 30


def test_a_sample_larger_than_the_choice_is_refused() -> None:
    with pytest.raises(ParameterError, match="lower n"):
        sample_n_steps(4).choose(STEPS, (), bytes(16))
    with pytest.raises(ParameterError, match="at least 1"):
        sample_n_steps(0)


def test_routers_have_an_identity_of_code_or_of_arguments() -> None:
    assert bare.identity().digest != by_language.identity().digest
    assert sample_n_steps(1).identity().digest == sample_n_steps(1).identity().digest
    assert sample_n_steps(1).identity().digest != sample_n_steps(2).identity().digest
    assert sample_n_steps(1).identity().digest != sample_n_steps(1, seed=5).identity().digest
