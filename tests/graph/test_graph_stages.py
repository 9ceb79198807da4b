from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdistil.errors import GraphError
from asyncdistil.graph import Graph, stages


def chain(*names: str) -> Graph:
    graph = Graph()
    for name in names:
        graph.add(name)
    for source, target in itertools.pairwise(names):
        graph.connect(source, target)
    return graph


def test_without_groups_everything_is_one_stage() -> None:
    assert stages(chain("a", "b", "c"), None) == (("a", "b", "c"),)
    assert stages(chain("a", "b", "c"), []) == (("a", "b", "c"),)


def test_sequential_execution_is_a_stage_per_step() -> None:
    assert stages(chain("a", "b"), "sequential_step_execution") == (("a",), ("b",))


def test_a_group_stands_alone_between_what_comes_before_and_after() -> None:
    graph = chain("load", "a", "b", "c")
    assert stages(graph, [["a", "b"]]) == (("load",), ("a", "b"), ("c",))


def test_a_step_beside_a_group_joins_the_stage_before_it() -> None:
    graph = chain("load", "a", "b")
    graph.add("side")
    graph.connect("load", "side")
    assert stages(graph, [["a"]]) == (("load", "side"), ("a",), ("b",))


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([["a", "c"]], "'b' lies between steps of the load group"),
        ([["a"], ["a"]], "'a' is named twice"),
        ([["x"]], "no step named 'x'"),
        ([[]], "at least one step"),
        (["a"], "must be a list"),
        ("one_by_one", "sequential_step_execution"),
    ],
)
def test_a_group_that_cannot_be_loaded_is_refused(groups: object, words: str) -> None:
    with pytest.raises(GraphError, match=words):
        stages(chain("load", "a", "b", "c"), groups)  # type: ignore[arg-type]


def test_groups_that_wait_for_one_another_are_refused() -> None:
    graph = Graph()
    for name in ("a", "b", "c", "d"):
        graph.add(name)
    graph.connect("a", "b")
    graph.connect("c", "d")
    with pytest.raises(GraphError, match="wait for one another"):
        stages(graph, [["a", "d"], ["b", "c"]])


@given(st.integers(1, 8), st.data())
def test_rows_never_flow_back_into_an_earlier_stage(count: int, data: st.DataObject) -> None:
    graph = chain(*(f"s{index}" for index in range(count)))
    cuts = sorted(data.draw(st.sets(st.integers(0, count), max_size=4)))
    groups = [
        [f"s{index}" for index in range(start, stop)] for start, stop in itertools.pairwise(cuts)
    ]
    cut = stages(graph, data.draw(st.permutations(groups)))
    stage_of = {name: number for number, names in enumerate(cut) for name in names}
    assert sorted(stage_of) == sorted(graph.names)
    assert all(stage_of[source] <= stage_of[target] for source, target in graph.edges)
    assert {frozenset(group) for group in groups} <= {frozenset(names) for names in cut}
