"""Several models that answer, and one that makes one answer of theirs."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from pydantic import Field, PositiveInt

from asyncdistil.mixins.runtime_parameters import RuntimeParameterNames
from asyncdistil.models.llms.base import LLM, AsyncLLM
from asyncdistil.models.output import failed_output
from asyncdistil.models.structured import split_input
from asyncdistil.models.typing import ChatItem, FormattedInput, GenerateOutput

AGGREGATION_PROMPT = """\
You are given answers of several models to the same request. Write one answer to it, as good \
as you can make it. Judge what they say: parts may be biased or wrong. Do not copy them; correct, \
complete and reorder them, so that the result is accurate, well structured and reliable.

The answers:"""


class MixtureOfAgentsLLM(AsyncLLM):
    """Proposers answer, in one round or several, then an aggregator makes one answer of theirs.

    Attributes:
        aggregator_llm: Writes the final answer.
        proposers_llms: Answer each for themselves; from the second round on they see what all
            answered in the round before.
        rounds: Rounds of proposals.

    Source: Wang et al. 2024, "Mixture-of-Agents Enhances Large Language Model Capabilities", arXiv
    2406.04692.
    """

    aggregator_llm: LLM
    proposers_llms: list[AsyncLLM] = Field(default_factory=list, min_length=1)
    rounds: PositiveInt = 1

    @property
    def model_name(self) -> str:
        """``moa`` and the names of all models in it, the aggregator's first."""
        models = [self.aggregator_llm, *self.proposers_llms]
        return "-".join(["moa", *(llm.model_name for llm in models)])

    @property
    def concurrency(self) -> int:
        """As many as its least concurrent model takes; 0 if the aggregator takes batches."""
        return min(llm.concurrency for llm in [self.aggregator_llm, *self.proposers_llms])

    @property
    def runtime_parameters_names(self) -> RuntimeParameterNames:
        """Those of the models in it; it has no generation parameters of its own."""
        names = super().runtime_parameters_names
        names.pop("generation_kwargs", None)
        return names

    def load(self) -> None:
        """Load all models in it."""
        super().load()
        for llm in [*self.proposers_llms, self.aggregator_llm]:
            llm.load()

    def unload(self) -> None:
        """Unload all models in it."""
        for llm in [*self.proposers_llms, self.aggregator_llm]:
            llm.unload()
        super().unload()

    def get_generation_kwargs(self) -> dict[str, Any]:
        """Each model in it uses its own."""
        return {}

    async def agenerate(
        self, input: FormattedInput, num_generations: int = 1, **kwargs: Any
    ) -> GenerateOutput:
        """Answer one input; fails only if no proposer answered, or the aggregator fails."""
        messages, structure = split_input(input, None)
        conversation: list[ChatItem] = (
            [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        )
        proposals: list[str] = []
        for _ in range(self.rounds):
            outputs = await self._propose(_with_answers(conversation, proposals))
            answers = [text for output in outputs for text in output["generations"] if text]
            if not answers:
                return _all_failed(outputs, num_generations)
            proposals = answers
        question: Any = _with_answers(conversation, proposals)
        if structure is not None:
            question = (question, structure)
        llm = self.aggregator_llm
        [output] = await llm.agenerate_outputs(
            [question], num_generations, **llm.get_generation_kwargs()
        )
        return output

    async def _propose(self, conversation: list[ChatItem]) -> list[GenerateOutput]:
        outputs = await asyncio.gather(
            *(
                llm.agenerate_outputs([conversation], 1, **llm.get_generation_kwargs())
                for llm in self.proposers_llms
            )
        )
        return [output for [output] in outputs]


def _with_answers(conversation: list[ChatItem], answers: Sequence[str]) -> list[ChatItem]:
    """The conversation, its system prompt extended by the answers so far."""
    if not answers:
        return conversation
    listed = "\n".join(f"{number}. {text}" for number, text in enumerate(answers, 1))
    prompt = f"{AGGREGATION_PROMPT}\n{listed}"
    if conversation and conversation[0]["role"] == "system":
        own = cast(str, conversation[0]["content"])
        return [{"role": "system", "content": f"{own}\n\n{prompt}"}, *conversation[1:]]
    return [{"role": "system", "content": prompt}, *conversation]


def _all_failed(outputs: Sequence[GenerateOutput], num_generations: int) -> GenerateOutput:
    reasons = [failure for output in outputs for failure in output.get("failures", ()) if failure]
    if not reasons:
        return {"generations": [None] * num_generations, "statistics": {}}
    return failed_output(reasons[0], num_generations)
