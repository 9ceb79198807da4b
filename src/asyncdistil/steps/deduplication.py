"""Steps that find rows which are there already: exactly, nearly, or by meaning."""

import re
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PositiveInt, PrivateAttr
from xxhash import xxh3_128_digest

from asyncdistil.batch import Row
from asyncdistil.codec import canonical_bytes
from asyncdistil.mixins import RuntimeParameter
from asyncdistil.models.sdk import require
from asyncdistil.steps.global_step import GlobalStep
from asyncdistil.typing import StepColumns, StepInput, StepOutput

if TYPE_CHECKING:
    from collections.abc import Iterable

_WORD = re.compile(r"\w+|[^\w\s]")


class ExactDedup(GlobalStep):
    """Keep the first of equal rows.

    Inputs: ``columns``. Outputs: none; rows that are there already are dropped, or marked if
    ``output_column`` is given.

    Attributes:
        columns: Columns that must be equal; all if none are given. ``1``, ``1.0`` and ``True``
            differ.
        output_column: Column for whether the row is the first of its kind; all rows stay then.

    Example:
        >>> from asyncdistil.steps import ExactDedup
        >>> rows = [{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 3}]
        >>> next(ExactDedup(columns=["a"]).process(rows))
        [{'a': 1, 'b': 1}, {'a': 2, 'b': 3}]
    """

    version: ClassVar[int] = 1

    columns: list[str] = Field(default_factory=list)
    output_column: str | None = None

    @property
    def inputs(self) -> StepColumns:
        """The columns."""
        return self.columns

    @property
    def outputs(self) -> StepColumns:
        """The mark, if there is one."""
        return [] if self.output_column is None else [self.output_column]

    def process(self, inputs: StepInput) -> StepOutput:
        """Yield the rows, once."""
        seen: set[bytes] = set()
        kept: list[Row] = []
        for row in inputs:
            what = {column: row[column] for column in self.columns} if self.columns else row
            # A digest for each, so that long texts are not held twice.
            key = xxh3_128_digest(canonical_bytes("asyncdistil/exact-dedup", what))
            first = key not in seen
            seen.add(key)
            if self.output_column is not None:
                kept.append({**row, self.output_column: first})
            elif first:
                kept.append(row)
        yield kept


class MinHashDedup(GlobalStep):
    """Mark texts that are nearly equal to an earlier one.

    Texts are compared as sets of tokens; of a group of near duplicates the first is kept. All rows
    stay, filter them with ``FilterRows``. It needs the package datasketch (extra ``dedup``).

    Inputs: ``text``. Outputs: ``keep_row_after_minhash_filtering``, a bool; ``True`` where the text
    is ``None``.

    Attributes:
        num_perm: Permutations; more are more exact and slower.
        seed: Seed of the permutations.
        tokenizer: ``words``: words and punctuation marks; ``ngrams``: runs of characters.
        n: Characters of an n-gram.
        threshold: Similarity (Jaccard) from which texts count as duplicates, 0 to 1.
        storage: ``dict``; ``disk`` is accepted, the index is held in memory all the same.

    Example:
        >>> from asyncdistil.steps import MinHashDedup
        >>> texts = ["This is a test document.", "This document is a test.", "Another one."]
        >>> dedup = MinHashDedup()
        >>> dedup.load()
        >>> rows = next(dedup.process([{"text": text} for text in texts]))
        >>> [row["keep_row_after_minhash_filtering"] for row in rows]
        [True, False, True]

    Source: Broder, Identifying and Filtering Near-Duplicate Documents, 2000.
    """

    version: ClassVar[int] = 1

    num_perm: PositiveInt = 128
    seed: int = 1
    tokenizer: Literal["words", "ngrams"] = "words"
    n: PositiveInt | None = 5
    threshold: float = Field(default=0.9, ge=0, le=1)
    storage: Literal["dict", "disk"] = "dict"

    _datasketch: Any = PrivateAttr(default=None)

    def operational_fields(self) -> frozenset[str]:
        """Where the index lies, besides the general ones."""
        return super().operational_fields() | {"storage"}

    def load(self) -> None:
        """Import datasketch.

        Raises:
            ParameterError: It is not installed.
        """
        super().load()
        self._datasketch = require("datasketch", extra="dedup", needed_by="MinHashDedup")

    def unload(self) -> None:
        """Let go of it."""
        self._datasketch = None
        super().unload()

    @property
    def inputs(self) -> StepColumns:
        """``text``."""
        return ["text"]

    @property
    def outputs(self) -> StepColumns:
        """``keep_row_after_minhash_filtering``."""
        return ["keep_row_after_minhash_filtering"]

    def process(self, inputs: StepInput) -> StepOutput:
        """Yield the rows with their marks, once."""
        index = self._datasketch.MinHashLSH(threshold=self.threshold, num_perm=self.num_perm)
        rows: list[Row] = []
        for number, row in enumerate(inputs):
            keep = True
            if row["text"] is not None:
                sketch = self._datasketch.MinHash(num_perm=self.num_perm, seed=self.seed)
                sketch.update_batch([token.encode() for token in self._tokens(row["text"])])
                keep = not index.query(sketch)
                if keep:
                    index.insert(number, sketch)
            rows.append({**row, "keep_row_after_minhash_filtering": keep})
        yield rows

    def _tokens(self, text: str) -> "Iterable[str]":
        if self.tokenizer == "words":
            return set(_WORD.findall(text))
        size = self.n or 1
        return {text[start : start + size] for start in range(len(text) - size + 1)}


class EmbeddingDedup(GlobalStep):
    """Mark rows whose meaning an earlier row has, by the nearest neighbours of their embeddings.

    Of a group of near duplicates the first row is kept. All rows stay, filter them with
    ``FilterRows``.

    Inputs: ``nn_indices`` and ``nn_scores`` of ``FaissNearestNeighbour``. Outputs:
    ``keep_row_after_embedding_filtering``, a bool.

    Attributes:
        threshold: Rows with a score above it are duplicates. What a score means depends on the
            index: with an inner product of normalized vectors it is the cosine.

    Example:
        >>> from asyncdistil.steps import EmbeddingDedup
        >>> rows = [
        ...     {"nn_indices": [1], "nn_scores": [0.95]},
        ...     {"nn_indices": [0], "nn_scores": [0.95]},
        ...     {"nn_indices": [0], "nn_scores": [0.2]},
        ... ]
        >>> rows = next(EmbeddingDedup(threshold=0.9).process(rows))
        >>> [row["keep_row_after_embedding_filtering"] for row in rows]
        [True, False, True]
    """

    version: ClassVar[int] = 1

    threshold: RuntimeParameter[float] = Field(
        default=0.9, description="Rows with a score above it are duplicates."
    )

    @property
    def inputs(self) -> StepColumns:
        """``nn_indices`` and ``nn_scores``."""
        return ["nn_indices", "nn_scores"]

    @property
    def outputs(self) -> StepColumns:
        """``keep_row_after_embedding_filtering``."""
        return ["keep_row_after_embedding_filtering"]

    def process(self, inputs: StepInput) -> StepOutput:
        """Yield the rows with their marks, once."""
        threshold = 0.9 if self.threshold is None else self.threshold
        near: list[set[int]] = [set() for _ in inputs]
        for number, row in enumerate(inputs):
            scores = row["nn_scores"] or ()
            for other, score in zip(row["nn_indices"] or (), scores, strict=True):
                if score > threshold:
                    # Nearness is mutual, though only one of two may be among the other's nearest.
                    near[number].add(other)
                    near[other].add(number)
        kept: list[bool] = []
        for number, others in enumerate(near):
            kept.append(not any(other < number and kept[other] for other in others))
        yield [
            {**row, "keep_row_after_embedding_filtering": keep}
            for row, keep in zip(inputs, kept, strict=True)
        ]
