"""Sentence pairs and triplets for models that learn what texts mean."""

from typing import Any, ClassVar, Final, Literal

from pydantic import PrivateAttr

from asyncdistil.errors import ModelReplyError
from asyncdistil.models.typing import ChatType
from asyncdistil.steps.tasks import prompts, replies
from asyncdistil.steps.tasks.base import Task
from asyncdistil.typing import StepColumns

GenerationAction = Literal["paraphrase", "semantically-similar", "query", "answer"]

_ACTIONS: Final = {
    "paraphrase": "say the same as",
    "semantically-similar": "be close in meaning to",
    "query": "be a query that is answered by",
    "answer": "be an answer to",
}
_NEGATIVE: Final = "may use similar words but has nothing to do with the anchor"
_HARD_NEGATIVE: Final = (
    "is close to the anchor in subject, wording and length, so that it is easily taken for a "
    "positive, but does not fit it: it means something else, or leaves out or changes what counts"
)


class GenerateSentencePair(Task):
    """Write a text that belongs to a given one, and perhaps one that does not.

    Inputs: ``anchor``. Outputs: ``positive``; ``negative`` with ``triplet``; ``model_name``.

    Attributes:
        action: How the positive belongs to the anchor: a ``paraphrase``, ``semantically-similar``,
            a ``query`` for it or an ``answer`` to it.
        triplet: Whether to write a negative too.
        hard_negative: Whether the negative should be easy to take for a positive.
        context: What the texts are about; empty for nothing in particular.

    Example:
        >>> from asyncdistil.steps.tasks import GenerateSentencePair
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> reply = '''## Positive
        ... A cat sleeps.
        ... ## Negative
        ... A car sleeps.'''
        >>> task = GenerateSentencePair(
        ...     llm=FakeLLM(reply=reply), action="paraphrase", triplet=True
        ... )
        >>> task.load()
        >>> row = next(task.process([{"anchor": "The cat is asleep."}]))[0]
        >>> row["positive"], row["negative"]
        ('A cat sleeps.', 'A car sleeps.')
    """

    version: ClassVar[int | None] = 1
    prompt_files: ClassVar[tuple[str, ...]] = (
        "sentence-pair.jinja2",
        "sentence-pair-system.jinja2",
    )

    action: GenerationAction
    triplet: bool = False
    hard_negative: bool = False
    context: str = ""

    _can_be_used_with_offline_batch_generation: bool = PrivateAttr(default=True)

    @property
    def inputs(self) -> StepColumns:
        """``anchor``."""
        return ["anchor"]

    @property
    def outputs(self) -> StepColumns:
        """``positive``, perhaps ``negative``, and ``model_name``."""
        return [*self._keys, "model_name"]

    @property
    def _keys(self) -> list[str]:
        return ["positive", "negative"] if self.triplet else ["positive"]

    def format_input(self, input: dict[str, Any]) -> ChatType:
        """What to write, and the anchor."""
        system = prompts.render(
            "sentence-pair-system.jinja2",
            action=_ACTIONS[self.action],
            negative=_HARD_NEGATIVE if self.hard_negative else _NEGATIVE,
            triplet=self.triplet,
            context=self.context,
            structured=self.structured,
        )
        user = prompts.render("sentence-pair.jinja2", anchor=input["anchor"], context=self.context)
        return [{"role": "system", "content": system}, {"role": "user", "content": user}]

    def format_output(
        self, output: str | None, input: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The texts under their headings.

        Raises:
            ModelReplyError: One that was asked for is missing.
        """
        if output is None:
            return dict.fromkeys(self._keys)
        if self.structured:
            held = replies.read_object(output, *self._keys)
            return {key: held[key] for key in self._keys}
        parts = replies.headed(output, ["positive", "negative"])
        if missing := [key for key in self._keys if not parts.get(key)]:
            raise ModelReplyError(f"no {missing[0]} in the reply: {replies.shown(output)}")
        return {key: parts[key] for key in self._keys}

    def get_structured_output(self) -> dict[str, Any]:
        """The texts under their names."""
        return {
            "title": "SentencePair",
            "type": "object",
            "properties": {key: {"type": "string"} for key in self._keys},
            "required": self._keys,
        }
