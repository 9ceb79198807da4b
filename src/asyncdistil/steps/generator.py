"""`GeneratorStep`: rows out of nothing."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, ClassVar

from pydantic import Field, PositiveInt

from asyncdistil.batch import Row
from asyncdistil.errors import StepError
from asyncdistil.graph.plan import OnError, StepKind
from asyncdistil.mixins import RUNTIME_PARAMETER
from asyncdistil.steps.base import BaseStep
from asyncdistil.typing import GeneratorStepOutput


class GeneratorStep(BaseStep):
    """A step that makes rows: a loader, or a task that invents them.

    Inputs: none. Outputs: as ``outputs`` says.

    Attributes:
        batch_size: Rows of a yield; a wish, not a promise.
        resumable: Whether ``process(offset=n)`` goes on after the first n rows. Others restart
            at the first row, and those that were committed before are compared and dropped.
        reads_only_fields: Whether the rows come from the fields and the code alone, so that a
            later run with both unchanged may reuse them, chance included. A class that reads
            something else overrides `data_identity` instead.

    Example:
        >>> from typing import ClassVar
        >>> from asyncdistil.steps import GeneratorStep
        >>> class Squares(GeneratorStep):
        ...     up_to: int = 3
        ...     reads_only_fields: ClassVar[bool] = True
        ...
        ...     @property
        ...     def outputs(self):
        ...         return ["square"]
        ...
        ...     def process(self, offset=0):
        ...         yield [{"square": n * n} for n in range(offset, self.up_to)], True
        >>> list(Squares().process())
        [([{'square': 0}, {'square': 1}, {'square': 4}], True)]
    """

    resumable: ClassVar[bool] = False
    reads_only_fields: ClassVar[bool] = False

    batch_size: Annotated[PositiveInt, RUNTIME_PARAMETER] = Field(
        default=50, description="Rows that the generator yields at a time."
    )
    on_error: OnError = "raise"

    def kind(self) -> StepKind:
        """``generator``."""
        return "generator"

    def operational_fields(self) -> frozenset[str]:
        """The batch size, where the class counts its place in rows."""
        return frozenset({"batch_size"}) if self.resumable else frozenset()

    def process(self, *args: Any, **kwargs: Any) -> GeneratorStepOutput:
        """Make rows.

        Args:
            args: ``offset``: rows to skip, 0 unless the class is ``resumable``.
            kwargs: The same by name.

        Yields:
            Rows, and whether they are the last ones.
        """
        raise StepError(
            f"generator {self.name!r} has no work to do: define `process(self, offset=0)` in "
            f"{type(self).__name__}, yielding (rows, last)"
        )

    def generate(self, offset: int = 0) -> Iterator[tuple[list[Row], bool]]:
        """Make rows for the pipeline: work, check, map columns out.

        Args:
            offset: Rows to skip; 0 unless the class is ``resumable``.

        Yields:
            Rows, and whether the generator said that they are the last; nothing follows then. A
            generator that ends without saying so has ended too.

        Raises:
            StepError: The step broke its contract; says how.
        """
        mapping = self.mapping()
        work: Any = self.process(offset=offset)
        if not isinstance(work, Iterable):
            raise StepError(
                f"`process` of generator {self.name!r} returned a {type(work).__name__}: it must "
                f"yield (rows, last)"
            )
        for made in work:
            if not (
                isinstance(made, tuple)
                and len(made) == 2
                and isinstance(made[0], list)
                and all(isinstance(row, dict) for row in made[0])
            ):
                raise StepError(
                    f"generator {self.name!r} yielded a {type(made).__name__} that is not "
                    f"(rows, last): yield a tuple of a list of dicts and a bool"
                )
            rows, last = made
            yield rows if mapping.trivial else [mapping.leave(row) for row in rows], bool(last)
            if last:
                return

    def expected_rows(self) -> int | None:
        """Rows that it will make in all, if that is known beforehand; for showing progress."""
        return None

    def data_identity(self) -> bytes | None:
        """Name the data that the generator reads, 16 bytes; equal names mean equal rows.

        Override it where the rows come from outside of the fields: a digest of a file, a
        version of a table. ``None`` runs the generator every time.
        """
        if not self.reads_only_fields:
            return None
        identity = self.identity()
        return None if identity.uncacheable else identity.digest
