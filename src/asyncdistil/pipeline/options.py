"""What a run may be told, checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from asyncdistil.errors import ParameterError

SyncMode: TypeAlias = Literal["durable", "relaxed", "process"]
LoadGroups: TypeAlias = Sequence[Sequence[Any]] | Literal["sequential_step_execution"]
"""Groups of steps, or of their names, each loaded together and alone; or one stage per step."""
OnCorruption: TypeAlias = Literal["refuse", "recompute"]

_CHOICES: dict[str, tuple[str | None, ...]] = {
    "on_error": (None, "raise"),
    "on_corruption": ("refuse", "recompute"),
    "sync_mode": ("durable", "relaxed", "process"),
}
_LEAST = {
    "dataset_batch_size": 1,
    "max_failures": 0,
    "wait_seconds": 0,
    "dry_rows": 0,
}


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run may spend on model calls; it stops, resumable, before it would spend more.

    Attributes:
        dollars: US dollars, by the prices that the models declare; ``None`` for no limit.
        tokens: Paid prompt and completion tokens together; ``None`` for no limit.
    """

    dollars: float | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("dollars", self.dollars), ("tokens", self.tokens)):
            if value is not None and not value > 0:
                raise ParameterError(f"a budget of {name}={value!r} lets nothing run: make it > 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The arguments of one run.

    Attributes:
        parameters: Runtime parameters by step, set on copies of the steps for this run.
        use_cache: Whether rows of earlier runs may be reused.
        load_groups: Steps (or their names) to be loaded together and alone, or
            ``"sequential_step_execution"``; ``None`` loads all at once.
        dataset: Rows for the first steps: dicts, a ``Dataset`` or a ``DataFrame``.
        dataset_batch_size: Rows that are read from ``dataset`` at a time.
        retry_failed: Whether rows that failed in an earlier run are tried again.
        on_error: ``"raise"`` stops at the first failed row; ``None`` leaves it to each step.
        on_corruption: ``"recompute"`` treats damaged records as never written.
        sync_mode: What an acknowledged row survives: ``durable`` a power cut, ``relaxed`` a power
            cut except for the last seconds, ``process`` only the death of the process.
        max_failures: Failed rows per step after which the run stops, for steps that say nothing.
        budget: What may be spent on model calls.
        wait_seconds: How long to wait for another run of the same pipeline name to end.
        dry_rows: Rows taken from each generator in a dry run; 0 in a real run.
        logging_handlers: Not used: configure ``logging`` as usual. Accepted with a warning.
        storage_parameters: No effect: rows never travel between processes, only references to
            them, so there is nothing to send through another file system.
        use_fs_to_pass_data: No effect, for the same reason.

    Raises:
        ParameterError: A value is not one of those allowed.
    """

    # Parameters may hold keys, a dataset may hold gigabytes: neither is for a repr.
    parameters: Mapping[str, Mapping[str, Any]] | None = field(default=None, repr=False)
    use_cache: bool = True
    load_groups: LoadGroups | None = None
    dataset: Any = field(default=None, repr=False)
    dataset_batch_size: int = 50
    retry_failed: bool = True
    on_error: Literal["raise"] | None = None
    on_corruption: OnCorruption = "refuse"
    sync_mode: SyncMode = "durable"
    max_failures: int | None = None
    budget: Budget | None = None
    wait_seconds: float = 0
    dry_rows: int = 0
    logging_handlers: Sequence[Any] | None = None
    storage_parameters: Mapping[str, Any] | None = None
    use_fs_to_pass_data: bool = False

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                shown = " or ".join(map(repr, allowed))
                raise ParameterError(f"{name}={value!r} is not known: use {shown}")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int | float) or value < least):
                raise ParameterError(f"{name}={value!r} is not allowed: use {least} or more")
        if self.parameters is not None and not isinstance(self.parameters, Mapping):
            raise ParameterError(
                f"parameters must be a dict of dicts, as in {{'step': {{'name': value}}}}, not"
                f" {type(self.parameters).__name__}"
            )
