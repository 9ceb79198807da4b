"""What every step has: parameters, a name, a pipeline, columns, an identity."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeVar, overload
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel as PydanticModel
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretBytes,
    SecretStr,
)

from asyncdistil.batch import Row
from asyncdistil.errors import GraphError, ParameterError
from asyncdistil.graph.plan import OnError, StepKind
from asyncdistil.mixins import HasRuntimeParameters
from asyncdistil.mixins.runtime_parameters import call_to_write
from asyncdistil.redaction import secret_values
from asyncdistil.steps.artifacts import save_artifact
from asyncdistil.steps.mapping import ColumnMapping
from asyncdistil.steps.registration import CURRENT_PIPELINE, free_name
from asyncdistil.steps.resources import StepResources
from asyncdistil.steps.routing import RoutingBatchFunction
from asyncdistil.steps.rows import FailedRow, describe_failure
from asyncdistil.steps.wiring import Routed, connect, sources
from asyncdistil.typing import StepColumns

if TYPE_CHECKING:
    from asyncdistil.signature import CodeFingerprint, Identity

_T = TypeVar("_T", bound="BaseStep | list[Any]")
_NAME_PATTERN = r"^[a-zA-Z0-9_-]*$"


def _no_name(value: Any) -> Any:
    return "" if value is None else value


class BaseStep(HasRuntimeParameters):
    """What `Step`, `GeneratorStep` and `GlobalStep` share.

    Attributes:
        name: Unique in the pipeline; letters, digits, ``_`` and ``-``. Without one, the class
            name in snake case and a number.
        resources: Replicas, and what each of them may use.
        input_mappings: Step column to row column.
        output_mappings: Step column to new name.
        use_cache: Whether rows of earlier runs may be reused; if not, the step and everything
            below it runs every time.
        on_error: What readers of this step do with rows that failed in it: ``null`` reads their
            null form, ``skip`` leaves them out, ``raise`` stops the run.
        max_failures: Failed rows after which the run stops, resumable; ``None`` for no limit.
        batch_deadline_seconds: A worker silent for longer on one batch is killed and the batch
            tried again; ``None`` waits for ever.
        pipeline: The pipeline that the step belongs to, or ``None``.
        version: Of a library step: raised with every change that can change its rows.
        effects: Whether the step acts on the outside world: it waits until its input is durable.
        signature_ignore: Fields and variables that can't change the rows.
        drops_rest: Whether only the outputs survive of a row, as in a projection.
    """

    model_config = ConfigDict(
        extra="forbid",
        defer_build=True,
        validate_assignment=True,
        validate_default=True,
        arbitrary_types_allowed=True,
        protected_namespaces=(),
    )

    version: ClassVar[int | None] = None
    effects: ClassVar[bool] = False
    signature_ignore: ClassVar[set[str]] = set()
    drops_rest: ClassVar[bool] = False

    name: Annotated[str, BeforeValidator(_no_name)] = Field(default="", pattern=_NAME_PATTERN)
    resources: StepResources = Field(default_factory=StepResources)
    input_mappings: dict[str, str] = Field(default_factory=dict)
    output_mappings: dict[str, str] = Field(default_factory=dict)
    use_cache: bool = True
    on_error: OnError = "null"
    max_failures: Annotated[int, Field(ge=0)] | None = None
    batch_deadline_seconds: Annotated[float, Field(gt=0)] | None = None
    pipeline: Any = Field(default=None, exclude=True, repr=False)

    _logger: logging.Logger = PrivateAttr(default=logging.getLogger("asyncdistil.steps"))
    _noun: ClassVar[str] = "step"
    _mapping: ColumnMapping | None = PrivateAttr(default=None)
    _artifacts: Path | None = PrivateAttr(default=None)

    def __init__(self, **data: Any) -> None:
        super().__init__(**data)
        # Last, so that a pipeline never holds a step whose validators refused it; and here
        # rather than in `model_post_init`, which subclasses override without calling us.
        self._take_name()
        pipeline = self.pipeline
        if pipeline is not None:
            if pipeline.has_step(self.name):
                raise GraphError(
                    f"the pipeline has a step named {self.name!r} already: give this one another "
                    f"name"
                )
            pipeline.add_step(self)

    def model_post_init(self, context: Any, /) -> None:
        """Find pipeline and name; a subclass that overrides this may call it to have them."""
        super().model_post_init(context)
        self._take_name()

    def _take_name(self) -> None:
        if self._logger.name.startswith("asyncdistil.step."):
            return
        # Straight into the fields: assigning would run the validators of a model half made.
        fields = self.__dict__
        if fields["pipeline"] is None:
            fields["pipeline"] = CURRENT_PIPELINE.get()
        pipeline = fields["pipeline"]
        if not fields["name"]:
            fields["name"] = free_name(type(self).__name__, pipeline)
        self._logger = logging.getLogger(f"asyncdistil.step.{fields['name']}")

    def load(self) -> None:
        """Make ready to work, in the process that works: open clients, load weights."""

    def unload(self) -> None:
        """Let go of what `load` took."""

    def kind(self) -> StepKind:
        """How the runtime treats the step."""
        raise NotImplementedError

    def data_identity(self) -> bytes | None:
        """Name the data that a generator reads; ``None`` runs it every time."""
        return None

    @property
    def inputs(self) -> StepColumns:
        """Columns that the step reads, in its own names."""
        return []

    @property
    def outputs(self) -> StepColumns:
        """Columns that the step adds or replaces, in its own names."""
        return []

    @property
    def open_columns(self) -> bool:
        """Whether rows may hold columns that ``outputs`` can't know before the step runs."""
        return False

    @property
    def dropped_columns(self) -> tuple[str, ...]:
        """Columns of the row that don't survive the step, in its own names."""
        return ()

    def get_inputs(self) -> dict[str, bool]:
        """Columns that the step reads, in the pipeline's names, and whether they must be there."""
        return {
            self.input_mappings.get(column, column): required
            for column, required in _as_dict(self.inputs).items()
        }

    def get_outputs(self) -> dict[str, bool]:
        """Columns that the step writes, in the pipeline's names, and whether it always does."""
        return {
            self.output_mappings.get(column, self.input_mappings.get(column, column)): always
            for column, always in _as_dict(self.outputs).items()
        }

    def check_mappings(self) -> None:
        """Check that the mappings name columns of the step.

        Raises:
            GraphError: They name a column that it does not declare.
        """
        for what, mapping, declared in (
            ("input", self.input_mappings, _as_dict(self.inputs)),
            ("output", self.output_mappings, _as_dict(self.outputs)),
        ):
            for column in mapping:
                if column not in declared:
                    raise GraphError(
                        f"{what}_mappings of step {self.name!r} name {column!r}, which is no "
                        f"{what} of it: its {what}s are {list(declared)}"
                    )

    def null_rows(self, row: Row) -> Row:
        """Return the null form of a failed row: the row, the declared outputs ``None``.

        Args:
            row: Input row, in the pipeline's column names.
        """
        return {**row, **dict.fromkeys(self.get_outputs())}

    def failed_row(
        self, row: Row, error: BaseException, *, attempts: int = 1, detail: str = ""
    ) -> FailedRow:
        """Return what ``entries`` or ``aprocess`` give for a row that failed.

        Args:
            row: Input row, in the step's column names.
            error: Why.
            attempts: Tries made, at least 1.
            detail: What to keep instead of the traceback, such as a raw reply.
        """
        null = {**row, **dict.fromkeys(_as_dict(self.outputs))}
        failure = describe_failure(error, attempts=attempts, secrets=self.secrets(), detail=detail)
        return FailedRow(null, failure)

    def mapping(self) -> ColumnMapping:
        """The renaming of columns into the step and out of it."""
        mapping = self._mapping
        if mapping is None or not mapping.made_from(self.input_mappings, self.output_mappings):
            reads = _as_dict(self.inputs) if self.output_mappings else ()
            mapping = ColumnMapping(self.input_mappings, self.output_mappings, [*reads])
            self._mapping = mapping
        return mapping

    def operational_fields(self) -> frozenset[str]:
        """Fields that can't change the rows, besides those that no step has in its key."""
        return frozenset()

    def extra_code(self) -> Mapping[str, Callable[..., Any]]:
        """Functions that the step runs and that hang on no field, by a name for each."""
        return {}

    def identity_extra(self) -> Mapping[str, Any]:
        """Whatever else can change the rows, such as the text of a prompt file, by name."""
        return {}

    def identity(self) -> "Identity":
        """Name the step by everything of its own that can change its rows.

        Its ``uncacheable`` says why the rows can't be reused later, if they can't.
        """
        from asyncdistil.steps.identity import identity_of

        return identity_of(self)

    def code(self) -> "CodeFingerprint | None":
        """Fingerprint all of the user's code that the step runs; ``None`` if there is none."""
        from asyncdistil.steps.identity import code_of

        return code_of(self)

    def secrets(self) -> list[str]:
        """Texts that must never be in a message or a file."""
        return list(_secrets_in(self))

    def check_runtime_parameters(self) -> None:
        """Check that every required runtime parameter has a value.

        Raises:
            ParameterError: One has none; shows the call to write.
        """
        if missing := self.missing_runtime_parameters():
            raise ParameterError(
                f"step {self.name!r} needs a value for {', '.join(missing)}: write "
                f"{call_to_write(self.name, missing)}"
            )

    @property
    def artifacts_directory(self) -> Path | None:
        """Where the artifacts of the step go; ``None`` outside of a pipeline run."""
        return self._artifacts / self.name if self._artifacts is not None else None

    def set_artifacts_path(self, path: Path) -> None:
        """Say where the artifacts of the pipeline go."""
        self._artifacts = path

    def save_artifact(
        self,
        name: str,
        write_function: Callable[[Path], None],
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Keep files that belong to the dataset: an index, a figure, a model.

        Args:
            name: Folder of the artifact; an older one of the name is replaced.
            write_function: Called with an empty folder, writes any files into it.
            metadata: JSON data to go with them.

        Raises:
            ParameterError: The name is not allowed.
        """
        if self.artifacts_directory is None:
            self._logger.warning("artifact %r is not kept: the step runs alone", name)
            return
        save_artifact(self.artifacts_directory, name, write_function, metadata)

    def connect(
        self,
        *steps: "BaseStep",
        routing_batch_function: RoutingBatchFunction | None = None,
    ) -> None:
        """Send the rows of this step to others.

        Args:
            steps: The next steps.
            routing_batch_function: Chooses, batch by batch, which of them get it; without one
                all do.

        Raises:
            GraphError: One of them is no step, they are not of one pipeline, or the edge can't be.
        """
        connect(self, steps, routing_batch_function)

    @overload
    def __rshift__(self, other: RoutingBatchFunction) -> Routed: ...
    @overload
    def __rshift__(self, other: _T) -> _T: ...
    def __rshift__(self, other: Any) -> Any:
        if isinstance(other, RoutingBatchFunction):
            return Routed(self, other)
        connect(self, other if isinstance(other, list) else [other])
        return other

    def __rrshift__(self, others: "Sequence[BaseStep]") -> Self:
        for other in sources(others):
            connect(other, [self])
        return self

    def __getstate__(self) -> dict[Any, Any]:
        # A worker gets the step, never the pipeline around it.
        state = super().__getstate__()
        return state | {"__dict__": state["__dict__"] | {"pipeline": None}}

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        pipeline = self.pipeline
        return super().__deepcopy__({**(memo or {}), id(pipeline): pipeline})


def _as_dict(columns: StepColumns) -> dict[str, bool]:
    return columns if isinstance(columns, dict) else dict.fromkeys(columns, True)


def _secrets_in(value: object) -> Iterator[str]:
    match value:
        case SecretStr():
            yield value.get_secret_value()
        case SecretBytes():
            yield value.get_secret_value().decode("utf-8", "replace")
        case PydanticModel():
            for name in type(value).model_fields:
                if name not in {"pipeline", "data"}:
                    held = getattr(value, name)
                    yield from _secrets_in(held)
                    if name.endswith("headers") and isinstance(held, dict):
                        yield from secret_values({k: v for k, v in held.items() if type(v) is str})
                    elif name in {"base_url", "host"} and isinstance(held, str):
                        yield from secret_values(dict(parse_qsl(urlsplit(held).query)))
        case list() | tuple():
            for item in value:
                if isinstance(item, PydanticModel | SecretStr):
                    yield from _secrets_in(item)
        case dict():
            for item in value.values():
                yield from _secrets_in(item)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Names that distilabel has in this module; type checkers are not to see them."""
        from asyncdistil.compat.aliases import old_names

        return old_names(__name__)(name)
