"""Making an instruction-tuned model write the user's turn, by stopping its template short.

Source: Xu et al. 2024, "Magpie: Alignment Data Synthesis from Scratch by Prompting Aligned LLMs
with Nothing", arXiv 2406.08464.
"""

from collections.abc import Sequence
from typing import Any, Self

from pydantic import BaseModel, field_validator, model_validator

PRE_QUERY_TEMPLATES: dict[str, str] = {
    "llama3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n",
    "qwen2": "<|im_start|>user\n",
}
"""What stands before a user's message in the templates of some models, by name."""


class MagpieChatTemplate(BaseModel):
    """Fields of a model that can be prompted with nothing but the head of a user's turn.

    Attributes:
        use_magpie_template: Whether prompts that don't end with a user's message end with the
            head of one, so that the model writes it.
        magpie_pre_query_template: That head; ``llama3`` and ``qwen2`` stand for theirs.
    """

    use_magpie_template: bool = False
    magpie_pre_query_template: str | None = None

    @field_validator("magpie_pre_query_template")
    @classmethod
    def _resolve_name(cls, value: str | None) -> str | None:
        return PRE_QUERY_TEMPLATES.get(value, value) if value is not None else None

    @model_validator(mode="after")
    def _need_template(self) -> Self:
        if self.use_magpie_template and self.magpie_pre_query_template is None:
            raise ValueError(
                "use_magpie_template=True needs `magpie_pre_query_template`: the text before a"
                f" user's message, or one of {sorted(PRE_QUERY_TEMPLATES)}"
            )
        return self

    def apply_magpie_pre_query_template(self, prompt: str, input: Sequence[Any]) -> str:
        """Add the head of a user's turn, unless the conversation ends with one.

        Args:
            prompt: The conversation as text, by the model's chat template.
            input: The conversation.
        """
        ends_with_user = bool(input) and input[-1]["role"] == "user"
        if not self.use_magpie_template or ends_with_user:
            return prompt
        return prompt + (self.magpie_pre_query_template or "")
