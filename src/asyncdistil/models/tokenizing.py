"""Chat templates of models on the Hugging Face hub, for services that complete raw text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asyncdistil.models.magpie import MagpieChatTemplate
from asyncdistil.models.sdk import require


def load_tokenizer(name: str, *, revision: str | None = None, needed_by: str, **kwargs: Any) -> Any:
    """Load a tokenizer by hub id or directory; needs no weights.

    Raises:
        ParameterError: transformers is not installed.
    """
    transformers = require("transformers", extra="transformers", needed_by=needed_by)
    if revision is not None:
        kwargs["revision"] = revision
    return transformers.AutoTokenizer.from_pretrained(name, **kwargs)


class TemplateAlone:
    """A chat template that needs nothing of its tokenizer: writes prompts without a download."""

    def __init__(self, template: str) -> None:
        """Compile the template, in the sandbox that transformers would use.

        Raises:
            jinja2.TemplateError: It is no Jinja template.
        """
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        self._template = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True
        ).from_string(template)

    @staticmethod
    def suffices(template: str | None) -> bool:
        """Whether a template asks for the conversation only, and for no special tokens."""
        if template is None:
            return False
        from jinja2 import Environment, TemplateError, meta

        try:
            asked = meta.find_undeclared_variables(Environment(autoescape=True).parse(template))
        except TemplateError:
            return False  # loading the tokenizer will say what is wrong
        return asked <= {"messages", "add_generation_prompt"}

    def apply_chat_template(
        self, turns: Sequence[Any], *, add_generation_prompt: bool, **other: Any
    ) -> str:
        """Write a conversation, as a tokenizer's method of this name does."""
        return self._template.render(messages=turns, add_generation_prompt=add_generation_prompt)


def as_prompt(
    tokenizer: Any,
    messages: Sequence[Any] | str,
    magpie: MagpieChatTemplate,
    *,
    chat_template: str | None = None,
) -> str:
    """Write a conversation as the text that the model was trained on.

    Args:
        tokenizer: Of the model.
        messages: The conversation; text is taken as it is.
        magpie: Says whether the head of a user's turn follows.
        chat_template: Replaces the tokenizer's own.
    """
    if isinstance(messages, str):
        return messages
    prompt = ""
    turns: list[Any] = list(messages)
    if turns:
        prompt = tokenizer.apply_chat_template(
            turns,
            chat_template=chat_template,
            tokenize=False,
            # The model answers if a user spoke last; else Magpie has it write the user's turn.
            add_generation_prompt=turns[-1]["role"] == "user",
        )
    return magpie.apply_magpie_pre_query_template(prompt, messages)
