"""Models run in this process by transformers."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import Field, PrivateAttr, SecretStr, model_validator

from asyncdistil.errors import ParameterError
from asyncdistil.models.cuda import CudaDevices
from asyncdistil.models.llms.local import Completed, LocalLLM
from asyncdistil.models.magpie import MagpieChatTemplate
from asyncdistil.models.sdk import require
from asyncdistil.models.structured import Structure
from asyncdistil.models.tokenizing import as_prompt, load_tokenizer
from asyncdistil.models.typing import FormattedInput, GenerateOutput, HiddenState, StandardInput


class TransformersLLM(LocalLLM, MagpieChatTemplate, CudaDevices):
    """A causal language model run by transformers.

    Attributes:
        model: Hub id or directory.
        revision: Branch, tag or commit.
        torch_dtype: Of the weights; ``auto`` takes theirs.
        trust_remote_code: Whether code from the model's repository may run.
        model_kwargs: Further arguments for loading the weights.
        tokenizer: Hub id or directory; the model's unless given.
        use_fast: Whether to prefer the fast tokenizer.
        chat_template: Replaces the tokenizer's own.
        device: Where to run, if ``device_map`` does not say.
        device_map: How to spread the weights.
        token: Hub token; from ``HF_TOKEN`` unless given.
    """

    model: str
    revision: str = "main"
    torch_dtype: str = "auto"
    trust_remote_code: bool = False
    model_kwargs: dict[str, Any] | None = None
    tokenizer: str | None = None
    use_fast: bool = True
    chat_template: str | None = None
    device: str | int | None = None
    device_map: str | dict[str, Any] | None = None
    token: SecretStr | None = Field(default=None)

    _model: Any = PrivateAttr(None)
    _tokenizer: Any = PrivateAttr(None)

    @model_validator(mode="after")
    def _no_constraints(self) -> Self:
        if self.structured_output is not None:
            raise ValueError(
                "TransformersLLM can't be held to a structure while it writes: leave"
                " `structured_output` off, or use vLLM"
            )
        return self

    @property
    def model_name(self) -> str:
        """Hub id or directory."""
        return self.model

    def _token(self) -> str | None:
        if self.token is not None:
            return self.token.get_secret_value()
        return os.environ.get("HF_TOKEN")

    def prepare(self) -> None:
        """Load the tokenizer."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(
                self.tokenizer or self.model,
                revision=self.revision if self.tokenizer is None else None,
                needed_by="TransformersLLM",
                use_fast=self.use_fast,
                trust_remote_code=self.trust_remote_code,
                token=self._token(),
                padding_side="left",
            )
            if self._tokenizer.pad_token is None:
                self._tokenizer.pad_token = self._tokenizer.eos_token

    def _load_weights(self) -> None:
        self.place_on_devices()
        transformers: Any = require("transformers", extra="transformers", needed_by=self.model)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            self.model,
            revision=self.revision,
            dtype=self.torch_dtype,
            trust_remote_code=self.trust_remote_code,
            device_map=self.device_map,
            token=self._token(),
            **(self.model_kwargs or {}),
        )
        if self.device_map is None:
            self._model.to(self._device())
        self._model.eval()

    def _device(self) -> Any:
        torch: Any = require("torch", extra="transformers", needed_by="TransformersLLM")
        if self.device is not None:
            return self.device if self.device != -1 else "cpu"
        return "cuda" if torch.cuda.is_available() else "cpu"

    def unload(self) -> None:
        """Forget weights and tokenizer, and give the GPU back."""
        self._model = self._tokenizer = None
        self.give_up_devices()
        super().unload()

    def _weights_identity(self) -> dict[str, Any]:
        names = ("model", "revision", "torch_dtype", "tokenizer", "use_fast", "chat_template")
        own = self.chat_template or getattr(self._tokenizer, "chat_template", None)
        return {
            **{name: getattr(self, name) for name in names},
            "model_kwargs": {k: str(v) for k, v in (self.model_kwargs or {}).items()},
            "template": own,
            "magpie": self.magpie_pre_query_template if self.use_magpie_template else None,
        }

    def generate(
        self,
        inputs: list[FormattedInput],
        num_generations: int = 1,
        max_new_tokens: int = 128,
        temperature: float = 0.1,
        repetition_penalty: float = 1.1,
        top_p: float = 1.0,
        top_k: int = 0,
        do_sample: bool = True,
    ) -> list[GenerateOutput]:
        """Answer a batch.

        Args:
            inputs: Conversations.
            num_generations: Answers wanted per input.
            max_new_tokens: Longest answer, in tokens.
            temperature: Above 0, with ``do_sample``.
            repetition_penalty: Above 1 discourages.
            top_p: 0 to 1.
            top_k: 0 for all.
            do_sample: Off: the likeliest token every time; equal requests then share an answer.
        """
        sampled = do_sample and temperature > 0
        settings: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "repetition_penalty": repetition_penalty,
            "do_sample": sampled,
        }
        if sampled:
            settings |= {"temperature": temperature, "top_p": top_p, "top_k": top_k}
        return self._answer(inputs, num_generations, settings, deterministic=not sampled)

    def _encoded(self, prompts: Sequence[StandardInput | str]) -> Any:
        texts = [
            as_prompt(self._tokenizer, prompt, self, chat_template=self.chat_template)
            for prompt in prompts
        ]
        # The template has written the special tokens already.
        encoded = self._tokenizer(
            texts, return_tensors="pt", padding=True, add_special_tokens=False
        )
        encoded.pop("token_type_ids", None)
        return encoded.to(self._model.device)

    def _complete(
        self,
        prompts: Sequence[StandardInput | str],
        count: int,
        settings: Mapping[str, Any],
        structure: Structure | None,
    ) -> list[list[Completed]]:
        if structure is not None:
            raise ParameterError("TransformersLLM can't be held to a structure while it writes")
        torch: Any = require("torch", extra="transformers", needed_by="TransformersLLM")
        encoded = self._encoded(prompts)
        several = dict(settings)
        # Without sampling all answers to a prompt are equal: one is made and copied.
        made = count if settings["do_sample"] else 1
        with torch.inference_mode():
            written = self._model.generate(
                **encoded,
                num_return_sequences=made,
                pad_token_id=self._tokenizer.pad_token_id,
                **several,
            )
        start = encoded["input_ids"].shape[1]
        prompt_tokens = encoded["attention_mask"].sum(dim=1).tolist()
        answers: list[list[Completed]] = []
        for row, tokens in enumerate(prompt_tokens):
            rows = written[row * made : (row + 1) * made, start:]
            completed = [self._completed(ids, tokens, settings) for ids in rows.tolist()]
            answers.append(completed * (count // made))
        return answers

    def _completed(
        self, ids: list[int], prompt_tokens: int, settings: Mapping[str, Any]
    ) -> Completed:
        ends = self._model.generation_config.eos_token_id
        stops = set(ends if isinstance(ends, list) else [ends])
        length = next((i + 1 for i, token in enumerate(ids) if token in stops), len(ids))
        truncated = length >= settings["max_new_tokens"] and ids[length - 1] not in stops
        text = self._tokenizer.decode(ids[:length], skip_special_tokens=True)
        return Completed(text, prompt_tokens, length, truncated)

    def get_last_hidden_states(self, inputs: list[StandardInput]) -> list[HiddenState]:
        """Hidden states of the last layer: per input an array of tokens by width."""
        torch: Any = require("torch", extra="transformers", needed_by="TransformersLLM")
        self.ensure_weights()
        encoded = self._encoded(inputs)
        with torch.inference_mode():
            states = self._model(**encoded, output_hidden_states=True).hidden_states[-1]
        counts = encoded["attention_mask"].sum(dim=1).tolist()
        return [
            row[-count:].float().cpu().numpy()  # padded on the left
            for row, count in zip(states, counts, strict=True)
        ]
