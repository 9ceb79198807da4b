"""How steps find their pipeline and connect."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from asyncdistil.errors import GraphError
from asyncdistil.steps import (
    CURRENT_PIPELINE,
    BaseStep,
    GeneratorStep,
    RoutingBatchFunction,
    Step,
    routing_batch_function,
)
from asyncdistil.steps.registration import snake_case


class Board:
    """The smallest thing that steps accept as a pipeline: it writes down what they ask."""

    def __init__(self) -> None:
        self.steps: dict[str, BaseStep] = {}
        self.edges: list[tuple[str, str]] = []
        self.routers: list[tuple[str, str, list[str]]] = []

    def has_step(self, name: str) -> bool:
        return name in self.steps

    def add_step(self, step: BaseStep) -> None:
        self.steps[step.name] = step

    def connect(self, source: str, target: str) -> None:
        self.edges.append((source, target))

    def add_router(self, source: str, router: RoutingBatchFunction, targets: Sequence[str]) -> None:
        self.routers.append((source, router.name, list(targets)))


class TextGeneration(Step):
    pass


class URIAL(Step):
    pass


class Source(GeneratorStep):
    pass


@contextmanager
def inside(board: Board) -> Iterator[Board]:
    token = CURRENT_PIPELINE.set(board)
    try:
        yield board
    finally:
        CURRENT_PIPELINE.reset(token)


def test_steps_name_and_register_themselves_inside_a_pipeline() -> None:
    with inside(Board()) as board:
        TextGeneration()
        TextGeneration(name=None)
        mine = TextGeneration(name="text_generation_5")
    assert list(board.steps) == ["text_generation_0", "text_generation_1", "text_generation_5"]
    assert mine.pipeline is board


def test_every_capital_starts_a_word_of_the_name() -> None:
    assert snake_case("URIAL") == "u_r_i_a_l"
    assert URIAL().name == "u_r_i_a_l_0"


def test_a_step_may_be_given_its_pipeline() -> None:
    board = Board()
    Source(pipeline=board, name="a")
    assert list(board.steps) == ["a"]


def test_a_step_without_pipeline_stands_alone_and_cannot_be_connected() -> None:
    with pytest.raises(GraphError, match="belongs to no pipeline"):
        Source() >> TextGeneration()


def test_a_taken_name_and_a_bad_name_are_refused() -> None:
    with inside(Board()) as board:
        TextGeneration(name="a")
        with pytest.raises(GraphError, match="has a step named 'a' already"):
            TextGeneration(name="a")
        with pytest.raises(ValueError, match="pattern"):
            TextGeneration(name="gpt-4.1")
    assert list(board.steps) == ["a"]


def test_a_step_that_its_validators_refuse_never_registers() -> None:
    with inside(Board()) as board, pytest.raises(ValueError, match="no parameter 'bogus'"):
        TextGeneration(bogus=1)
    assert board.steps == {}


def test_arrows_chain_fan_out_and_fan_in() -> None:
    with inside(Board()) as board:
        a, b, c, d = Source(name="a"), *(TextGeneration(name=n) for n in "bcd")
        assert (a >> [b, c] >> d) is d
    assert board.edges == [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]


def test_connect_takes_several_steps_and_a_router() -> None:
    @routing_batch_function
    def first(steps: list[str]) -> list[str]:
        return steps[:1]

    with inside(Board()) as board:
        a, b, c, d = Source(name="a"), *(TextGeneration(name=n) for n in "bcd")
        a.connect(b, c, routing_batch_function=first)
        d.connect(c)
    assert board.edges == [("a", "b"), ("a", "c"), ("d", "c")]
    assert board.routers == [("a", "first", ["b", "c"])]


def test_a_router_stands_between_arrows_and_serves_several_sources() -> None:
    @routing_batch_function("picks one")
    def pick(steps: list[str]) -> list[str]:
        return steps[:1]

    with inside(Board()) as board:
        a, b, c, d = Source(name="a"), *(TextGeneration(name=n) for n in "bcd")
        e = Source(name="e")
        a >> pick >> [b, c] >> d
        e >> pick >> [b, c]
    assert board.routers == [("a", "pick", ["b", "c"]), ("e", "pick", ["b", "c"])]
    with pytest.raises(GraphError, match="no step before it"):
        pick >> [b]
    with pytest.raises(GraphError, match="chooses among several"):
        a >> pick >> b  # type: ignore[operator]


def words(row: dict[str, Any]) -> dict[str, Any]:
    return row


@routing_batch_function
def pick(steps: list[str]) -> list[str]:
    return steps[:1]


NO_STEPS: list[tuple[Callable[[Any, Any], Any], str]] = [
    (lambda a, b: a >> URIAL, r"URIAL is a class: make a step of it, `URIAL\(\.\.\.\)`"),
    (lambda a, b: a >> [b, URIAL], r"URIAL is a class.*`URIAL\(\.\.\.\)`"),
    (lambda a, b: [URIAL, a] >> b, r"URIAL is a class.*`URIAL\(\.\.\.\)`"),
    (lambda a, b: URIAL >> b, r"URIAL is a class.*`URIAL\(\.\.\.\)`"),
    (lambda a, b: a >> pick >> [b, URIAL], r"URIAL is a class.*`URIAL\(\.\.\.\)`"),
    (lambda a, b: a.connect(URIAL), r"URIAL is a class.*`URIAL\(\.\.\.\)`"),
    (lambda a, b: a >> words, r"'words' is a function.*`@step`.*`Map\(function=\.\.\.\)`"),
    (lambda a, b: words >> b, r"'words' is a function"),
    (lambda a, b: a >> None, "None is none"),
    (lambda a, b: None >> b, "None is none"),
    (lambda a, b: a >> "b", "'b' is a text: give the step"),
    (lambda a, b: a >> 7, "'int' is no class of steps"),
    (lambda a, b: a >> (b,), r"a tuple of 1: write `a >> \[b, c\]`"),
    (lambda a, b: a.connect([b]), r"a list of 1.*`a\.connect\(b, c\)`"),
    (lambda a, b: a >> [pick], r"'pick' is a router: .*`step >> pick >> \[b, c\]`"),
    (lambda a, b: [a, b] >> pick, r"write `a >> pick >> \[c, d\]` for each"),
]


@pytest.mark.parametrize(("connect", "says"), NO_STEPS)
def test_what_is_no_step_is_connected_with_nothing_and_named_with_what_to_write(
    connect: Callable[[Any, Any], Any], says: str
) -> None:
    with inside(Board()) as board:
        a, b = Source(name="a"), TextGeneration(name="b")
        with pytest.raises(GraphError, match=says):
            connect(a, b)
    assert (board.edges, board.routers) == ([], [])


def test_steps_of_two_pipelines_are_not_connected() -> None:
    a, b = Source(pipeline=Board()), TextGeneration(pipeline=Board())
    with pytest.raises(GraphError, match="not of one pipeline"):
        a >> b


def test_a_copy_of_a_step_shares_the_pipeline() -> None:
    board = Board()
    a = Source(pipeline=board)
    twin: Any = copy.deepcopy(a)
    assert twin.pipeline is board
    assert twin.resources is not a.resources
