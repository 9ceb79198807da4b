"""Making, merging and failing a `GenerateOutput`."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from typing import Any, cast

from asyncdistil.batch import Failure
from asyncdistil.errors import (
    LogError,
    ModelAuthError,
    ModelNotFound,
    ModelOutage,
    ModelRateLimited,
    ModelReplyError,
    RunStopped,
    TransportError,
    said_by,
)
from asyncdistil.models.typing import GenerateOutput, LLMLogprobs, LLMOutput

FATAL = (
    ModelAuthError,
    ModelNotFound,
    ModelRateLimited,
    ModelOutage,
    RunStopped,
    LogError,
    TransportError,
    MemoryError,
)
"""What is no row's fault: it stops the run instead of failing the row."""

_MAX_DETAIL_CHARS = 16 * 1024


def prepare_output(
    generations: LLMOutput,
    input_tokens: list[int] | None = None,
    output_tokens: list[int] | None = None,
    logprobs: LLMLogprobs | None = None,
    failures: Sequence[Failure | None] = (),
    **extra: list[Any],
) -> GenerateOutput:
    """Build an output.

    Args:
        generations: One text per generation, ``None`` where it failed.
        input_tokens: Prompt tokens; a single value stands for every generation.
        output_tokens: Completion tokens, likewise.
        logprobs: Per generation, if asked for.
        failures: Per generation, or empty if none failed.
        extra: Anything else with one value per generation; it becomes a column of its own.
    """
    output: dict[str, Any] = {
        "generations": generations,
        "statistics": {
            "input_tokens": _per_generation(input_tokens, len(generations)),
            "output_tokens": _per_generation(output_tokens, len(generations)),
        },
        **extra,
    }
    if logprobs:
        output["logprobs"] = logprobs
    if any(failures):
        output["failures"] = list(failures)
    return cast(GenerateOutput, output)


def _per_generation(values: list[int] | None, generations: int) -> list[int]:
    if values and len(values) == 1:
        return values * generations
    return values or []


def failure_of(error: BaseException, *, attempts: int = 1, detail: str = "") -> Failure:
    """Record an exception; ``detail`` replaces its traceback.

    Errors that carry ``attempts`` or ``detail`` of their own are believed.
    """
    kind = type(error)
    detail = detail or getattr(error, "detail", "") or "".join(traceback.format_exception(error))
    return Failure(
        kind=f"{kind.__module__}.{kind.__qualname__}",
        message=said_by(error) or kind.__name__,
        attempts=getattr(error, "attempts", attempts),
        detail=detail[-_MAX_DETAIL_CHARS:],
    )


def failed_output(error: BaseException | Failure, num_generations: int = 1) -> GenerateOutput:
    """The output of an input for which every generation failed for the same reason."""
    failure = error if isinstance(error, Failure) else failure_of(error)
    return {
        "generations": [None] * num_generations,
        "statistics": {},
        "failures": [failure] * num_generations,
    }


def checked_output(output: object, *, model: str) -> GenerateOutput:
    """Accept what a user's model returned for one input.

    Args:
        output: A `GenerateOutput`; a plain list of texts (the older contract) is accepted, and
            missing ``statistics`` count as none.
        model: Name of the model, for the message.

    Raises:
        ModelReplyError: It is something else.
    """
    if isinstance(output, list):
        return {"generations": output, "statistics": {}}
    if not isinstance(output, Mapping) or not isinstance(output.get("generations"), list):
        raise ModelReplyError(
            f"model {model!r} returned {type(output).__name__} for an input: return a dict with"
            " 'generations' (list of texts or None) and 'statistics' (dict of lists)"
        )
    if "statistics" in output:
        return cast(GenerateOutput, output)
    return cast(GenerateOutput, {**output, "statistics": {}})


def merge_outputs(outputs: Sequence[GenerateOutput]) -> GenerateOutput:
    """One output out of several for the same input, generations one after another."""
    if len(outputs) == 1:
        return outputs[0]
    counts = [len(output["generations"]) for output in outputs]
    merged: dict[str, Any] = {"generations": [], "statistics": {}}
    for output in outputs:
        merged["generations"] += output["generations"]
    names = dict.fromkeys(name for output in outputs for name in output["statistics"])
    for name in names:
        columns = [output["statistics"].get(name, []) for output in outputs]
        merged["statistics"][name] = _joined(columns, counts)
    skipped = {"generations", "statistics"}
    for name in dict.fromkeys(key for output in outputs for key in output if key not in skipped):
        merged[name] = _joined([cast(Any, output).get(name, []) for output in outputs], counts)
    return cast(GenerateOutput, merged)


def _joined(columns: Sequence[list[Any]], counts: Sequence[int]) -> list[Any]:
    """Concatenate, holding the place of generations that have no value."""
    joined: list[Any] = []
    for column, count in zip(columns, counts, strict=True):
        full = column * count if len(column) == 1 else column
        joined += full + [None] * (count - len(full))
    return joined
