"""PairRM: a small ranking model puts candidates for an answer in order."""

import importlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from pydantic import PrivateAttr

from asyncdistil.batch import Row
from asyncdistil.errors import DataError, MissingRequirement
from asyncdistil.steps.rows import Entries, Entry
from asyncdistil.steps.step import Step, flat
from asyncdistil.typing import StepColumns, StepInput, StepOutput


class PairRM(Step):
    """Rank candidates with a pairwise reward model that runs in this process.

    It needs the package ``llm-blender``.

    Inputs: ``input``, what the candidates answer; ``candidates``, a list of at least two texts.
    Outputs: ``ranks``, a list with the place of each candidate, 1 for the best;
    ``ranked_candidates``, the candidates best first; ``model_name``.

    Attributes:
        model: Name of the ranker, on the Hugging Face hub.
        instructions: What the candidates were to do with the input; ``None`` for nothing.

    Example:
        >>> from asyncdistil.steps.tasks import PairRM
        >>> ranker = PairRM(instructions="Answer in one word.")
        >>> ranker.inputs, ranker.outputs
        (['input', 'candidates'], ['ranks', 'ranked_candidates', 'model_name'])

    Source: Jiang et al., LLM-Blender: Ensembling Large Language Models with Pairwise Ranking and
    Generative Fusion, https://arxiv.org/abs/2306.02561
    """

    version: ClassVar[int | None] = 1

    row_wise: bool = True
    model: str = "llm-blender/PairRM"
    instructions: str | None = None

    _blender: Any = PrivateAttr(default=None)

    def load(self) -> None:
        """Load the ranker.

        Raises:
            MissingRequirement: ``llm-blender`` is not installed.
        """
        super().load()
        try:
            llm_blender = importlib.import_module("llm_blender")
        except ImportError as error:
            raise MissingRequirement(
                "PairRM needs the package llm-blender: pip install llm-blender"
            ) from error
        self._blender = llm_blender.Blender()
        self._blender.loadranker(self.model)

    def unload(self) -> None:
        """Let go of the ranker."""
        self._blender = None
        super().unload()

    @property
    def inputs(self) -> StepColumns:
        """``input`` and ``candidates``."""
        return ["input", "candidates"]

    @property
    def outputs(self) -> StepColumns:
        """``ranks``, ``ranked_candidates`` and ``model_name``."""
        return ["ranks", "ranked_candidates", "model_name"]

    def process(self, inputs: StepInput) -> StepOutput:
        """Rank the candidates of each row.

        Yields:
            The rows, once.
        """
        yield flat(next(self.entries(inputs)))

    def entries(self, *ports: list[Row]) -> Iterator[Entries]:
        """One entry per row. Rows with equally many candidates go to the ranker together."""
        (rows,) = ports
        entries: dict[int, Entry] = {}
        by_count: dict[int, list[int]] = {}
        for position, row in enumerate(rows):
            candidates = row.get("candidates")
            if isinstance(candidates, list) and len(candidates) > 1:
                by_count.setdefault(len(candidates), []).append(position)
            else:
                wrong = DataError(f"column 'candidates' of step {self.name!r} must be two or more")
                entries[position] = self.failed_row(row, wrong)
        for positions in by_count.values():
            for position, entry in zip(
                positions, self._ranked([rows[p] for p in positions]), strict=True
            ):
                entries[position] = entry
        yield [entries[position] for position in range(len(rows))]

    def _ranked(self, rows: Sequence[Row]) -> Entries:
        try:
            found = self._blender.rank(
                [row["input"] for row in rows],
                [row["candidates"] for row in rows],
                instructions=[self.instructions] * len(rows) if self.instructions else None,
                return_scores=False,
                batch_size=self.input_batch_size,
            )
        except Exception as error:
            if len(rows) == 1:
                return [self.failed_row(rows[0], error)]
            # Alone, so that the row at fault fails alone.
            return [self._ranked([row])[0] for row in rows]
        return [
            self._with_ranks(row, [int(rank) for rank in ranks])
            for row, ranks in zip(rows, found, strict=True)
        ]

    def _with_ranks(self, row: Row, ranks: list[int]) -> Row:
        order = sorted(range(len(ranks)), key=ranks.__getitem__)
        return {
            **row,
            "ranks": ranks,
            "ranked_candidates": [row["candidates"][position] for position in order],
            "model_name": self.model,
        }
