"""`Step`: rows in, rows out."""

import inspect
import threading
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, PositiveInt

from asyncdistil.batch import Row
from asyncdistil.compat.hooks import stands_in
from asyncdistil.errors import StepError
from asyncdistil.graph.plan import StepKind
from asyncdistil.mixins import RUNTIME_PARAMETER
from asyncdistil.steps.base import BaseStep
from asyncdistil.steps.rows import Entries, Entry, FailedRow
from asyncdistil.typing import StepOutput

_T = TypeVar("_T")
_ROWS_ONLY = frozenset({dict})


def _usual_alignment() -> Literal["id", "position"]:
    return "position" if stands_in() else "id"


class Step(BaseStep):
    """A step that turns rows into rows.

    Override ``process``, or ``aprocess`` to work on many rows at once in one event loop.

    Batch-wise is the default: ``process`` gets consecutive batches of exactly
    ``input_batch_size`` rows and yields any rows. A row-wise step (``row_wise=True``) promises
    that an output depends on one input row only: for n rows it yields, over all its yields,
    exactly n entries in order: a row, ``None`` (filtered) or a list of rows (expanded).

    Inputs and outputs: as ``inputs`` and ``outputs`` say.

    Attributes:
        input_batch_size: Rows of a call, the last one of a run perhaps fewer.
        row_wise: Whether the row-wise promise holds.
        memoize: Whether results of a row-wise step are kept by content of the declared input
            columns, for every pipeline of the cache directory.
        join: What happens to a row id that one of several ports lacks: ``all`` refuses it,
            ``inner`` drops the row.
        align: Whether rows of several ports are matched by ``id`` or, where they have no common
            one, by ``position``; the latter is the default in scripts written for distilabel.

    Example:
        >>> from asyncdistil.steps import Step, StepInput
        >>> class Shout(Step):
        ...     mark: str = "!"
        ...
        ...     @property
        ...     def inputs(self):
        ...         return ["text"]
        ...
        ...     @property
        ...     def outputs(self):
        ...         return ["loud"]
        ...
        ...     def process(self, inputs: StepInput):
        ...         yield [row | {"loud": row["text"].upper() + self.mark} for row in inputs]
        >>> next(Shout(mark="?").process([{"text": "really"}]))
        [{'text': 'really', 'loud': 'REALLY?'}]
    """

    input_batch_size: Annotated[PositiveInt, RUNTIME_PARAMETER] = Field(
        default=50, description="Rows of a call of the step."
    )
    row_wise: bool = False
    memoize: bool = False
    join: Literal["all", "inner"] = "all"
    align: Literal["id", "position"] = Field(default_factory=_usual_alignment)

    def kind(self) -> StepKind:
        """``row`` or ``batch``."""
        return "row" if self.row_wise else "batch"

    @property
    def asynchronous(self) -> bool:
        """Whether the step works by `aprocess`, many rows at once."""
        return type(self).aprocess is not Step.aprocess

    @property
    def concurrency(self) -> int:
        """Rows that one worker keeps in flight; 0 runs a batch at a time."""
        return self.input_batch_size if self.asynchronous else 0

    @property
    def takes_many_ports(self) -> bool:
        """Whether the step can stand behind several others: ``process`` takes ``*inputs``."""
        if type(self).process is Step.process:
            return False
        parameters = inspect.signature(self.process).parameters.values()
        return any(p.kind is p.VAR_POSITIONAL for p in parameters)

    @property
    def may_be_broken_off(self) -> bool:
        """Whether a call that is broken off, whenever that is, costs nothing to make again.

        A stopping run does not wait for such a call.
        """
        return False

    def operational_fields(self) -> frozenset[str]:
        """The batch size, where rows don't depend on it."""
        return frozenset() if self.kind() == "batch" else frozenset({"input_batch_size"})

    def process(self, *args: Any, **kwargs: Any) -> StepOutput:
        """Turn rows into rows.

        Args:
            args: One list of rows per step before this one; a single one for most.
            kwargs: None; there so that an override may have any signature.

        Yields:
            Lists of rows; all of them count.
        """
        if not self.asynchronous:
            raise StepError(
                f"step {self.name!r} has no work to do: define `process(self, inputs)` in "
                f"{type(self).__name__}, yielding lists of rows"
            )
        (rows,) = args
        yield flat(_run(self._gather(rows)))

    async def aprocess(self, row: Row) -> Entry:
        """Turn one row into its entry, while others are under way in the same loop.

        Returns:
            A row, ``None`` (filtered), a list (expanded) or a `FailedRow`. What it raises fails
            this row only.
        """
        raise StepError(f"step {self.name!r} has no `aprocess`")

    async def _gather(self, rows: Sequence[Row]) -> Entries:
        import asyncio

        room = asyncio.Semaphore(max(self.concurrency, 1))

        async def one(row: Row) -> Entry:
            async with room:
                return await self.aprocess(row)

        return list(await asyncio.gather(*map(one, rows)))

    def entries(self, *ports: list[Row]) -> Iterator[Entries]:
        """Yield what became of the rows, in the step's own column names.

        What `apply` calls between the mappings. For batch-wise steps an entry is an output row;
        for row-wise ones the n-th entry is what became of the n-th row.
        """
        yield from self._yields(self.process(*ports))

    def apply(self, *ports: list[Row]) -> Iterator[Entries]:
        """Work on rows of the pipeline: map columns in, work, check, map columns out.

        Args:
            ports: One list of rows per step before this one, in the pipeline's column names.

        Yields:
            As `entries`, in the pipeline's column names.

        Raises:
            StepError: The step broke its contract; says how.
        """
        mapping = self.mapping()
        if not mapping.trivial:
            ports = tuple([mapping.enter(row) for row in rows] for rows in ports)
        expected = len(ports[0]) if self.row_wise else None
        given = 0
        for entries in self._yields(self.entries(*ports)):
            self._check(entries, given, expected)
            given += len(entries)
            if mapping.trivial:
                yield entries
            else:
                yield [mapping.leave_entry(entry) for entry in entries]
        if expected is not None and given != expected:
            raise StepError(
                f"row-wise step {self.name!r} gave {given} entries for {expected} rows: yield one "
                f"for every row, None for one that is dropped, a list for one that becomes several"
            )

    async def aapply(self, row: Row) -> Entry:
        """Work on one row of the pipeline by `aprocess`, columns mapped in and out.

        Raises:
            StepError: The step returned no entry.
        """
        mapping = self.mapping()
        if mapping.trivial:
            entry = await self.aprocess(row)
            self._check([entry], 0, 1)
            return entry
        entry = await self.aprocess(mapping.enter(row))
        self._check([entry], 0, 1)
        return mapping.leave_entry(entry)

    def _yields(self, made: Any) -> Iterator[Entries]:
        if inspect.iscoroutine(made):
            made.close()
        if not isinstance(made, Iterable) or isinstance(made, dict | str | bytes):
            hint = "it must yield lists of rows"
            if inspect.iscoroutine(made) or inspect.isasyncgen(made):
                hint = "it must be a plain `def`; async work is done in `aprocess`, row by row"
            raise StepError(f"`process` of step {self.name!r} returned {_a(made)}: {hint}")
        if isinstance(made, list) and any(isinstance(row, dict) for row in made):
            raise StepError(
                f"`process` of step {self.name!r} returned its rows: it must `yield` them as a list"
            )
        for entries in made:
            if not isinstance(entries, list):
                raise StepError(
                    f"`process` of step {self.name!r} yielded {_a(entries)}: yield a list of rows"
                )
            yield entries

    def _check(self, entries: Entries, given: int, expected: int | None) -> None:
        if expected is not None and given + len(entries) > expected:
            raise StepError(
                f"row-wise step {self.name!r} gave more than {expected} entries for {expected} "
                f"rows: yield the rows that one row becomes as one list"
            )
        if _ROWS_ONLY.issuperset(map(type, entries)):
            return
        for position, entry in enumerate(entries, given):
            good = isinstance(entry, dict)
            if expected is not None and not good:
                good = (
                    entry is None
                    or isinstance(entry, FailedRow)
                    or (
                        isinstance(entry, list)
                        and all(isinstance(row, dict | FailedRow) for row in entry)
                    )
                )
            if not good:
                raise StepError(
                    f"step {self.name!r} gave {_a(entry)} in place {position} of its output: "
                    f"rows are dicts"
                    + ("" if expected is not None else "; entries like None need row_wise=True")
                )


def _a(value: object) -> str:
    name = type(value).__name__
    return "nothing" if value is None else f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def flat(entries: Entries) -> list[Row]:
    """Return the rows in entries: filtered ones left out, failed ones in their null form."""
    rows: list[Row] = []
    for entry in entries:
        if isinstance(entry, FailedRow):
            rows.append(entry.row)
        elif isinstance(entry, dict):
            rows.append(entry)
        elif entry is not None:
            rows += flat([*entry])
    return rows


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine from sync code, also below a running loop (a notebook's)."""
    # A worker that needs no loop starts faster without the modules of one.
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    outcome: list[_T] = []
    errors: list[BaseException] = []

    def target() -> None:
        try:
            outcome.append(asyncio.run(work))
        except BaseException as error:
            errors.append(error)

    # A loop of its own in a thread of its own: the caller's loop is never patched.
    thread = threading.Thread(target=target, name="asyncdistil-step")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return outcome[0]
