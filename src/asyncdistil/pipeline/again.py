"""`Pipeline.retry` and `aretry`: two ways to wait for rows that are asked anew."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from asyncdistil.distiset import Distiset
from asyncdistil.pipeline.options import RunOptions
from asyncdistil.pipeline.retry import PreparedRetry, Wish, prepare_retry, retried_dataset
from asyncdistil.pipeline.run import awaited, tell, waited

if TYPE_CHECKING:
    from asyncdistil.pipeline.pipeline import Pipeline

_log = logging.getLogger("asyncdistil.pipeline")


def retry(pipeline: Pipeline, options: RunOptions, wish: Wish) -> Distiset:
    """Ask rows of a stored run anew, and wait; signals are those of `run`.

    Raises:
        UserError: The run can't be mended so; nothing was started.
        RunStopped: As for `run`; the same retry goes on from there.
        LogError: The log cannot keep its promise.
    """
    prepared = _prepared_retry(pipeline, options, wish)
    return waited(prepared, retried_dataset(prepared))


def _prepared_retry(pipeline: Pipeline, options: RunOptions, wish: Wish) -> PreparedRetry:
    prepared = prepare_retry(pipeline, options, wish)
    tell(prepared)
    for step, rows in prepared.rows.items():
        _log.info("[%s] %d rows are asked anew", step, rows)
    return prepared


async def aretry(pipeline: Pipeline, options: RunOptions, wish: Wish) -> Distiset:
    """Ask rows of a stored run anew without blocking the caller's loop.

    Raises:
        UserError: The run can't be mended so; nothing was started.
        RunStopped: As for `run`; the same retry goes on from there.
        LogError: The log cannot keep its promise.
    """
    prepared = _prepared_retry(pipeline, options, wish)
    return await awaited(prepared, retried_dataset(prepared))
