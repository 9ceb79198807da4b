"""Classification of texts, with given labels or free ones."""

from typing import Any, ClassVar

from pydantic import Field, PositiveInt, PrivateAttr

from asyncdistil.errors import ModelReplyError
from asyncdistil.models.typing import ChatType
from asyncdistil.steps.tasks import prompts, replies
from asyncdistil.steps.tasks.base import Task
from asyncdistil.typing import StepColumns

_SYSTEM = (
    "You are a system that classifies texts. You read the text with care and answer with nothing "
    "but the labels that fit it."
)


class TextClassification(Task):
    """Give texts the labels that fit them best.

    Inputs: ``text``. Outputs: ``labels``, a text if ``n`` is 1, otherwise a list of ``n`` texts;
    ``model_name``.

    Attributes:
        n: Labels per text, at least 1.
        available_labels: Labels to choose from, as a list or as a dict with what each means;
            ``None`` lets the model make up its own. The reply is matched with them regardless of
            case; one that is none of them fails the row.
        context: What the labels are for.
        examples: Examples for the model to go by, such as ``"text: label"``.
        default_label: Label for texts that say too little to tell; ``None`` for none.
        query_title: Heading of the text in the prompt.
        system_prompt: System message; ``None`` for none.
        use_default_structured_output: On by default; a model that can't be held to a schema is
            asked for JSON in words.

    Example:
        >>> from asyncdistil.steps.tasks import TextClassification
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> task = TextClassification(
        ...     llm=FakeLLM(reply='{"labels": "spam"}'), available_labels=["spam", "ham"]
        ... )
        >>> task.load()
        >>> next(task.process([{"text": "Win a car!"}]))[0]["labels"]
        'spam'

    Source: on labels as JSON, Tam et al., Let Me Speak Freely? A Study on the Impact of Format
    Restrictions on Performance of Large Language Models, https://arxiv.org/abs/2408.02442
    """

    version: ClassVar[int | None] = 2  # 2: the schema names the available labels
    prompt_files: ClassVar[tuple[str, ...]] = ("text-classification.jinja2",)

    system_prompt: str | None = _SYSTEM
    n: PositiveInt = Field(default=1, description="Labels per text.")
    context: str | None = Field(
        default="Choose short labels that name its main themes, topics or categories.",
        description="What the labels are for.",
    )
    examples: list[str] | None = Field(default=None, description="Examples to go by.")
    available_labels: list[str] | dict[str, str] | None = Field(
        default=None, description="Labels to choose from, perhaps with what each means."
    )
    default_label: str | list[str] | None = Field(
        default="Unclassified", description="Label for texts that say too little to tell."
    )
    query_title: str = Field(default="User Query", description="Heading of the text in the prompt.")
    use_default_structured_output: bool = True

    _can_be_used_with_offline_batch_generation: bool = PrivateAttr(default=True)

    @property
    def inputs(self) -> StepColumns:
        """``text``."""
        return ["text"]

    @property
    def outputs(self) -> StepColumns:
        """``labels`` and ``model_name``."""
        return ["labels", "model_name"]

    def format_input(self, input: dict[str, Any]) -> ChatType:
        """The labels, the examples and the text."""
        user = prompts.render(
            "text-classification.jinja2",
            n=self.n,
            context=self.context,
            labels=self.available_labels,
            examples=self.examples,
            default_label=self.default_label,
            query_title=self.query_title,
            text=input["text"],
        )
        messages: ChatType = [{"role": "user", "content": user}]
        if self.system_prompt:
            messages.insert(0, {"role": "system", "content": self.system_prompt})
        return messages

    def format_output(
        self, output: str | None, input: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The labels.

        Raises:
            ModelReplyError: There are none, or one is none of the available ones.
        """
        if output is None:
            return {"labels": [None] * self.n if self.n > 1 else None}
        labels = replies.read_object(output, "labels")["labels"]
        given = labels if isinstance(labels, list) else [labels]
        if not given or not all(isinstance(label, str) and label for label in given):
            raise ModelReplyError(f"no labels in the reply: {replies.shown(output)}")
        known = [self._known(label, output) for label in given]
        return {"labels": known[: self.n] if self.n > 1 else known[0]}

    @property
    def _allowed(self) -> list[str]:
        """The available labels and the default ones; empty if the model may make up its own."""
        if self.available_labels is None:
            return []
        default = (
            self.default_label if isinstance(self.default_label, list) else [self.default_label]
        )
        return [name for name in (*self.available_labels, *default) if name is not None]

    def _known(self, label: str, output: str) -> str:
        if not self._allowed:
            return label
        names = {name.casefold(): name for name in self._allowed}
        if label.strip().casefold() not in names:
            raise ModelReplyError(
                f"label {label!r} is none of {list(names.values())}: {replies.shown(output)}"
            )
        known: str = names[label.strip().casefold()]
        return known

    def get_structured_output(self) -> dict[str, Any]:
        """One label, or a list of them."""
        label: dict[str, Any] = {"type": "string"}
        if self._allowed:
            label["enum"] = list(dict.fromkeys(self._allowed))
        several = {"type": "array", "items": label}
        return {
            "title": "Labels",
            "type": "object",
            "properties": {"labels": several if self.n > 1 else label},
            "required": ["labels"],
        }
