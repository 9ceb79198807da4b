"""Pipelines that are ready to run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncdistil.distiset import Distiset
    from asyncdistil.models import LLM

# A package in distilabel: its modules are found below this one by name only.
__path__: list[str] = []

_MODEL = "meta-llama/Meta-Llama-3.1-8B-Instruct"


class InstructionResponsePipeline:
    """Have a model make up instructions and answer them, by Magpie.

    Args:
        llm: The model; it must take a Magpie template. Without one, Llama 3.1 8B at the inference
            endpoints of Hugging Face.
        system_prompt: What the model is told to be.
        hf_token: Key for the endpoints, if ``llm`` is not given.
        n_turns: Turns of each conversation.
        num_rows: Rows to make.
        batch_size: Rows made at a time.

    Source: Xu et al., Magpie: Alignment Data Synthesis from Scratch by Prompting Aligned LLMs with
    Nothing, https://arxiv.org/abs/2406.08464
    """

    def __init__(
        self,
        llm: LLM | None = None,
        system_prompt: str = "You are a creative AI Assistant writer.",
        hf_token: str | None = None,
        n_turns: int = 1,
        num_rows: int = 10,
        batch_size: int = 1,
    ) -> None:
        from asyncdistil.pipeline.pipeline import Pipeline
        from asyncdistil.steps.tasks import MagpieGenerator

        self.llm = llm if llm is not None else _usual_model(hf_token)
        with Pipeline("sft") as self.pipeline:
            MagpieGenerator(
                llm=self.llm,
                n_turns=n_turns,
                num_rows=num_rows,
                batch_size=batch_size,
                system_prompt=system_prompt,
            )

    def run(self, **options: Any) -> Distiset:
        """Run it; arguments are those of `Pipeline.run`."""
        return self.pipeline.run(**options)


def _usual_model(hf_token: str | None) -> LLM:
    from asyncdistil.models import InferenceEndpointsLLM

    return InferenceEndpointsLLM(
        model_id=_MODEL,
        tokenizer_id=_MODEL,
        use_magpie_template=True,
        magpie_pre_query_template="llama3",
        generation_kwargs={
            "temperature": 0.9,
            "do_sample": True,
            "max_new_tokens": 2048,
            "stop_sequences": ["<|eot_id|>", "<|start_header_id|>", "assistant", " \n\n"],
        },
        # No key rather than None: then the environment is asked.
        **({} if hf_token is None else {"api_key": hf_token}),
    )
