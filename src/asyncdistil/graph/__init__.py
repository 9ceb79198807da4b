"""The graph room: nodes, edges, routing and validation as pure data, and the plan of a run."""

from asyncdistil.graph.columns import Columns, check_columns, columns_into, columns_out
from asyncdistil.graph.graph import Graph
from asyncdistil.graph.nodes import NodeInfo
from asyncdistil.graph.plan import (
    EdgePlan,
    OnError,
    Reuse,
    RouterPlan,
    RunPlan,
    StepKind,
    StepPlan,
)
from asyncdistil.graph.routes import convergences
from asyncdistil.graph.stages import LoadGroups, stages
from asyncdistil.graph.validation import validate

__all__ = [
    "Columns",
    "EdgePlan",
    "Graph",
    "LoadGroups",
    "NodeInfo",
    "OnError",
    "Reuse",
    "RouterPlan",
    "RunPlan",
    "StepKind",
    "StepPlan",
    "check_columns",
    "columns_into",
    "columns_out",
    "convergences",
    "stages",
    "validate",
]
