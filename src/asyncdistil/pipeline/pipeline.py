"""`Pipeline`: where steps are declared, and how they are run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, Unpack

from xxhash import xxh3_64_hexdigest

from asyncdistil.batch import StepName
from asyncdistil.compat.hooks import stands_in
from asyncdistil.errors import GraphError, ParameterError
from asyncdistil.graph import Graph
from asyncdistil.graph import stages as cut_into_stages
from asyncdistil.graph.drawing import Box, Link, draw_svg
from asyncdistil.pipeline.after import AfterRuns
from asyncdistil.pipeline.draft import group_names, set_parameters
from asyncdistil.pipeline.files import InFiles
from asyncdistil.pipeline.limits import limits_named
from asyncdistil.pipeline.options import Budget, LoadGroups, OnCorruption, RunOptions, SyncMode
from asyncdistil.pipeline.packages import all_parsed
from asyncdistil.steps.base import BaseStep
from asyncdistil.steps.registration import CURRENT_PIPELINE
from asyncdistil.steps.routing import RoutingBatchFunction

if TYPE_CHECKING:
    from contextvars import Token

    from asyncdistil.distiset import Distiset
    from asyncdistil.pipeline.explain import Explanation
    from asyncdistil.pipeline.forecast import Forecast
    from asyncdistil.pipeline.stream import Stream
    from asyncdistil.steps.registration import PipelineLike

CACHE_DIR_VARIABLE = "ASYNCDISTIL_CACHE_DIR"
DRY_RUN_SUFFIX = " (dry run)"
"""Ends the name under which dry runs are logged; no pipeline may be called so."""
_LONGEST_AUTOMATIC_NAME = 100


class FurtherOptions(TypedDict, total=False):
    """Arguments of a run that are given by name; `RunOptions` says what each means."""

    storage_parameters: Mapping[str, Any] | None
    use_fs_to_pass_data: bool
    dataset: Any
    dataset_batch_size: int
    logging_handlers: Sequence[Any] | None
    retry_failed: bool
    on_error: Literal["raise"] | None
    on_corruption: OnCorruption
    sync_mode: SyncMode
    max_failures: int | None
    budget: Budget | float | None
    wait_seconds: float


class Pipeline(InFiles, AfterRuns):
    """Steps, the connections between them, and where their results are kept.

    Steps that are created inside ``with Pipeline():`` belong to it.

    Args:
        name: What its results are kept under; without one, made of the names of its steps when
            the ``with`` block ends.
        description: For people.
        cache_dir: Where results are kept. Without one ``ASYNCDISTIL_CACHE_DIR``, else
            ``~/.cache/asyncdistil``.
        enable_metadata: Whether the dataset has the column of metadata that tasks write.
        requirements: Packages that must be installed, as for pip: ``["nltk>=3.8"]``.

    Raises:
        ParameterError: The name is not allowed, or a requirement cannot be read.
    """

    def __init__(
        self,
        name: str | None = None,
        description: str | None = None,
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        enable_metadata: bool = True,
        requirements: Sequence[str] | None = None,
    ) -> None:
        self._name = _checked_name(name) if name is not None else None
        self.description = description
        self.enable_metadata = enable_metadata
        self.requirements = all_parsed(requirements or ())
        # Fixed now: the working directory may change until the run.
        self._cache_dir = Path(cache_dir).expanduser().absolute() if cache_dir else None
        self._graph = Graph()
        self._steps: dict[StepName, BaseStep] = {}
        self._routers: dict[StepName, RoutingBatchFunction] = {}
        self._entered: list[Token[PipelineLike | None]] = []

    # --- declaration --------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._entered.append(CURRENT_PIPELINE.set(self))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        CURRENT_PIPELINE.reset(self._entered.pop())
        if self._name is None and error is None:
            self._name = _automatic_name(self._steps)

    def has_step(self, name: str) -> bool:
        """Whether a step of this name was added."""
        return name in self._steps

    def add_step(self, step: BaseStep) -> None:
        """Take a step in; steps do this themselves when they are created.

        Raises:
            GraphError: The name is taken.
        """
        self._steps[self._graph.add(step.name)] = step

    def connect(self, source: str, target: str) -> None:
        """Add an edge between two steps, by name; usually written ``a >> b``.

        Raises:
            GraphError: The edge exists, closes a cycle or names an unknown step.
        """
        self._graph.connect(source, target)

    def add_router(self, source: str, router: RoutingBatchFunction, targets: Sequence[str]) -> None:
        """Put a router between a step and some of its successors, which are connected already.

        Raises:
            GraphError: The step has another router.
        """
        self._graph.route(source, targets)
        self._routers[StepName(source)] = router

    # --- what it is ---------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """What its results are kept under."""
        return self._name if self._name is not None else _automatic_name(self._steps)

    @property
    def cache_dir(self) -> Path:
        """Where results are kept."""
        if self._cache_dir is not None:
            return self._cache_dir
        named = os.environ.get(CACHE_DIR_VARIABLE)
        return (Path(named) if named else Path("~/.cache/asyncdistil")).expanduser().absolute()

    @property
    def graph(self) -> Graph:
        """A copy of the wiring."""
        return self._graph.copy()

    @property
    def steps(self) -> Mapping[StepName, BaseStep]:
        """Steps by name, in the order of declaration."""
        return MappingProxyType(self._steps)

    @property
    def routers(self) -> Mapping[StepName, RoutingBatchFunction]:
        """Routers by the step whose rows they route."""
        return MappingProxyType(self._routers)

    @property
    def signature(self) -> str:
        """32 hex digits that name steps and connections; equal for equally wired pipelines."""
        from asyncdistil.pipeline.planning import wiring_signature

        return wiring_signature(self._graph, self._routers)

    @property
    def aggregated_steps_signature(self) -> str:
        """32 hex digits that name everything that can change an output, parameters included."""
        from asyncdistil.pipeline.planning import content_signature

        return content_signature(self._steps, self._routers)

    def __getitem__(self, name: str) -> BaseStep:
        try:
            return self._steps[self._graph.resolve(name)]
        except GraphError as error:
            raise KeyError(str(error)) from None

    def __contains__(self, name: object) -> bool:
        return name in self._steps

    def __iter__(self) -> Iterator[str]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)

    def __repr__(self) -> str:
        return f"Pipeline({self.name!r}, {len(self)} steps)"

    def get_load_stages(
        self, load_groups: LoadGroups | None = None
    ) -> tuple[list[list[str]], list[list[str]]]:
        """Return the steps of each load stage, and those of them that end it.

        Args:
            load_groups: As for `run`.

        Raises:
            GraphError: The groups cannot be loaded so.
        """
        return _load_stages(self._graph, load_groups)

    def get_runtime_parameters_info(self) -> dict[str, list[dict[str, Any]]]:
        """Describe the runtime parameters of every step: name, whether optional, description."""
        return {name: step.get_runtime_parameters_info() for name, step in self._steps.items()}

    def set_runtime_parameters(self, parameters: Mapping[str, Mapping[str, Any]]) -> None:
        """Set runtime parameters of the steps; they stay set. `run` does it too.

        Unknown names are logged with the nearest known one and left out.

        Raises:
            ParameterError: A value is of the wrong type.
        """
        set_parameters(self._steps, parameters)

    def draw(self, path: str | os.PathLike[str] = "pipeline.svg", **_look: bool) -> Path:
        """Write the graph as SVG; notebooks show it anyway. Words for its look change nothing."""
        return _written(self._repr_html_(), Path(path))

    def _repr_html_(self) -> str:
        return _picture(self._graph, self._steps)

    # --- runs ---------------------------------------------------------------------------------

    @limits_named()
    def run(
        self,
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
        load_groups: LoadGroups | None = None,
        use_cache: bool = True,
        **options: Unpack[FurtherOptions],
    ) -> Distiset:
        """Run the pipeline and return its dataset; also under a running loop, as in a notebook.

        Args:
            parameters: Runtime parameters by step, nested; they stay set on the steps.
            load_groups: Steps to be loaded together and alone, as a list of lists, or
                ``"sequential_step_execution"``.
            use_cache: Whether rows of earlier runs may be reused.
            options: ``dataset``, ``retry_failed``, ``on_error``, ``budget`` and the other fields
                of `RunOptions`, by name.

        Raises:
            UserError: The pipeline, its parameters or its data must change before it can run;
                nothing was started.
            RunStopped: The run ended early; running again goes on from where it was.
            LogError: The log cannot keep its promise.
        """
        from asyncdistil.pipeline import run as runs

        given = _options(self, parameters, load_groups=load_groups, use_cache=use_cache, **options)
        return runs.run(self, given)

    async def arun(
        self,
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
        load_groups: LoadGroups | None = None,
        use_cache: bool = True,
        **options: Unpack[FurtherOptions],
    ) -> Distiset:
        """Run the pipeline in the caller's loop. Cancelling it leaves a resumable state.

        Arguments and errors are those of `run`.
        """
        given = _options(self, parameters, load_groups=load_groups, use_cache=use_cache, **options)
        with limits_named():
            from asyncdistil.pipeline import run as runs

            return await runs.arun(self, given)

    @limits_named()
    def astream(
        self,
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
        load_groups: LoadGroups | None = None,
        use_cache: bool = True,
        **options: Unpack[FurtherOptions],
    ) -> Stream:
        """Run the pipeline and give its rows while it runs: durable ones, in source order.

        Arguments and errors are those of `run`.

        Returns:
            An asynchronous iterator with ``aclose()``; leaving it stops the run, resumable.
        """
        from asyncdistil.pipeline.stream import Stream

        given = _options(self, parameters, load_groups=load_groups, use_cache=use_cache, **options)
        return Stream(self, given)

    def plan(
        self,
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
        load_groups: LoadGroups | None = None,
        use_cache: bool = True,
        **options: Unpack[FurtherOptions],
    ) -> Forecast:
        """Say what a run would replay, compute and call, and why; loads no model, writes nothing.

        Arguments are those of `run`; the steps stay as they are.

        Raises:
            UserError: As for `run`.
            LogError: What is stored can't be read.
        """
        from asyncdistil.pipeline.forecast import forecast

        given = _options(self, None, load_groups=load_groups, use_cache=use_cache, **options)
        return forecast(self, replace(given, parameters=parameters))

    def explain(
        self, step: str, *, parameters: Mapping[str, Mapping[str, Any]] | None = None
    ) -> Explanation:
        """Say which component of a step's key differs from the nearest stored one.

        ``explain(step).why(row)`` says where a stored row came from.

        Args:
            step: Its name.
            parameters: As for `run`; the steps stay as they are.

        Raises:
            UserError: As for `run`; or there is no such step.
            LogError: What is stored can't be read.
        """
        from asyncdistil.pipeline.explain import explain

        return explain(self, step, RunOptions(parameters=parameters))

    def dry_run(
        self,
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
        batch_size: int = 1,
        dataset: Any = None,
    ) -> Distiset:
        """Run the pipeline on a few rows of each generator, logged under a name of its own.

        Answers are paid for and kept for the real run; ``parameters`` count for this run only.

        Args:
            parameters: As for `run`.
            batch_size: Rows taken from each generator, at least 1.
            dataset: As for `run`.

        Raises:
            UserError: As for `run`.
        """
        from asyncdistil.pipeline import run as runs

        if batch_size < 1:
            raise ParameterError(f"batch_size={batch_size} of a dry run lets no row in: give 1")
        return runs.run(
            self, RunOptions(parameters=parameters, dataset=dataset, dry_rows=batch_size)
        )


def _checked_name(name: str) -> str:
    good = isinstance(name, str) and name.strip() and name.isprintable()
    if not good or name.endswith(DRY_RUN_SUFFIX):
        raise ParameterError(
            f"a pipeline cannot be called {name!r}: give it a name of printable characters that"
            f" does not end in {DRY_RUN_SUFFIX!r}"
        )
    return name


def _options(
    pipeline: Pipeline, parameters: Mapping[str, Mapping[str, Any]] | None, **given: Any
) -> RunOptions:
    """Check the arguments of a run, then let its parameters stay on the steps."""
    if isinstance(given.get("budget"), int | float):
        given["budget"] = Budget(dollars=given["budget"])
    unknown = set(given) - set(RunOptions.__slots__)
    if unknown:
        name = min(unknown)
        close = get_close_matches(name, RunOptions.__slots__, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "RunOptions lists what it takes"
        raise TypeError(f"a run takes no argument {name!r}: {hint}")
    options = RunOptions(parameters=parameters, **given)
    if parameters:
        pipeline.set_runtime_parameters(parameters)
    return replace(options, parameters=None)


def _picture(graph: Graph, steps: Mapping[StepName, BaseStep]) -> str:
    boxes = [Box(name, f"{steps[name].kind()} step") for name in graph.order()]
    return draw_svg(boxes, [Link(a, b, graph.is_routed(a, b)) for a, b in graph.edges])


def _written(picture: str, file: Path) -> Path:
    if stands_in():
        file = file.with_suffix(".svg")  # distilabel asks a service for other kinds
    if file.suffix.lower() != ".svg":
        raise ParameterError(
            f"a pipeline is drawn as SVG, not as {file.suffix or 'a file without a suffix'}: call "
            f"draw({str(file.with_suffix('.svg'))!r}), which browsers show"
        )
    file.write_text(picture, encoding="utf-8")
    return file


def _load_stages(
    graph: Graph, load_groups: LoadGroups | None
) -> tuple[list[list[str]], list[list[str]]]:
    cut = cut_into_stages(graph, group_names(load_groups))
    steps: list[list[str]] = [list(names) for names in cut]
    last: list[list[str]] = [
        [name for name in names if not set(graph.successors(name)) & set(names)] for names in cut
    ]
    return steps, last


def _automatic_name(steps: Iterable[str]) -> str:
    joined = "pipeline_" + "_".join(steps)
    if len(joined) <= _LONGEST_AUTOMATIC_NAME:
        return joined
    digest = xxh3_64_hexdigest(joined.encode())
    return f"{joined[: _LONGEST_AUTOMATIC_NAME - len(digest) - 1]}_{digest}"
