"""GGUF models run in this process by llama.cpp."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import Field, FilePath, PrivateAttr, model_validator

from asyncdistil.models.llms.local import Completed, LocalLLM
from asyncdistil.models.magpie import MagpieChatTemplate
from asyncdistil.models.parameters import Setting
from asyncdistil.models.sdk import require
from asyncdistil.models.structured import Structure
from asyncdistil.models.tokenizing import as_prompt, load_tokenizer
from asyncdistil.models.typing import FormattedInput, GenerateOutput, StandardInput

_SAMPLE_BYTES = 1 << 20


class LlamaCppLLM(LocalLLM, MagpieChatTemplate):
    """A GGUF model run by llama.cpp; one conversation at a time.

    Attributes:
        model_path: The file.
        n_gpu_layers: Layers to put on the GPU; -1 for all.
        chat_format: Name of a template; the file's own unless given.
        n_ctx: Context length in tokens.
        n_batch: Prompt tokens per step.
        seed: Of the sampling.
        verbose: Whether llama.cpp logs.
        extra_kwargs: Further arguments of ``llama_cpp.Llama``.
        tokenizer_id: Hub id or directory of the tokenizer; needed for Magpie only.
    """

    model_path: Setting[FilePath] = Field(description="The GGUF file.")
    n_gpu_layers: Setting[int] = Field(default=-1, description="Layers to put on the GPU.")
    chat_format: Setting[str] | None = Field(default=None, description="Name of a template.")
    n_ctx: int = 512
    n_batch: int = 512
    seed: int = 4294967295
    verbose: Setting[bool] = Field(default=False, description="Whether llama.cpp logs.")
    extra_kwargs: Setting[dict[str, Any]] | None = Field(
        default_factory=dict, description="Further arguments of `llama_cpp.Llama`."
    )
    tokenizer_id: Setting[str] | None = Field(
        default=None, description="Hub id or directory of the tokenizer, for Magpie."
    )

    _model: Any = PrivateAttr(None)
    _tokenizer: Any = PrivateAttr(None)
    _file_digest: str = PrivateAttr("")

    @model_validator(mode="after")
    def _need_tokenizer(self) -> Self:
        if self.use_magpie_template and not self.tokenizer_id:
            raise ValueError("use_magpie_template=True needs `tokenizer_id`")
        return self

    @property
    def model_name(self) -> str:
        """Name of the file."""
        return self.model_path.name

    def prepare(self) -> None:
        """Load the tokenizer, if Magpie needs it."""
        if self.use_magpie_template and self._tokenizer is None and self.tokenizer_id:
            self._tokenizer = load_tokenizer(self.tokenizer_id, needed_by="LlamaCppLLM with Magpie")

    def _load_weights(self) -> None:
        llama_cpp: Any = require("llama_cpp", extra="llamacpp", needed_by="LlamaCppLLM")
        self._model = llama_cpp.Llama(
            model_path=str(self.model_path),
            seed=self.seed,
            n_ctx=self.n_ctx,
            n_batch=self.n_batch,
            n_gpu_layers=self.n_gpu_layers,
            chat_format=self.chat_format,
            verbose=self.verbose,
            **(self.extra_kwargs or {}),
        )

    def unload(self) -> None:
        """Forget weights and tokenizer."""
        model, self._model, self._tokenizer = self._model, None, None
        if model is not None:
            model.close()
        super().unload()

    def identity_fields(self) -> dict[str, Any]:
        """As the base does; the file counts by its content, not by its place."""
        fields = super().identity_fields()
        fields["model_path"] = self._weights_digest()
        return fields

    def _weights_identity(self) -> dict[str, Any]:
        return {
            "weights": self._weights_digest(),
            "chat_format": self.chat_format,
            "n_ctx": self.n_ctx,
            "seed": self.seed,
            "extra": {k: str(v) for k, v in (self.extra_kwargs or {}).items()},
            "magpie": self.magpie_pre_query_template if self.use_magpie_template else None,
        }

    def _weights_digest(self) -> str:
        """Name of the file's content: its size, and parts at the start, in the middle and the end.

        Reading all of a file of many gigabytes would take longer than the first answers.
        """
        if not self._file_digest:
            size = self.model_path.stat().st_size
            digest = hashlib.blake2b(str(size).encode(), digest_size=16)
            with self.model_path.open("rb") as file:
                for at in sorted({0, max(0, size // 2), max(0, size - _SAMPLE_BYTES)}):
                    file.seek(at)
                    digest.update(file.read(_SAMPLE_BYTES))
            self._file_digest = digest.hexdigest()
        return self._file_digest

    def generate(
        self,
        inputs: list[FormattedInput],
        num_generations: int = 1,
        max_new_tokens: int = 128,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        extra_generation_kwargs: dict[str, Any] | None = None,
    ) -> list[GenerateOutput]:
        """Answer a batch.

        Args:
            inputs: Conversations, with or without the structure that their answers must have.
            num_generations: Answers wanted per input.
            max_new_tokens: Longest answer, in tokens.
            frequency_penalty: -2 to 2.
            presence_penalty: -2 to 2.
            temperature: At 0 equal requests share one answer.
            top_p: 0 to 1.
            extra_generation_kwargs: Further arguments of the completion.
        """
        settings = {
            "max_tokens": max_new_tokens,
            "frequency_penalty": frequency_penalty,
            "presence_penalty": presence_penalty,
            "temperature": temperature,
            "top_p": top_p,
            **(extra_generation_kwargs or {}),
        }
        return self._answer(inputs, num_generations, settings, deterministic=temperature == 0)

    def _complete(
        self,
        prompts: Sequence[StandardInput | str],
        count: int,
        settings: Mapping[str, Any],
        structure: Structure | None,
    ) -> list[list[Completed]]:
        return [[self._one(p, settings, structure) for _ in range(count)] for p in prompts]

    def _one(
        self,
        prompt: StandardInput | str,
        settings: Mapping[str, Any],
        structure: Structure | None,
    ) -> Completed:
        if isinstance(prompt, str) or self.use_magpie_template:
            text = as_prompt(self._tokenizer, prompt, self)
            reply = self._model.create_completion(prompt=text, **settings)
            answer = reply["choices"][0]["text"]
        else:
            wanted: dict[str, Any] = {}
            if structure is not None and structure.format == "json":
                schema = dict(structure.schema)
                wanted["response_format"] = {"type": "json_object", "schema": schema}
            reply = self._model.create_chat_completion(messages=prompt, **settings, **wanted)
            answer = reply["choices"][0]["message"]["content"]
        usage = reply["usage"]
        return Completed(
            answer or "",
            usage["prompt_tokens"],
            usage["completion_tokens"],
            reply["choices"][0]["finish_reason"] == "length",
        )
