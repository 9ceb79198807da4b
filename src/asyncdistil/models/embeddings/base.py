"""The contract of an embedding model."""

from abc import abstractmethod

from asyncdistil.models.model import Model


class Embeddings(Model):
    """A model that turns texts into vectors."""

    @abstractmethod
    def encode(self, inputs: list[str]) -> list[list[float]]:
        """One vector per text, in order, all of the same length."""
