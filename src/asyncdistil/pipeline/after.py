"""The methods of a pipeline that start from what earlier runs have stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, cast

if TYPE_CHECKING:
    from asyncdistil.distiset import Distiset
    from asyncdistil.pipeline.forecast import Forecast
    from asyncdistil.pipeline.options import Budget, LoadGroups, OnCorruption, SyncMode
    from asyncdistil.pipeline.pipeline import Pipeline
    from asyncdistil.pipeline.retry import Wish


class RetryOptions(TypedDict, total=False):
    """Arguments of a retry that are given by name; `RunOptions` says what each means."""

    dataset: Any
    dataset_batch_size: int
    load_groups: LoadGroups | None
    on_error: Literal["raise"] | None
    on_corruption: OnCorruption
    sync_mode: SyncMode
    max_failures: int | None
    budget: Budget | None
    wait_seconds: float


class AfterRuns:
    """What can be done with the stored runs of a pipeline."""

    def retry(
        self,
        step: str = "",
        where: str = "",
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        run: str = "",
        **options: Unpack[RetryOptions],
    ) -> Distiset:
        """Ask rows of a stored run anew, and return its dataset with what comes out.

        Without arguments these are the rows that failed. All other rows stand as they were, those
        of generators too; what was asked anew goes through the rest of the graph. The same retry
        once more computes nothing, except for rows that failed again.

        Args:
            step: Rows of this step only.
            where: Condition on rows, such as ``failure.kind == "ModelReplyError"``; `condition`
                says what it may be. With ``step`` it chooses among all rows of the step, not
                only among those that failed.
            parameters: Runtime parameters by step, nested as for `run`, for the rows that the
                retry computes. They do not stay on the steps, and no other run is served such
                rows, unless all of it has these parameters.
            run: Id of the run, or how it begins; by default the newest one of this pipeline.
            options: ``dataset``, if the run was given one, for its columns; ``on_error``,
                ``budget``, ``wait_seconds`` and others, as for `run`.

        Raises:
            UnknownRun: Nothing is stored, or there is no such run or step.
            UserError: The run has not ended, or the pipeline is another one by now; or as for
                `run`.
            RunStopped: The retry ended early; the same retry goes on from there.
            LogError: The log cannot keep its promise.
        """
        from asyncdistil.pipeline import again
        from asyncdistil.pipeline.options import RunOptions

        wish = _wish(step, where, parameters, run)
        return again.retry(cast("Pipeline", self), RunOptions(**options), wish)

    async def aretry(
        self,
        step: str = "",
        where: str = "",
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        run: str = "",
        **options: Unpack[RetryOptions],
    ) -> Distiset:
        """As `retry`, in the caller's loop. Cancelling it leaves a resumable state."""
        from asyncdistil.pipeline import again
        from asyncdistil.pipeline.options import RunOptions

        wish = _wish(step, where, parameters, run)
        return await again.aretry(cast("Pipeline", self), RunOptions(**options), wish)

    def plan_retry(
        self,
        step: str = "",
        where: str = "",
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        run: str = "",
        **options: Unpack[RetryOptions],
    ) -> Forecast:
        """Say what `retry` would ask anew, compute and call; loads no model, writes nothing.

        Arguments are those of `retry`.

        Raises:
            UserError: As for `retry`.
            LogError: What is stored can't be read.
        """
        from asyncdistil.pipeline.forecast import forecast_retry
        from asyncdistil.pipeline.options import RunOptions

        wish = _wish(step, where, parameters, run)
        return forecast_retry(cast("Pipeline", self), RunOptions(**options), wish)

    def partial(self, run: str = "") -> Distiset:
        """Return the dataset as far as it is there: while a run goes on, or after it stopped.

        May be called from any thread, and from another process than the run's; it takes no lock
        and holds nothing up. Rows are in source order, those whose place is not known yet behind
        all others. ``distiset.partial`` says whether more is to come; rows are in memory.

        Args:
            run: Id of the run, or how it begins; by default the newest one.

        Raises:
            UnknownRun: Nothing is stored, or there is no such run.
            LogError: What is stored can't be read.
        """
        from asyncdistil.pipeline.partial import partial

        return partial(cast("Pipeline", self), run)


def _wish(
    step: str, where: str, parameters: Mapping[str, Mapping[str, Any]] | None, run: str
) -> Wish:
    from asyncdistil.pipeline.retry import Wish

    return Wish(run=run, step=step, where=where, parameters=parameters)
