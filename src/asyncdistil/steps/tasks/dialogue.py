"""A row's talk with a model as pure code: messages out, replies in, an entry at the end.

A task writes what it wants to ask as a generator. It yields an `Ask` and gets the replies back, as
often as it likes, and returns what the row became. It never calls a model itself, so the same
code is driven row by row on an event loop (`aconverse`), all rows of a batch `together` with one
model call per round (`converse`), or by a test with replies of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

from asyncdistil.models.llms.base import LLM
from asyncdistil.models.typing import FormattedInput, GenerateOutput

T = TypeVar("T")


class Ask(NamedTuple):
    """Inputs to send at the same time.

    Attributes:
        inputs: At least one.
        num_generations: Generations wanted for each.
    """

    inputs: tuple[FormattedInput, ...]
    num_generations: int = 1


Replies: TypeAlias = list[GenerateOutput]
"""One per input of the `Ask`, in its order. A failed one has ``failures``; none is an exception."""

Dialogue: TypeAlias = Generator[Ask, Replies, T]


def ask(input: FormattedInput, num_generations: int = 1) -> Dialogue[GenerateOutput]:
    """Send one input and return its reply; write ``yield from`` before the call."""
    [reply] = yield Ask((input,), num_generations)
    return reply


def together(dialogues: Sequence[Dialogue[T]]) -> Dialogue[list[T]]:
    """Hold several dialogues as one, a round of all of them at a time.

    Asks of different ``num_generations`` are sent one after another. An exception of one dialogue
    ends all of them: one that may fail on its own must catch what it raises.
    """
    results: dict[int, T] = {}
    waiting: dict[int, Ask] = {}

    def step(number: int, replies: Replies | None) -> None:
        dialogue = dialogues[number]
        try:
            waiting[number] = next(dialogue) if replies is None else dialogue.send(replies)
        except StopIteration as stop:
            results[number] = stop.value

    for number in range(len(dialogues)):
        step(number, None)
    while waiting:
        num_generations = next(iter(waiting.values())).num_generations
        round_ = {n: one for n, one in waiting.items() if one.num_generations == num_generations}
        inputs = tuple(item for one in round_.values() for item in one.inputs)
        replies = iter((yield Ask(inputs, num_generations)))
        for number, one in round_.items():
            del waiting[number]
            step(number, [next(replies) for _ in one.inputs])
    return [results[number] for number in range(len(dialogues))]


def converse(llm: LLM, dialogue: Dialogue[T], generation_kwargs: Mapping[str, Any]) -> T:
    """Hold a dialogue from synchronous code.

    Given the dialogues of a batch `together`, a model that takes batches gets one per round.
    """
    replies: Replies | None = None
    while True:
        try:
            wanted = next(dialogue) if replies is None else dialogue.send(replies)
        except StopIteration as stop:
            result: T = stop.value
            return result
        replies = llm.generate_outputs(
            list(wanted.inputs), wanted.num_generations, **generation_kwargs
        )


async def aconverse(llm: LLM, dialogue: Dialogue[T], generation_kwargs: Mapping[str, Any]) -> T:
    """Hold a dialogue on the running loop."""
    replies: Replies | None = None
    while True:
        try:
            wanted = next(dialogue) if replies is None else dialogue.send(replies)
        except StopIteration as stop:
            result: T = stop.value
            return result
        replies = await llm.agenerate_outputs(
            list(wanted.inputs), wanted.num_generations, **generation_kwargs
        )


async def aconverse_all(
    llm: LLM, dialogues: Sequence[Dialogue[T]], generation_kwargs: Mapping[str, Any]
) -> list[T]:
    """Hold dialogues side by side on the running loop; none waits for another."""
    tasks = [
        asyncio.ensure_future(aconverse(llm, dialogue, generation_kwargs)) for dialogue in dialogues
    ]
    try:
        return await asyncio.gather(*tasks)
    finally:
        # After a fatal error nobody wants the others, and each of them costs money.
        for task in tasks:
            task.cancel()
