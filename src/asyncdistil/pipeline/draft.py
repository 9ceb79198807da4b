"""A pipeline as one run sees it: copies of its steps, the run's data and parameters, checked."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import count
from typing import TYPE_CHECKING, Any

from asyncdistil.batch import StepName
from asyncdistil.compat.hooks import stands_in
from asyncdistil.errors import GraphError, ParameterError
from asyncdistil.graph import Graph, NodeInfo, convergences, stages, validate
from asyncdistil.pipeline.copies import own_copy
from asyncdistil.pipeline.describe import describe
from asyncdistil.pipeline.options import RunOptions
from asyncdistil.pipeline.packages import check_requirements, required_by
from asyncdistil.steps.base import BaseStep
from asyncdistil.steps.generator import GeneratorStep
from asyncdistil.steps.registration import CURRENT_PIPELINE, snake_case
from asyncdistil.steps.routing import RoutingBatchFunction

if TYPE_CHECKING:
    from asyncdistil.pipeline.pipeline import Pipeline

_log = logging.getLogger("asyncdistil.pipeline")


@dataclass(slots=True)
class Draft:
    """Steps and wiring of one run, and what was found out about them.

    Attributes:
        steps: Copies that belong to this run, in the order of declaration.
        routers: By the step whose output they route.
        graph: The wiring.
        nodes: Declarations, read after the parameters were set.
        converging: Per step, the source whose router it converges, or ``None``.
        stages: Load stage of each step, from 0.
    """

    steps: dict[StepName, BaseStep]
    routers: dict[StepName, RoutingBatchFunction]
    graph: Graph
    nodes: dict[StepName, NodeInfo] = field(default_factory=dict)
    converging: dict[StepName, StepName | None] = field(default_factory=dict)
    stages: dict[StepName, int] = field(default_factory=dict)


def draft(pipeline: Pipeline, options: RunOptions) -> Draft:
    """Copy the pipeline for a run, set its parameters and check that it can run.

    Nothing is written anywhere and the steps of the pipeline stay as they are.

    Raises:
        GraphError: The wiring or a declaration is wrong.
        ParameterError: A parameter is missing or of the wrong type, or ``dataset`` is given to a
            pipeline that has a generator.
        MissingRequirement: A package is missing.
    """
    made = Draft(
        {StepName(name): own_copy(step) for name, step in pipeline.steps.items()},
        {StepName(source): router for source, router in pipeline.routers.items()},
        pipeline.graph,
    )
    _check_names(made)
    if options.dataset is not None:
        _put_dataset_first(made, options)
    set_parameters(made.steps, options.parameters or {})
    if options.dry_rows:
        _shorten_generators(made, options.dry_rows)
    for step in made.steps.values():
        step.check_runtime_parameters()
    check_requirements(
        (*pipeline.requirements, *(r for s in made.steps.values() for r in required_by(type(s))))
    )
    made.nodes = {name: describe(step) for name, step in made.steps.items()}
    validate(made.graph, made.nodes)
    made.converging = convergences(made.graph, made.nodes)
    for number, names in enumerate(stages(made.graph, group_names(options.load_groups))):
        made.stages.update(dict.fromkeys(names, number))
    return made


def set_parameters(
    steps: Mapping[StepName, BaseStep], parameters: Mapping[str, Mapping[str, Any]]
) -> None:
    """Set runtime parameters on the steps themselves.

    Raises:
        ParameterError: There is no such step or parameter, or a value is of the wrong type.
    """
    for name, values in parameters.items():
        step = steps.get(StepName(name))
        if step is None:
            close = get_close_matches(name, steps, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"steps: {', '.join(steps)}"
            if not stands_in():
                raise ParameterError(f"there is no step {name!r} to set parameters of: {hint}")
            # Scripts written for distilabel rely on its warning.
            _log.warning(
                "there is no step %r to set parameters of, they are left out: %s", name, hint
            )
        elif not isinstance(values, Mapping):
            raise ParameterError(
                f"parameters of step {name!r} must be a dict of names and values, not a"
                f" {type(values).__name__}"
            )
        else:
            step.set_runtime_parameters(values, path=name)


def group_names(load_groups: Any) -> Any:
    """Return load groups with names in place of step objects."""
    if load_groups is None or isinstance(load_groups, str):
        return load_groups
    return [
        group
        if isinstance(group, str) or not hasattr(group, "__iter__")
        else [member.name if isinstance(member, BaseStep) else member for member in group]
        for group in load_groups
    ]


def _check_names(made: Draft) -> None:
    for name, step in made.steps.items():
        if step.name != name:
            raise GraphError(
                f"step {name!r} was renamed to {step.name!r} after it was added to the pipeline:"
                " its connections are by name, give it its name when you create it"
            )


def _put_dataset_first(made: Draft, options: RunOptions) -> None:
    """Add a loader of the run's data before every first step."""
    from asyncdistil.steps import make_generator_step

    roots = made.graph.roots
    for root in roots:
        if isinstance(made.steps[root], GeneratorStep):
            raise ParameterError(
                f"run(dataset=...) brings the rows, but {root!r} is a generator and brings rows"
                f" too: leave out `dataset`, or remove {root!r} from the pipeline"
            )
    # The run may be started inside the `with` block: the loader is none of its steps.
    token = CURRENT_PIPELINE.set(None)
    try:
        loader = make_generator_step(options.dataset, batch_size=options.dataset_batch_size)
    finally:
        CURRENT_PIPELINE.reset(token)
    stem = snake_case(type(loader).__name__)
    name = next(n for i in count() if (n := StepName(f"{stem}_{i}")) not in made.steps)
    loader.__dict__["name"] = name
    made.steps = {name: loader, **made.steps}
    made.graph = made.graph.copy()
    made.graph.add(name)
    for root in roots:
        made.graph.connect(name, root)


def _shorten_generators(made: Draft, rows: int) -> None:
    for step in made.steps.values():
        if isinstance(step, GeneratorStep):
            step.batch_size = rows
