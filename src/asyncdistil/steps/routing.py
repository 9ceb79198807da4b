"""Routers: which of its successors the next batch of a step goes to.

A router decides by the batch it is shown, never by a state of its own: its decision is recorded
and reused while router and batch are unchanged.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, overload

from asyncdistil.batch import Row
from asyncdistil.errors import GraphError, ParameterError, StepError

if TYPE_CHECKING:
    from asyncdistil.signature import CodeFingerprint, Identity

_LIBRARY_VERSION = 1


class RoutingBatchFunction:
    """A function that chooses among the steps after it, batch by batch.

    Args:
        function: Takes the successors' names; if it has a second parameter also the rows of the
            batch, if a third also 16 bytes that depend on nothing but the content of the batch,
            to seed chance with. Returns the names of those that get the batch, at least one.
        description: For people.
        factory: Importable name of a function that makes this router (``module:name``) and the
            arguments to call it with, if there is one.
    """

    def __init__(
        self,
        function: Callable[..., Sequence[str]],
        description: str | None = None,
        *,
        factory: tuple[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.function = function
        self.description = description
        self.factory = factory
        self._takes = _positional_parameters(function)

    @property
    def name(self) -> str:
        """Name of the function."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    @property
    def takes_rows(self) -> bool:
        """Whether the function looks at the rows or at their content digest."""
        return self._takes > 1

    def choose(
        self, steps: Sequence[str], rows: Sequence[Row] = (), digest: bytes = b""
    ) -> list[str]:
        """Return the steps that get a batch, in the order in which they were connected.

        Args:
            steps: Names to choose from.
            rows: Rows of the batch.
            digest: Content digest of the batch.

        Raises:
            StepError: The function chose nothing, or a step that it was not offered.
        """
        arguments = ([*steps], [*rows] if self._takes > 1 else rows, digest)
        chosen = self.function(*arguments[: self._takes])
        if isinstance(chosen, str):
            chosen = [chosen]
        strangers = [name for name in chosen if name not in steps]
        if strangers or not chosen:
            what = f"chose {strangers[0]!r}" if strangers else "chose no step"
            raise StepError(
                f"router {self.name!r} {what}: it must return one or more of {[*steps]}; "
                f"to drop rows use a filter step"
            )
        return [name for name in steps if name in chosen]

    def __call__(self, *arguments: Any) -> Sequence[str]:
        """Call the function itself."""
        return self.function(*arguments)

    def __rshift__(self, other: object) -> Any:
        raise GraphError(
            f"router {self.name!r} has no step before it: write `step >> {self.name} >> [b, c]`"
        )

    def __rrshift__(self, others: object) -> Any:
        # Of a step it is never asked: a step before a router answers itself.
        raise GraphError(
            f"router {self.name!r} stands behind one step: write `a >> {self.name} >> [c, d]` for "
            f"each step before it"
        )

    def __repr__(self) -> str:
        return f"RoutingBatchFunction({self.name})"

    def code(self) -> CodeFingerprint | None:
        """Fingerprint the user's code in the router; ``None`` for the library's own routers."""
        if self._is_library():
            return None
        from asyncdistil.signature import fingerprint

        return fingerprint(self.function)

    def identity(self) -> Identity:
        """Name the router by everything of its own that can change a decision."""
        from asyncdistil.signature import step_identity

        return step_identity(
            name=self.name,
            kind="router",
            qualname=getattr(self.function, "__qualname__", type(self.function).__qualname__),
            version=_LIBRARY_VERSION if self._is_library() else None,
            fields=dict(self.factory[1]) if self.factory else {},
            code=self.code(),
        )

    def _is_library(self) -> bool:
        return type(self.function) is _Sample


def _positional_parameters(function: Callable[..., Any]) -> int:
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 3
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    # A further parameter with a default is the function's own business, unless it is named for
    # what it would get.
    wanted = [p for p in positional if p.default is p.empty or p.name in {"rows", "digest"}]
    if not 1 <= len(wanted) <= 3:
        raise ParameterError(
            f"routing function {getattr(function, '__name__', function)!r} must take (steps), "
            f"(steps, rows) or (steps, rows, digest), not {len(wanted)} parameters"
        )
    return len(wanted)


@overload
def routing_batch_function(function: Callable[..., Sequence[str]], /) -> RoutingBatchFunction: ...
@overload
def routing_batch_function(
    description: str | None = None,
) -> Callable[[Callable[..., Sequence[str]]], RoutingBatchFunction]: ...
def routing_batch_function(
    description: Any = None,
) -> RoutingBatchFunction | Callable[[Callable[..., Sequence[str]]], RoutingBatchFunction]:
    """Make a router of a function; with or without parentheses.

    Args:
        description: For people; or the function itself.
    """
    if callable(description):
        return RoutingBatchFunction(description, inspect.getdoc(description))

    def decorate(function: Callable[..., Sequence[str]]) -> RoutingBatchFunction:
        return RoutingBatchFunction(function, description or inspect.getdoc(function))

    return decorate


class _Sample:
    """Chooses ``n`` steps by chance that depends on the batch alone."""

    def __init__(self, n: int, seed: int) -> None:
        self.n = n
        self.seed = seed
        self.__name__ = "sample_n_steps"

    def __call__(self, steps: Sequence[str], rows: Sequence[Row], digest: bytes) -> list[str]:
        if self.n > len(steps):
            raise ParameterError(
                f"sample_n_steps({self.n}) has {len(steps)} steps to choose from: lower n"
            )
        # `random` promises the same numbers for the same int seed and `sample` of one length.
        chance = Random(int.from_bytes(digest, "big") ^ self.seed)
        return chance.sample([*steps], self.n)


def sample_n_steps(n: int, seed: int = 0) -> RoutingBatchFunction:
    """Send every batch to ``n`` of the successors, chosen by chance.

    The choice depends on the content of the batch and on ``seed``: a rerun chooses alike.

    Args:
        n: Steps that get each batch, at least 1.
        seed: Change it for another choice.

    Raises:
        ParameterError: ``n`` is less than 1.
    """
    if n < 1:
        raise ParameterError(f"sample_n_steps needs n of at least 1, not {n}")
    return RoutingBatchFunction(
        _Sample(n, seed),
        f"Sample {n} steps from the successors.",
        factory=("asyncdistil.pipeline:sample_n_steps", {"n": n, "seed": seed}),
    )
