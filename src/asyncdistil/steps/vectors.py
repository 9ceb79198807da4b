"""Steps that make embeddings and find the nearest of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, PrivateAttr

from asyncdistil.batch import Row
from asyncdistil.errors import DataError, ParameterError
from asyncdistil.mixins import RuntimeParameter
from asyncdistil.models.embeddings.base import Embeddings
from asyncdistil.models.sdk import require
from asyncdistil.steps.embedding import EmbeddingStep
from asyncdistil.steps.global_step import GlobalStep
from asyncdistil.steps.matrix import matrix_of
from asyncdistil.typing import StepColumns, StepInput, StepOutput


class EmbeddingGeneration(EmbeddingStep):
    """Embed texts with an embedding model, a batch at a time; a text that fails fails alone.

    Inputs: ``text``. Outputs: ``embedding``, a list of floats; ``model_name``.

    Attributes:
        embeddings: The model.

    Example:
        >>> from asyncdistil.models import Embeddings
        >>> from asyncdistil.steps import EmbeddingGeneration
        >>> class Lengths(Embeddings):
        ...     @property
        ...     def model_name(self):
        ...         return "lengths"
        ...
        ...     def encode(self, inputs):
        ...         return [[float(len(text))] for text in inputs]
        >>> step = EmbeddingGeneration(embeddings=Lengths())
        >>> step.load()
        >>> next(step.process([{"text": "four"}]))
        [{'text': 'four', 'embedding': [4.0], 'model_name': 'lengths'}]
    """

    version: ClassVar[int | None] = 1

    embeddings: Embeddings

    @property
    def embedder(self) -> Embeddings:
        """The model."""
        return self.embeddings

    def vectors(self, rows: Sequence[Row]) -> Sequence[list[float] | None]:
        """Embed the texts of rows.

        Raises:
            DataError: One is no text.
        """
        return self.embeddings.encode([self._text(row) for row in rows])

    def _text(self, row: Row) -> str:
        text = row["text"]
        if not isinstance(text, str):
            raise DataError(
                f"column 'text' of step {self.name!r} must be a text, not {type(text).__name__}"
            )
        return text


class FaissNearestNeighbour(GlobalStep):
    """Find the nearest neighbours of every embedding among all rows, itself left out.

    The index is kept as the artifact ``faiss_index``. Rows whose embedding is ``None`` have no
    neighbours. It needs the package faiss (extra ``faiss``).

    Inputs: ``embedding``. Outputs: ``nn_indices``, numbers of rows, nearest first, from 0;
    ``nn_scores``, distances or similarities, by the metric.

    Attributes:
        device: CUDA device or devices; a negative number for all, ``None`` for the CPU.
        string_factory: What faiss calls the kind of the index; a flat one if not given.
        metric_type: One of ``faiss.METRIC_...``; squared distance (L2) if not given.
        k: Neighbours of each row; fewer where there are not so many rows.
        search_batch_size: Rows that are looked up at a time.
        train_size: Rows that an index which must be trained is trained with; all if not given.

    Example:
        >>> from asyncdistil.steps import FaissNearestNeighbour
        >>> step = FaissNearestNeighbour(k=1)
        >>> step.load()
        >>> rows = [{"embedding": [0.0, 0.0]}, {"embedding": [9.0, 9.0]}, {"embedding": [0.0, 1.0]}]
        >>> [row["nn_indices"] for row in next(step.process(rows))]
        [[2], [2], [0]]

    Source: Douze et al., The Faiss Library, https://arxiv.org/abs/2401.08281
    """

    version: ClassVar[int] = 1

    device: RuntimeParameter[int | list[int]] | None = Field(
        default=None, description="CUDA device or devices; negative for all."
    )
    string_factory: RuntimeParameter[str] | None = Field(
        default=None, description="What faiss calls the kind of the index."
    )
    metric_type: RuntimeParameter[int] | None = Field(
        default=None, description="One of faiss.METRIC_..."
    )
    k: RuntimeParameter[int] = Field(default=1, ge=1, description="Neighbours of each row.")
    search_batch_size: RuntimeParameter[int] = Field(
        default=50, ge=1, description="Rows that are looked up at a time."
    )
    train_size: RuntimeParameter[int] | None = Field(
        default=None, description="Rows that an index is trained with."
    )

    _faiss: Any = PrivateAttr(default=None)

    def operational_fields(self) -> frozenset[str]:
        """Where and in what portions the search goes on, besides the general ones."""
        return super().operational_fields() | {"device", "search_batch_size"}

    def load(self) -> None:
        """Import faiss.

        Raises:
            ParameterError: It is not installed.
        """
        super().load()
        self._faiss = require("faiss", extra="faiss", needed_by="FaissNearestNeighbour")

    def unload(self) -> None:
        """Let go of it."""
        self._faiss = None
        super().unload()

    @property
    def inputs(self) -> StepColumns:
        """``embedding``."""
        return ["embedding"]

    @property
    def outputs(self) -> StepColumns:
        """``nn_indices`` and ``nn_scores``."""
        return ["nn_indices", "nn_scores"]

    def process(self, inputs: StepInput) -> StepOutput:
        """Yield the rows with their neighbours, once.

        Raises:
            DataError: Embeddings are of different lengths.
        """
        numbers, vectors = matrix_of(self, inputs, "embedding")
        found: dict[int, tuple[list[int], list[float]]] = {}
        if numbers:
            index = self._index(vectors)
            found = dict(self._neighbours(index, vectors, numbers))
            self.save_artifact(
                "faiss_index",
                lambda folder: self._write(index, folder),
                {"num_rows": len(numbers), "embedding_dim": vectors.shape[1]},
            )
        rows: list[Row] = []
        for number, row in enumerate(inputs):
            indices, scores = found.get(number, ([], []))
            rows.append({**row, "nn_indices": indices, "nn_scores": scores})
        yield rows

    def _index(self, vectors: Any) -> Any:
        metric = self._faiss.METRIC_L2 if self.metric_type is None else self.metric_type
        try:
            index = self._faiss.index_factory(
                vectors.shape[1], self.string_factory or "Flat", metric
            )
        except RuntimeError as error:
            raise ParameterError(
                f"string_factory={self.string_factory!r} of step {self.name!r} is none that faiss "
                f"knows: {error}"
            ) from error
        index = self._on_device(index)
        if not index.is_trained:
            index.train(vectors[: self.train_size])
        index.add(vectors)
        return index

    def _on_device(self, index: Any) -> Any:
        if self.device is None:
            return index
        if isinstance(self.device, list):
            return self._faiss.index_cpu_to_gpus_list(index, gpus=self.device)
        if self.device < 0:
            return self._faiss.index_cpu_to_all_gpus(index)
        resources = self._faiss.StandardGpuResources()
        return self._faiss.index_cpu_to_gpu(resources, self.device, index)

    def _neighbours(
        self, index: Any, vectors: Any, numbers: list[int]
    ) -> Iterator[tuple[int, tuple[list[int], list[float]]]]:
        wanted, portion = self.k or 1, self.search_batch_size or 50
        for start in range(0, len(vectors), portion):
            scores, places = index.search(vectors[start : start + portion], wanted + 1)
            for own, (near, far) in enumerate(zip(places, scores, strict=True), start):
                # Not simply the first one: an equal vector may come before the row's own.
                pairs = [
                    (numbers[place], float(score))
                    for place, score in zip(near.tolist(), far.tolist(), strict=True)
                    if place not in (own, -1)
                ][:wanted]
                yield numbers[own], ([place for place, _ in pairs], [score for _, score in pairs])

    def _write(self, index: Any, folder: Path) -> None:
        if self.device is not None:
            index = self._faiss.index_gpu_to_cpu(index)
        self._faiss.write_index(index, str(folder / "index.faiss"))
