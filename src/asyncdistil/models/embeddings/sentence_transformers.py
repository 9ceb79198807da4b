"""Embedding models run in this process by sentence-transformers."""

from typing import Any, Literal

from pydantic import Field, PrivateAttr, SecretStr

from asyncdistil.batch import Usage
from asyncdistil.models import memoized
from asyncdistil.models.cuda import CudaDevices
from asyncdistil.models.embeddings.base import Embeddings
from asyncdistil.models.embeddings.stored import Lookup, StoredVectors
from asyncdistil.models.memoized import Memoized
from asyncdistil.models.parameters import Setting
from asyncdistil.models.sdk import require

_OPTIONAL = (
    "prompts",
    "default_prompt_name",
    "revision",
    "truncate_dim",
    "model_kwargs",
    "tokenizer_kwargs",
    "config_kwargs",
)


class SentenceTransformerEmbeddings(Embeddings, CudaDevices):
    """A model of the sentence-transformers kind.

    A text that was embedded before by the same model is found in the memo.

    Attributes:
        model: Hub id or directory.
        device: Where to run; the best there is unless given.
        prompts: Name to prompt, for models that want one.
        default_prompt_name: Which of them to put before every text.
        trust_remote_code: Whether code from the model's repository may run.
        revision: Branch, tag or commit.
        token: Hub token.
        truncate_dim: Length to cut vectors to.
        model_kwargs: Further arguments for the weights.
        tokenizer_kwargs: Further arguments for the tokenizer.
        config_kwargs: Further arguments for the configuration.
        precision: Of the vectors.
        normalize_embeddings: Whether vectors have length 1.
    """

    model: str
    device: Setting[str] | None = Field(default=None, description="Where to run.")
    prompts: dict[str, str] | None = None
    default_prompt_name: str | None = None
    trust_remote_code: bool = False
    revision: str | None = None
    token: SecretStr | None = None
    truncate_dim: int | None = None
    model_kwargs: dict[str, Any] | None = None
    tokenizer_kwargs: dict[str, Any] | None = None
    config_kwargs: dict[str, Any] | None = None
    precision: Literal["float32", "int8", "uint8", "binary", "ubinary"] | None = "float32"
    normalize_embeddings: Setting[bool] = Field(
        default=True, description="Whether vectors have length 1."
    )

    _model: Any = PrivateAttr(None)
    _memoized: Memoized = PrivateAttr(default_factory=Memoized)

    @property
    def model_name(self) -> str:
        """Hub id or directory."""
        return self.model

    def _load_weights(self) -> None:
        self.place_on_devices()
        package: Any = require(
            "sentence_transformers",
            extra="transformers",
            needed_by="SentenceTransformerEmbeddings",
        )
        # Left out where not set: newer versions rename some of them.
        given = {name: value for name in _OPTIONAL if (value := getattr(self, name)) is not None}
        self._model = package.SentenceTransformer(
            self.model,
            device=self.device,
            trust_remote_code=self.trust_remote_code,
            token=None if self.token is None else self.token.get_secret_value(),
            **given,
        )

    def unload(self) -> None:
        """Forget the weights and give the GPU back."""
        self._model = None
        self.give_up_devices()
        super().unload()

    def _request_identity(self) -> dict[str, Any]:
        # Arguments of other libraries can be of any type.
        free = {
            name: {key: str(value) for key, value in (getattr(self, name) or {}).items()}
            for name in ("model_kwargs", "tokenizer_kwargs", "config_kwargs")
        }
        return {**self.identity_fields(), **free}

    def stored_only(self) -> StoredVectors:
        """What gives the vectors that are in the memo, and loads nothing."""
        return StoredVectors(self.model, self._look_up)

    def _look_up(self, inputs: list[str]) -> Lookup:
        return Lookup(inputs, self._request_identity(), model=self.model, memoized=self._memoized)

    def encode(self, inputs: list[str]) -> list[list[float]]:
        """One vector per text, in order; the weights are loaded when one is not stored."""
        wanted = self._look_up(inputs)
        missing = wanted.missing
        if missing:
            if self._model is None:
                self._load_weights()
            vectors = self._model.encode(
                missing,
                batch_size=len(missing),
                convert_to_numpy=True,
                precision=self.precision,
                normalize_embeddings=self.normalize_embeddings,
                show_progress_bar=False,
            )
            usage = Usage(requests=1)
            memoized.book(usage)
            wanted.learn(missing, [vector.tolist() for vector in vectors], usage=usage)
        return wanted.vectors()
