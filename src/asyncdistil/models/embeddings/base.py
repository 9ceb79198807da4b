"""The contract of an embedding model."""

import logging
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from pydantic import ConfigDict, PrivateAttr

from asyncdistil.mixins.runtime_parameters import HasRuntimeParameters
from asyncdistil.models import identity


class Embeddings(HasRuntimeParameters, ABC):
    """A model that turns texts into vectors."""

    model_config = ConfigDict(
        arbitrary_types_allowed=True,
        protected_namespaces=(),
        validate_default=True,
        validate_assignment=True,
        extra="forbid",
    )

    _logger: Any = PrivateAttr(None)

    # Batches of texts that may be in flight at once; 0: one after another.
    default_concurrency: ClassVar[int] = 0

    @property
    @abstractmethod
    def model_name(self) -> str:
        """Name shown in the ``model_name`` column."""

    @property
    def concurrency(self) -> int:
        """Batches worth having in flight at once; 0 if one after another."""
        return self.default_concurrency

    def prepare(self) -> None:
        """Load what is cheap and needed even if every vector is stored."""

    def load(self) -> None:
        """Make the model ready. A subclass that overrides this should call ``super().load()``."""
        self._logger = logging.getLogger(f"asyncdistil.models.{self.model_name}")
        self.prepare()

    def unload(self) -> None:
        """Give back what `load` took; safe to call without it, and twice."""

    def identity_fields(self) -> dict[str, Any]:
        """What makes this model the same model: goes into keys, so it never holds a secret."""
        return identity.identity_fields(self)

    @abstractmethod
    def encode(self, inputs: list[str]) -> list[list[float]]:
        """One vector per text, in order, all of the same length."""
