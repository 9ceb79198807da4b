from __future__ import annotations

import pytest

from asyncdistil.batch import StepName
from asyncdistil.errors import GraphError
from asyncdistil.graph import Graph, NodeInfo, columns_out, convergences, validate


def generator(name: str = "load", outputs: tuple[str, ...] = ("text",), **rest: object) -> NodeInfo:
    return NodeInfo(name=StepName(name), kind="generator", outputs=outputs, **rest)  # type: ignore[arg-type]


def step(
    name: str, required: tuple[str, ...] = (), outputs: tuple[str, ...] = (), **rest: object
) -> NodeInfo:
    node = {"kind": "batch", "required": required, "outputs": outputs, **rest}
    return NodeInfo(name=StepName(name), **node)  # type: ignore[arg-type]


def wired(*nodes: NodeInfo, edges: str = "", routed: str = "") -> tuple[Graph, dict]:
    """A graph from ``"a>b b>c"``; ``routed`` names sources whose every successor is routed."""
    graph = Graph()
    for node in nodes:
        graph.add(node.name)
    for edge in edges.split():
        graph.connect(*edge.split(">"))
    for source in routed.split():
        graph.route(source, graph.successors(source))
    return graph, {node.name: node for node in nodes}


def test_a_pipeline_without_steps_is_refused() -> None:
    with pytest.raises(GraphError, match="has no steps"):
        validate(Graph(), {})


def test_a_generator_alone_and_one_beside_others_are_ordinary_leaves() -> None:
    validate(*wired(generator()))
    validate(*wired(generator(), step("a"), generator("other"), edges="load>a"))


def test_the_first_step_must_be_a_generator() -> None:
    with pytest.raises(GraphError, match=r"'a' has no predecessor.*run\(dataset"):
        validate(*wired(generator(), step("a")))


def test_a_generator_after_another_step_is_refused() -> None:
    with pytest.raises(GraphError, match="generator 'b' comes after 'load'"):
        validate(*wired(generator(), generator("b"), edges="load>b"))


def test_a_join_into_a_step_of_one_list_is_refused() -> None:
    nodes = generator(), step("a"), step("b"), step("join")
    edges = "load>a load>b a>join b>join"
    with pytest.raises(GraphError, match=r"'join' reads 'a', 'b'.*\*inputs: StepInput"):
        validate(*wired(*nodes, edges=edges))
    validate(*wired(*nodes[:3], step("join", accepts_many=True), edges=edges))


def test_a_missing_column_names_step_column_and_the_mapping_that_was_meant() -> None:
    nodes = generator(outputs=("prompt", "instructions")), step("a", ("instruction",))
    with pytest.raises(GraphError, match=r"'a' needs column 'instruction'.*\"instructions\""):
        validate(*wired(*nodes, edges="load>a"))


def test_a_column_that_was_dropped_on_the_way_is_missing_and_the_dropper_is_named() -> None:
    keep = step("keep", ("text",), ("text",), drops_rest=True)
    nodes = generator(outputs=("text", "id")), keep, step("a", ("id",))
    with pytest.raises(GraphError, match=r"'a' needs column 'id', which step 'keep' drops"):
        validate(*wired(*nodes, edges="load>keep keep>a"))
    merge = step("keep", ("text",), ("merged",), drops=("text",))
    with pytest.raises(GraphError, match="which step 'keep' drops"):
        validate(*wired(generator(), merge, step("a", ("text",)), edges="load>keep keep>a"))


def test_a_column_dropped_on_one_branch_reaches_a_join_by_the_other() -> None:
    keep = step("keep", ("text",), ("text",), drops_rest=True)
    nodes = (
        generator(outputs=("text", "id")),
        keep,
        step("b"),
        step("j", ("id",), accepts_many=True),
    )
    validate(*wired(*nodes, edges="load>keep load>b keep>j b>j"))


def test_a_column_of_a_sibling_branch_does_not_count() -> None:
    nodes = generator(), step("a", outputs=("score",)), step("b", ("score",))
    with pytest.raises(GraphError, match="'b' needs column 'score'"):
        validate(*wired(*nodes, edges="load>a load>b"))


def test_optional_columns_may_be_missing() -> None:
    validate(*wired(generator(), step("a", optional=("system_prompt",)), edges="load>a"))


def test_columns_are_checked_under_their_mapped_names() -> None:
    first = step("a", ("instruction",), ("generation",), input_mappings={"instruction": "text"},
                 output_mappings={"generation": "answer"})  # fmt: skip
    validate(*wired(generator(), first, step("b", ("answer", "text")), edges="load>a a>b"))
    with pytest.raises(GraphError, match="'b' needs column 'generation'"):
        validate(*wired(generator(), first, step("b", ("generation",)), edges="load>a a>b"))


def test_rows_whose_columns_are_known_only_later_are_not_refused() -> None:
    nodes = generator(outputs=(), open_columns=True), step("a", ("text",))
    validate(*wired(*nodes, edges="load>a"))


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (step("a", ("text",), input_mappings={"txet": "text"}), "'txet' in input_mappings.*'text'"),
        (step("a", ("q",), input_mappings={"text": "q"}), r"direction is step column to row"),
        (step("a", (), ("out",), output_mappings={"uot": "x"}), "'uot' in output_mappings"),
        (step("a", (), ("x", "y"), output_mappings={"x": "y"}), "two outputs into column 'y'"),
        (step("a", input_batch_size=0), "input_batch_size=0"),
    ],
)
def test_a_declaration_that_cannot_work_is_refused(node: NodeInfo, words: str) -> None:
    with pytest.raises(GraphError, match=f"step 'a'.*{words}"):
        validate(*wired(generator(), node, edges="load>a"))


def test_a_routed_step_has_one_predecessor() -> None:
    nodes = generator(), step("a"), step("b", accepts_many=True)
    with pytest.raises(GraphError, match=r"'b' gets routed rows from 'load' and also reads 'a'"):
        validate(*wired(*nodes, edges="load>a load>b a>b", routed="load"))


def test_branches_converge_however_long_they_are() -> None:
    nodes = generator(), step("a"), step("a2"), step("b"), step("end"), step("after")
    edges = "load>a load>b a>a2 a2>end b>end end>after"
    graph, declared = wired(*nodes, edges=edges, routed="load")
    validate(graph, declared)
    assert convergences(graph, declared) == dict.fromkeys(graph.names) | {"end": "load"}


def test_a_join_inside_one_branch_converges_nothing() -> None:
    nodes = generator(), step("a"), step("b"), step("x"), step("y"), step("j", accepts_many=True)
    edges = "load>a load>b a>x a>y x>j y>j"
    graph, declared = wired(*nodes, edges=edges, routed="load")
    validate(graph, declared)
    assert convergences(graph, declared)["j"] is None


def test_routers_inside_routers_converge_from_the_inside_out() -> None:
    nodes = (generator(), step("a"), step("b"), step("x"), step("y"), step("inner"), step("outer"))
    edges = "load>a load>b a>x a>y x>inner y>inner inner>outer b>outer"
    graph, declared = wired(*nodes, edges=edges, routed="load a")
    found = convergences(graph, declared)
    assert (found["inner"], found["outer"]) == ("a", "load")


def test_a_join_of_routed_with_unrouted_rows_is_refused_unless_it_is_inner() -> None:
    nodes = generator(), step("a"), step("b"), step("s")
    edges = "load>a load>b load>s a>j s>j"

    def joined(*, inner: bool) -> tuple[Graph, dict]:
        join = step("j", accepts_many=True, inner_join=inner)
        graph, declared = wired(*nodes, join, edges=edges)
        graph.route("load", ["a", "b"])
        return graph, declared

    with pytest.raises(GraphError, match=r"'j' joins rows that 'load' routed to 'a'.*inner"):
        validate(*joined(inner=False))
    validate(*joined(inner=True))


def test_a_routed_leaf_and_a_router_that_never_converges_are_fine() -> None:
    validate(*wired(generator(), step("a"), step("b"), edges="load>a load>b", routed="load"))


def test_columns_out_names_the_step_that_wrote_each_column_last() -> None:
    nodes = generator(), step("a", ("text",), ("text", "n"))
    found = columns_out(*wired(*nodes, edges="load>a"))
    assert found["a"].present == {"text": "a", "n": "a"}
