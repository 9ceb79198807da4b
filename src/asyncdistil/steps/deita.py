"""`DeitaFiltering`: the best rows that are not alike."""

from collections import Counter
from typing import Any, ClassVar, Literal

from pydantic import Field

from asyncdistil.batch import Row
from asyncdistil.mixins import RuntimeParameter
from asyncdistil.steps.global_step import GlobalStep
from asyncdistil.typing import StepColumns, StepInput, StepOutput

_SCORES = ("evol_instruction_score", "evol_response_score")
_PORTION_BYTES = 32 << 20


class DeitaFiltering(GlobalStep):
    """Keep the rows with the best scores whose nearest neighbour is far enough away.

    The score of a row is the product of those of its instruction and its response, or the one that
    it has; 0 if it has none.

    Inputs: ``evol_instruction_score``, ``evol_response_score``, numbers or ``None``;
    ``embedding``, a list of floats. Outputs, of the rows that stay, best first: ``deita_score``;
    ``deita_score_computed_with``, names of the scores used; ``nearest_neighbor_distance``.

    Attributes:
        data_budget: Rows to keep, at most.
        diversity_threshold: Distance to the nearest neighbour from which a row may stay.
        normalize_embeddings: Whether vectors are scaled to length 1 first.
        distance_metric: ``cosine``: 1 less the inner product; ``manhattan``: sum of differences.

    Example:
        >>> from asyncdistil.steps import DeitaFiltering
        >>> scores = {"evol_instruction_score": 0.5, "evol_response_score": 0.5}
        >>> rows = [{**scores, "embedding": [-8.1, 0.3]}, {**scores, "embedding": [2.5, 2.9]}]
        >>> step = DeitaFiltering(data_budget=1, diversity_threshold=0.5)
        >>> kept = next(step.process(rows))
        >>> len(kept), kept[0]["deita_score"], round(kept[0]["nearest_neighbor_distance"], 2)
        (1, 0.25, 1.62)

    Source: Liu et al., What Makes Good Data for Alignment? A Comprehensive Study of Automatic Data
    Selection in Instruction Tuning, https://arxiv.org/abs/2312.15685
    """

    version: ClassVar[int] = 1

    data_budget: RuntimeParameter[int] = Field(default=None, description="Rows to keep, at most.")
    diversity_threshold: RuntimeParameter[float] = Field(
        default=0.9, description="Distance to the nearest neighbour from which a row may stay."
    )
    normalize_embeddings: RuntimeParameter[bool] = Field(
        default=True, description="Whether vectors are scaled to length 1 first."
    )
    distance_metric: RuntimeParameter[Literal["cosine", "manhattan"]] = Field(
        default="cosine", description="How far vectors are apart: cosine or manhattan."
    )

    @property
    def inputs(self) -> StepColumns:
        """Both scores and the embedding."""
        return [*_SCORES, "embedding"]

    @property
    def outputs(self) -> StepColumns:
        """The score, what it was made of, and the distance."""
        return ["deita_score", "nearest_neighbor_distance", "deita_score_computed_with"]

    def process(self, inputs: StepInput) -> StepOutput:
        """Yield the rows that stay, once."""
        if not inputs:
            yield []
            return
        scored: list[Row] = []
        missing: Counter[str] = Counter()
        distances = self._distances([row["embedding"] for row in inputs])
        for row, distance in zip(inputs, distances, strict=True):
            used = [name for name in _SCORES if row.get(name)]
            missing.update(name for name in _SCORES if name not in used)
            score = row[used[0]] if used else 0
            for name in used[1:]:
                score *= row[name]
            made = {"deita_score": score, "deita_score_computed_with": used}
            scored.append({**row, **made, "nearest_neighbor_distance": distance})
        for name, count in missing.items():
            self._logger.warning("%d of %d rows have no %s", count, len(inputs), name)
        scored.sort(key=lambda row: row["deita_score"], reverse=True)
        far = [r for r in scored if r["nearest_neighbor_distance"] >= self.diversity_threshold]
        yield far[: self.data_budget]

    def _distances(self, embeddings: list[Any]) -> list[float]:
        """Distance of each vector to its nearest other one; infinite if it is alone."""
        import numpy as np

        vectors = np.array(embeddings, dtype=np.float64)
        if self.normalize_embeddings:
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors / np.where(lengths == 0, 1, lengths)
        found: list[float] = []
        manhattan = self.distance_metric == "manhattan"
        # All pairs at once would take memory by the square of the rows.
        wide = vectors.size if manhattan else len(vectors)
        portion = max(1, _PORTION_BYTES // (8 * wide))
        for start in range(0, len(vectors), portion):
            some = vectors[start : start + portion]
            apart = np.abs(some[:, None] - vectors).sum(-1) if manhattan else 1 - some @ vectors.T
            own = np.arange(len(some))
            apart[own, own + start] = np.inf
            found += apart.min(axis=1).tolist()
        return found
