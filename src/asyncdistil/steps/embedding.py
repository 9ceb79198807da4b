"""What steps that embed texts share: the model's life, the columns, failing row by row."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from asyncdistil.batch import Row
from asyncdistil.models.output import FATAL
from asyncdistil.steps.rows import Entries
from asyncdistil.steps.step import Step, flat
from asyncdistil.typing import StepColumns, StepInput, StepOutput


class EmbeddingStep(Step):
    """A step that embeds a batch of texts in one call; a text that fails fails alone.

    Inputs: ``text``. Outputs: ``embedding``, a list of floats; ``model_name``.
    """

    row_wise: bool = True

    @property
    @abstractmethod
    def embedder(self) -> Any:
        """The model: it is loaded and unloaded with the step, and has a ``model_name``."""

    @abstractmethod
    def vectors(self, rows: Sequence[Row]) -> Sequence[list[float] | None]:
        """Embed the texts of rows.

        Args:
            rows: At least one.

        Returns:
            One vector per row, in order.
        """

    def load(self) -> None:
        """Load the model."""
        super().load()
        self.embedder.load()

    def unload(self) -> None:
        """Unload the model."""
        self.embedder.unload()
        super().unload()

    @property
    def inputs(self) -> StepColumns:
        """``text``."""
        return ["text"]

    @property
    def outputs(self) -> StepColumns:
        """``embedding`` and ``model_name``."""
        return ["embedding", "model_name"]

    def process(self, inputs: StepInput) -> StepOutput:
        """Embed rows.

        Yields:
            The rows, once.
        """
        yield flat(self._embedded(inputs))

    def entries(self, *ports: list[Row]) -> Iterator[Entries]:
        """One entry per row."""
        (rows,) = ports
        yield self._embedded(rows)

    def _embedded(self, rows: Sequence[Row]) -> Entries:
        if not rows:
            return []
        try:
            vectors = self.vectors(rows)
        except FATAL:
            raise
        except Exception as error:
            if len(rows) == 1:
                return [self.failed_row(rows[0], error)]
            # Alone, so that the row at fault fails alone.
            return [self._embedded([row])[0] for row in rows]
        name = self.embedder.model_name
        return [
            {**row, "embedding": vector, "model_name": name}
            for row, vector in zip(rows, vectors, strict=True)
        ]
