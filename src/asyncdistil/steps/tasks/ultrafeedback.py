"""UltraFeedback: a model rates several texts written for one instruction."""

from typing import Any, ClassVar, Final, Literal

from pydantic import PrivateAttr

from asyncdistil.errors import ModelReplyError
from asyncdistil.models.typing import ChatType
from asyncdistil.steps.tasks import prompts, replies
from asyncdistil.steps.tasks.base import Task
from asyncdistil.typing import StepColumns

Aspect = Literal[
    "helpfulness", "honesty", "instruction-following", "truthfulness", "overall-rating"
]

_TYPED: Final = frozenset({"helpfulness", "truthfulness"})
_SCORED_COLUMNS: Final = ("ratings", "rationales")
_TYPED_COLUMNS: Final = ("types", "rationales", "ratings", "rationales-for-ratings")
_LABELS: Final = ("Type", "Rationale", "Rating")


class UltraFeedback(Task):
    """Rate texts from 1 to 5, under one aspect or overall.

    Inputs: ``instruction``; ``generations``, a list of texts. Outputs: ``ratings`` and
    ``rationales``, lists with one item per text; under the aspects ``helpfulness`` and
    ``truthfulness`` also ``types`` (1 to 3, the kind of help or of invention) and
    ``rationales-for-ratings``; ``model_name``. What the model did not say, or said to be not
    applicable, is ``None``.

    Attributes:
        aspect: What to judge; ``overall-rating`` weighs all of them.

    Example:
        >>> from asyncdistil.steps.tasks import UltraFeedback
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> reply = '''### Text 1
        ... Rating: 5
        ... Rationale: Right.
        ... ### Text 2
        ... Rating: 1
        ... Rationale: Wrong.'''
        >>> task = UltraFeedback(llm=FakeLLM(reply=reply))
        >>> task.load()
        >>> row = {"instruction": "2 + 2?", "generations": ["4", "5"]}
        >>> next(task.process([row]))[0]["ratings"]
        [5, 1]

    Source: Cui et al., UltraFeedback: Boosting Language Models with Scaled AI Feedback,
    https://arxiv.org/abs/2310.01377
    """

    version: ClassVar[int | None] = 1
    prompt_files: ClassVar[tuple[str, ...]] = (
        "ultrafeedback/_frame.jinja2",
        "ultrafeedback/system.jinja2",
        "ultrafeedback/helpfulness.jinja2",
        "ultrafeedback/honesty.jinja2",
        "ultrafeedback/instruction-following.jinja2",
        "ultrafeedback/overall-rating.jinja2",
        "ultrafeedback/truthfulness.jinja2",
    )

    aspect: Aspect = "overall-rating"

    _can_be_used_with_offline_batch_generation: bool = PrivateAttr(default=True)

    @property
    def inputs(self) -> StepColumns:
        """``instruction`` and ``generations``."""
        return ["instruction", "generations"]

    @property
    def outputs(self) -> StepColumns:
        """Ratings, rationales and, for some aspects, types; ``model_name``."""
        return [*self._columns, "model_name"]

    @property
    def _columns(self) -> tuple[str, ...]:
        return _TYPED_COLUMNS if self.aspect in _TYPED else _SCORED_COLUMNS

    @property
    def _keys(self) -> dict[str, str]:
        """Names in JSON by column: dashes are no part of names that may become attributes."""
        return {column: column.replace("-", "_") for column in self._columns}

    def format_input(self, input: dict[str, Any]) -> ChatType:
        """The criteria of the aspect and the texts."""
        generations = input["generations"]
        system = prompts.render("ultrafeedback/system.jinja2", count=len(generations))
        user = prompts.render(
            f"ultrafeedback/{self.aspect}.jinja2",
            instruction=input["instruction"],
            generations=generations,
            keys=list(self._keys.values()) if self.structured else [],
        )
        return [{"role": "system", "content": system}, {"role": "user", "content": user}]

    def format_output(
        self, output: str | None, input: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Lists with one item per text.

        Raises:
            ModelReplyError: The reply rates none of the texts.
        """
        count = len((input or {}).get("generations") or [])
        if output is None:
            return {column: [None] * count for column in self._columns}
        if self.structured:
            return self._from_json(output, count)
        judgements = read_judgements(output, count, typed=self.aspect in _TYPED)
        return {
            column: [judgement.get(column) for judgement in judgements] for column in self._columns
        }

    def _from_json(self, output: str, count: int) -> dict[str, Any]:
        held = replies.read_object(output, *self._keys.values())
        columns = {column: held[key] for column, key in self._keys.items()}
        for column, values in columns.items():
            if not isinstance(values, list) or len(values) != count:
                raise ModelReplyError(
                    f"{column!r} in the reply must be a list of {count}: {replies.shown(output)}"
                )
        return columns

    def get_structured_output(self) -> dict[str, Any]:
        """Lists with one item per text."""
        number = {"type": "integer"}
        items = {
            "types": {"anyOf": [number, {"type": "null"}]},
            "rationales": {"type": "string"},
            "ratings": number,
            "rationales_for_ratings": {"type": "string"},
        }
        keys = list(self._keys.values())
        return {
            "title": "UltraFeedback",
            "type": "object",
            "properties": {key: {"type": "array", "items": items[key]} for key in keys},
            "required": keys,
        }

    def _sample_input(self) -> ChatType:
        texts = [f"<PLACEHOLDER_GENERATION_{number}>" for number in range(2)]
        return self.format_input({"instruction": "<PLACEHOLDER_INSTRUCTION>", "generations": texts})


def read_judgements(reply: str, count: int, *, typed: bool) -> list[dict[str, Any]]:
    """Read what a reply says on each text.

    Texts are told apart by their headings; where there are none, by blank lines or by the label
    that each judgement begins with.

    Args:
        reply: Text as the model wrote it.
        count: Texts that were to be judged.
        typed: Whether a judgement begins with a type.

    Returns:
        One dict per text, empty where the reply says nothing.

    Raises:
        ModelReplyError: It says nothing on any of them.
    """
    parts: list[str | None] = replies.sections(reply, "text", count)
    if not any(parts):
        opening = "Type" if typed else "Rating"
        cut = _cut_before(reply, opening)[:count]
        parts = [*cut, *[None] * (count - len(cut))]
    judgements = [_judgement(part or "", typed=typed) for part in parts]
    if not any(judgements):
        raise ModelReplyError(f"no rating of any text in the reply: {replies.shown(reply)}")
    return judgements


def _cut_before(reply: str, label: str) -> list[str]:
    parts: list[str] = []
    for found, value in replies.labelled(reply, _LABELS):
        if found == label:
            parts.append("")
        if parts:
            parts[-1] += f"{found}: {value}\n"
    return parts


def _judgement(text: str, *, typed: bool) -> dict[str, Any]:
    judgement: dict[str, Any] = {}
    for label, value in replies.labelled(text, _LABELS):
        if label == "Rating":
            judgement.setdefault("ratings", replies.first_integer(value, 1, 5))
        elif label == "Type":
            judgement.setdefault("types", replies.first_integer(value, 1, 3))
        elif typed and "ratings" in judgement:
            judgement.setdefault("rationales-for-ratings", value)
        else:
            judgement.setdefault("rationales", value)
    return judgement if "ratings" in judgement else {}
