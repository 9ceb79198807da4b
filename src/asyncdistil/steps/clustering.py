"""Steps that project embeddings to few dimensions and find clusters among them."""

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from asyncdistil.errors import DataError
from asyncdistil.mixins import RuntimeParameter
from asyncdistil.models.sdk import require
from asyncdistil.steps.global_step import GlobalStep
from asyncdistil.steps.matrix import matrix_of
from asyncdistil.typing import StepColumns, StepInput, StepOutput

# Its classes had modules of their own below this name.
__path__: list[str] = []

_EXTRA = "text-clustering"


class UMAP(GlobalStep):
    """Project embeddings to a few dimensions in which neighbours stay neighbours.

    The fitted model is kept as the artifact ``UMAP_model``. Rows whose embedding is ``None`` have
    the projection ``None``. It needs the package umap-learn (extra ``text-clustering``), whose
    first fit in a process takes some seconds more, for it is compiled then.

    Inputs: ``embedding``. Outputs: ``projection``, a list of ``n_components`` floats.

    Attributes:
        n_components: Dimensions of the projection, 2 to 100.
        metric: What distance between embeddings means, by umap's name for it.
        n_jobs: Threads; with a ``random_state`` umap uses one.
        random_state: Seed; without one every fit gives another projection.

    Example:
        >>> from asyncdistil.steps import UMAP
        >>> step = UMAP(random_state=1)
        >>> step.load()
        >>> rows = [{"embedding": [float(n), float(n % 5), 1.0]} for n in range(12)]
        >>> [len(row["projection"]) for row in next(step.process(rows))][:3]
        [2, 2, 2]

    Source: McInnes et al., UMAP: Uniform Manifold Approximation and Projection for Dimension
    Reduction, https://arxiv.org/abs/1802.03426
    """

    version: ClassVar[int] = 1

    n_components: RuntimeParameter[int] | None = Field(
        default=2, ge=2, le=100, description="Dimensions of the projection."
    )
    metric: RuntimeParameter[str] | None = Field(
        default="euclidean", description="What distance between embeddings means."
    )
    n_jobs: RuntimeParameter[int] | None = Field(default=8, description="Threads.")
    random_state: RuntimeParameter[int] | None = Field(
        default=None, description="Seed; none: another projection every time."
    )

    _model: Any = None

    def operational_fields(self) -> frozenset[str]:
        """On how many threads it runs, besides the general ones."""
        return super().operational_fields() | {"n_jobs"}

    def load(self) -> None:
        """Make the model.

        Raises:
            ParameterError: umap is not installed.
        """
        super().load()
        umap = require("umap", extra=_EXTRA, needed_by="UMAP")
        self._model = umap.UMAP(
            n_components=2 if self.n_components is None else self.n_components,
            metric=self.metric or "euclidean",
            # With a seed umap takes one thread anyway, and warns if it was told another number.
            n_jobs=1 if self.random_state is not None else self.n_jobs or -1,
            random_state=self.random_state,
        )

    def unload(self) -> None:
        """Let go of the model."""
        self._model = None
        super().unload()

    @property
    def inputs(self) -> StepColumns:
        """``embedding``."""
        return ["embedding"]

    @property
    def outputs(self) -> StepColumns:
        """``projection``."""
        return ["projection"]

    def process(self, inputs: StepInput) -> StepOutput:
        """Yield the rows with their projections, once.

        Raises:
            DataError: Embeddings are of different lengths, or there are too few of them.
        """
        given, vectors = matrix_of(self, inputs, "embedding")
        projections: dict[int, list[float]] = {}
        if given:
            if len(given) < 3:
                raise DataError(
                    f"step {self.name!r} got {len(given)} embeddings: neighbourhoods need at least"
                    " 3 of them"
                )
            found = self._model.fit_transform(vectors)
            projections = dict(zip(given, found.tolist(), strict=True))
            self.save_artifact(
                "UMAP_model",
                lambda folder: dump(self._model, folder / "UMAP.joblib"),
                {"n_components": self.n_components, "metric": self.metric},
            )
        yield [{**row, "projection": projections.get(n)} for n, row in enumerate(inputs)]


class DBSCAN(GlobalStep):
    """Find clusters: places where projections lie dense.

    The fitted model is kept as the artifact ``DBSCAN_model``. Rows whose projection is ``None``
    belong to no cluster. It needs the package scikit-learn (extra ``text-clustering``).

    Inputs: ``projection``. Outputs: ``cluster_label``, the number of a cluster from 0; -1 where a
    row belongs to none.

    Attributes:
        eps: Distance up to which two rows are neighbours: the parameter to choose with care.
        min_samples: Neighbours, itself included, that make a row the core of a cluster.
        metric: What distance means, by scikit-learn's name for it.
        n_jobs: Threads.

    Example:
        >>> from asyncdistil.steps import DBSCAN
        >>> step = DBSCAN(min_samples=2)
        >>> step.load()
        >>> places = [[0.0, 0.0], [0.1, 0.0], [5.0, 5.0], [9.0, 9.0], [9.0, 9.1]]
        >>> rows = next(step.process([{"projection": place} for place in places]))
        >>> [row["cluster_label"] for row in rows]
        [0, 0, -1, 1, 1]

    Source: Ester et al., A Density-Based Algorithm for Discovering Clusters in Large Spatial
    Databases with Noise, KDD 1996
    """

    version: ClassVar[int] = 1

    eps: RuntimeParameter[float] | None = Field(
        default=0.3, gt=0, description="Distance up to which two rows are neighbours."
    )
    min_samples: RuntimeParameter[int] | None = Field(
        default=30, ge=1, description="Neighbours that make a row the core of a cluster."
    )
    metric: RuntimeParameter[str] | None = Field(
        default="euclidean", description="What distance means."
    )
    n_jobs: RuntimeParameter[int] | None = Field(default=8, description="Threads.")

    _model: Any = None

    def operational_fields(self) -> frozenset[str]:
        """On how many threads it runs, besides the general ones."""
        return super().operational_fields() | {"n_jobs"}

    def load(self) -> None:
        """Make the model.

        Raises:
            ParameterError: scikit-learn is not installed.
        """
        super().load()
        cluster = require("sklearn.cluster", extra=_EXTRA, needed_by="DBSCAN")
        self._model = cluster.DBSCAN(
            eps=0.3 if self.eps is None else self.eps,
            min_samples=30 if self.min_samples is None else self.min_samples,
            metric=self.metric or "euclidean",
            n_jobs=self.n_jobs,
        )

    def unload(self) -> None:
        """Let go of the model."""
        self._model = None
        super().unload()

    @property
    def inputs(self) -> StepColumns:
        """``projection``."""
        return ["projection"]

    @property
    def outputs(self) -> StepColumns:
        """``cluster_label``."""
        return ["cluster_label"]

    def process(self, inputs: StepInput) -> StepOutput:
        """Yield the rows with the numbers of their clusters, once.

        Raises:
            DataError: Projections are of different lengths.
        """
        given, vectors = matrix_of(self, inputs, "projection")
        labels: dict[int, int] = {}
        if given:
            labels = dict(zip(given, self._model.fit_predict(vectors).tolist(), strict=True))
            self.save_artifact(
                "DBSCAN_model",
                lambda folder: dump(self._model, folder / "DBSCAN.joblib"),
                {"eps": self.eps, "min_samples": self.min_samples, "metric": self.metric},
            )
        yield [{**row, "cluster_label": labels.get(n, -1)} for n, row in enumerate(inputs)]


def dump(model: Any, path: Path) -> None:
    """Write a fitted model for people who want to load it; nothing here reads it again."""
    require("joblib", extra=_EXTRA, needed_by="the artifact of a model").dump(model, path)
