"""`RewardModelScore`: conversations scored by a reward model."""

import os
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from pydantic import Field, PrivateAttr, SecretStr

from asyncdistil.batch import Row
from asyncdistil.errors import DataError
from asyncdistil.models.cuda import CudaDevices
from asyncdistil.models.output import FATAL
from asyncdistil.models.sdk import require
from asyncdistil.models.typing import ChatType
from asyncdistil.steps.rows import Entries
from asyncdistil.steps.step import Step, flat
from asyncdistil.typing import StepColumns, StepInput, StepOutput


class RewardModelScore(CudaDevices, Step):
    """Score conversations with a reward model that runs in this process.

    It needs transformers and torch (extra ``transformers``). A row that fails fails alone.

    Inputs: ``conversation``, a list of messages; or ``instruction`` and ``response``. Outputs:
    ``score``, a float; a list of floats if the model has several heads.

    Attributes:
        model: Hub id or directory of a model for the classification of sequences.
        revision: Branch, tag or commit.
        torch_dtype: Of the weights; ``auto`` takes theirs.
        trust_remote_code: Whether code from the model's repository may run.
        device_map: How to spread the weights; with ``cuda`` and ``auto`` a GPU is claimed.
        token: Hub token; from ``HF_TOKEN`` unless given.
        truncation: Whether conversations that are too long are cut.
        max_length: Tokens from which on they are.

    Example:
        >>> from asyncdistil.steps import RewardModelScore
        >>> RewardModelScore(model="RLHFlow/ArmoRM-Llama3-8B-v0.1").outputs
        ['score']

    Source: Lambert et al., RewardBench: Evaluating Reward Models for Language Modeling,
    https://arxiv.org/abs/2403.13787
    """

    version: ClassVar[int | None] = 1
    signature_ignore: ClassVar[set[str]] = {"cuda_devices", "disable_cuda_device_placement"}

    row_wise: bool = True
    model: str
    revision: str = "main"
    torch_dtype: str = "auto"
    trust_remote_code: bool = False
    device_map: str | dict[str, Any] | None = None
    token: SecretStr | None = Field(default=None)
    truncation: bool = False
    max_length: int | None = None

    _model: Any = PrivateAttr(default=None)
    _tokenizer: Any = PrivateAttr(default=None)

    def load(self) -> None:
        """Load weights and tokenizer.

        Raises:
            ParameterError: transformers is not installed.
        """
        super().load()
        if self.device_map in ("cuda", "auto"):
            self.place_on_devices()
        package: Any = require("transformers", extra="transformers", needed_by="RewardModelScore")
        shared = {
            "revision": self.revision,
            "trust_remote_code": self.trust_remote_code,
            "token": self.token.get_secret_value() if self.token else os.environ.get("HF_TOKEN"),
        }
        self._model = package.AutoModelForSequenceClassification.from_pretrained(
            self.model, torch_dtype=self.torch_dtype, device_map=self.device_map, **shared
        )
        self._tokenizer = package.AutoTokenizer.from_pretrained(self.model, **shared)

    def unload(self) -> None:
        """Forget the weights and give the GPU back."""
        self._model = self._tokenizer = None
        self.give_up_devices()
        super().unload()

    @property
    def inputs(self) -> StepColumns:
        """``conversation``, or ``instruction`` and ``response``."""
        return {"response": False, "instruction": False, "conversation": False}

    @property
    def outputs(self) -> StepColumns:
        """``score``."""
        return ["score"]

    def process(self, inputs: StepInput) -> StepOutput:
        """Yield the rows, once."""
        yield flat(self._scored(inputs))

    def entries(self, *ports: list[Row]) -> Iterator[Entries]:
        """One entry per row."""
        (rows,) = ports
        yield self._scored(rows)

    def conversation(self, row: Row) -> ChatType:
        """Return what is scored of a row.

        Raises:
            DataError: It has no such columns.
        """
        if "instruction" in row and "response" in row:
            return [
                {"role": "user", "content": row["instruction"]},
                {"role": "assistant", "content": row["response"]},
            ]
        if row.get("conversation"):
            messages: ChatType = row["conversation"]
            return messages
        raise DataError(
            f"step {self.name!r} needs a column 'conversation', or 'instruction' and 'response'"
        )

    def _scored(self, rows: Sequence[Row]) -> Entries:
        try:
            scores = self._scores([self.conversation(row) for row in rows])
        except FATAL:
            raise
        except Exception as error:
            if len(rows) == 1:
                return [self.failed_row(rows[0], error)]
            # Alone, so that the row at fault fails alone.
            return [self._scored([row])[0] for row in rows]
        return [{**row, "score": score} for row, score in zip(rows, scores, strict=True)]

    def _scores(self, conversations: list[ChatType]) -> list[Any]:
        torch: Any = require("torch", extra="transformers", needed_by="RewardModelScore")
        encoded = self._tokenizer.apply_chat_template(
            conversations,
            return_tensors="pt",
            return_dict=True,
            padding=True,
            truncation=self.truncation,
            max_length=self.max_length,
        ).to(self._model.device)
        with torch.no_grad():
            # With the mask, so that what pads a short conversation is not scored.
            logits = self._model(**encoded).logits
        if logits.shape[-1] == 1:
            logits = logits.squeeze(-1)
        scores: list[Any] = logits.float().tolist()
        return scores
