from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdistil.errors import GraphError
from asyncdistil.graph import Graph


def graph_of(*edges: tuple[str, str], names: str = "") -> Graph:
    graph = Graph()
    for name in names.split():
        graph.add(name)
    for source, target in edges:
        for name in (source, target):
            if name not in graph:
                graph.add(name)
        graph.connect(source, target)
    return graph


@st.composite
def wirings(draw: st.DrawFn) -> Graph:
    """Any acyclic graph, declared in an order that has nothing to do with its edges."""
    count = draw(st.integers(1, 9))
    graph = Graph()
    for index in draw(st.permutations(range(count))):
        graph.add(f"s{index}")
    pairs = [(a, b) for a in range(count) for b in range(a + 1, count)]
    for a, b in draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []:
        graph.connect(f"s{a}", f"s{b}")
    return graph


@given(wirings())
def test_order_puts_every_step_after_those_it_reads(graph: Graph) -> None:
    position = {name: index for index, name in enumerate(graph.order())}
    assert sorted(position) == sorted(graph.names)
    assert all(position[source] < position[target] for source, target in graph.edges)


def test_order_follows_the_declaration_where_edges_leave_a_choice() -> None:
    graph = graph_of(("load", "b"), ("load", "a"), names="load c b a")
    assert graph.order() == ("load", "c", "b", "a")


@given(wirings(), st.data())
def test_any_edge_back_to_an_ancestor_is_refused_and_changes_nothing(
    graph: Graph, data: st.DataObject
) -> None:
    backward = [(name, above) for name in graph.names for above in graph.ancestors(name)]
    if not backward:
        return
    source, target = data.draw(st.sampled_from(backward))
    before = graph.edges
    with pytest.raises(GraphError, match="close the cycle"):
        graph.connect(source, target)
    assert graph.edges == before


def test_a_cycle_is_shown_step_by_step() -> None:
    graph = graph_of(("a", "b"), ("b", "c"))
    with pytest.raises(GraphError, match="a >> b >> c >> a"):
        graph.connect("c", "a")


def test_a_step_cannot_read_itself() -> None:
    graph = graph_of(names="a")
    with pytest.raises(GraphError, match="'a' cannot read its own output"):
        graph.connect("a", "a")


def test_the_same_edge_twice_is_refused() -> None:
    graph = graph_of(("a", "b"))
    with pytest.raises(GraphError, match="'a' is already connected to 'b'"):
        graph.connect("a", "b")


def test_the_same_name_twice_is_refused() -> None:
    graph = graph_of(names="a")
    with pytest.raises(GraphError, match="'a' is already in this pipeline"):
        graph.add("a")


def test_an_unknown_step_is_answered_with_the_closest_name() -> None:
    graph = graph_of(names="text_generation_0 load")
    with pytest.raises(GraphError, match="did you mean 'text_generation_0'"):
        graph.connect("load", "text_generation")


def test_ports_are_numbered_in_the_order_of_the_edges_not_of_the_steps() -> None:
    graph = graph_of(("b", "join"), ("a", "join"), names="a b join")
    assert graph.predecessors("join") == ("b", "a")


def test_leaves_include_a_generator_that_nobody_reads() -> None:
    graph = graph_of(("load", "a"), names="load a other")
    assert graph.leaves == ("a", "other")
    assert graph.roots == ("load", "other")


def test_a_second_router_of_one_step_is_refused() -> None:
    graph = graph_of(("load", "a"), ("load", "b"))
    graph.route("load", ["a", "b"])
    with pytest.raises(GraphError, match="already has a routing function"):
        graph.route("load", ["a"])


@pytest.mark.parametrize(("targets", "words"), [([], "nothing to choose"), (["b"], "connect")])
def test_a_router_must_lead_somewhere_connected(targets: list[str], words: str) -> None:
    graph = graph_of(("load", "a"), ("a", "b"))
    with pytest.raises(GraphError, match=words):
        graph.route("load", targets)


def test_a_copy_grows_alone() -> None:
    graph = graph_of(("load", "a"))
    twin = graph.copy()
    twin.add("b")
    twin.connect("a", "b")
    twin.route("a", ["b"])
    assert graph.names == ("load", "a")
    assert graph.edges == (("load", "a"),)
    assert not graph.routed
