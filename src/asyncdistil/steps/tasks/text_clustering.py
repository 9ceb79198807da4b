"""Names for clusters of texts."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from pydantic import Field, PositiveInt, PrivateAttr

from asyncdistil.batch import Row
from asyncdistil.errors import ModelReplyError
from asyncdistil.graph.plan import OnError
from asyncdistil.mixins import RuntimeParameter
from asyncdistil.models.sdk import require
from asyncdistil.steps.rows import Entry, FailedRow
from asyncdistil.steps.tasks.base import GlobalTask
from asyncdistil.steps.tasks.text_classification import TextClassification
from asyncdistil.typing import StepColumns, StepInput, StepOutput

_log = logging.getLogger("asyncdistil.steps")

_NO_CLUSTER = -1
_FIGURE_INCHES = (12.0, 8.0)
_FIGURE_DPI = 300


class TextClustering(TextClassification, GlobalTask):
    """Give every cluster of texts the labels that fit some of its texts, and its rows those.

    Clusters are found by ``UMAP`` and ``DBSCAN`` before it, or by steps like them. A cluster whose
    labels can't be had leaves ``null`` in its rows, and a warning. The clusters are drawn as the
    artifact ``text_clusters``, which needs the package matplotlib (extra ``text-clustering``).

    Inputs: ``text``; ``projection``, at least two floats; ``cluster_label``, -1 for none. Outputs:
    ``summary_label``, the labels as JSON; ``model_name``.

    Attributes:
        savefig: Whether to draw the clusters.
        samples_per_cluster: Texts of a cluster that the model is shown, at most.
        seed: Of the choice of these texts.
        n: As for the other attributes, see ``TextClassification``.

    Example:
        >>> from asyncdistil.steps.tasks import TextClustering
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> task = TextClustering(llm=FakeLLM(reply='{"labels": "fruit"}'), savefig=False)
        >>> task.load()
        >>> near = {"projection": [0.0, 0.0], "cluster_label": 0}
        >>> far = {"projection": [9.0, 9.0], "cluster_label": -1}
        >>> rows = [{"text": "apple", **near}, {"text": "pear", **near}, {"text": "rust", **far}]
        >>> [row["summary_label"] for row in next(task.process(rows))]
        ['"fruit"', '"fruit"', '"Unclassified"']

    Source: https://github.com/huggingface/text-clustering
    """

    version: ClassVar[int | None] = 1

    on_error: OnError = "raise"
    savefig: RuntimeParameter[bool] | None = Field(
        default=True, description="Whether to draw the clusters."
    )
    samples_per_cluster: PositiveInt = Field(
        default=10, description="Texts of a cluster that the model is shown."
    )
    seed: RuntimeParameter[int] = Field(default=42, description="Of the choice of these texts.")

    # All of its questions are asked at once, so they make one batch.
    _can_be_used_with_offline_batch_generation: bool = PrivateAttr(default=True)

    @property
    def inputs(self) -> StepColumns:
        """``text``, ``projection`` and ``cluster_label``."""
        return [*super().inputs, "projection", "cluster_label"]

    @property
    def outputs(self) -> StepColumns:
        """``summary_label`` and ``model_name``."""
        return ["summary_label", "model_name"]

    def load(self) -> None:
        """Load the model; see that what the figure needs is there.

        Raises:
            ParameterError: matplotlib is not installed.
        """
        super().load()
        if self.savefig:
            require("matplotlib", extra="text-clustering", needed_by="TextClustering(savefig=True)")

    def null_columns(self) -> Row:
        """The labels of a cluster for which the model failed."""
        return {"labels": None}

    def process(self, inputs: StepInput) -> StepOutput:
        """Yield the rows with the labels of their clusters, once.

        Raises:
            ModelReplyError: The model failed for every cluster.
        """
        members: dict[int, list[int]] = {}
        for number, row in enumerate(inputs):
            if row["cluster_label"] != _NO_CLUSTER:
                members.setdefault(row["cluster_label"], []).append(number)
        clusters = sorted(members)
        shown = [{"text": self._shown(inputs, members[cluster])} for cluster in clusters]
        labels = self._labels(clusters, self.converse_all(shown)) if shown else {}
        labels[_NO_CLUSTER] = self.default_label
        if self.savefig and labels.keys() - {_NO_CLUSTER}:
            self.save_artifact(
                "text_clusters",
                lambda folder: self._draw(inputs, labels, folder / "figure_clustering.png"),
                {"type": "image", "library": "matplotlib"},
            )
        name = {"model_name": self.llm.model_name}
        yield [
            {**row, "summary_label": json.dumps(labels[row["cluster_label"]]), **name}
            for row in inputs
        ]

    def _shown(self, rows: Sequence[Row], members: Sequence[int]) -> str:
        """Some texts of a cluster, as the model sees them."""
        # By cluster, so that one more cluster does not change what is asked about the others.
        chosen = Random(f"{self.seed} {len(members)} {rows[members[0]]['text']}").sample(
            members, min(self.samples_per_cluster, len(members))
        )
        texts = [rows[number]["text"] for number in sorted(chosen)]
        return "\n\n".join(f"Example {place}:\n{text}" for place, text in enumerate(texts, 1))

    def _labels(self, clusters: Sequence[int], entries: Sequence[Entry]) -> dict[int, Any]:
        labels: dict[int, Any] = {}
        failures: list[str] = []
        for cluster, entry in zip(clusters, entries, strict=True):
            if isinstance(entry, FailedRow):
                labels[cluster] = None
                failures.append(f"{cluster} ({entry.failure.kind}: {entry.failure.message})")
            else:
                given = entry if isinstance(entry, list) else [entry]
                rows = (one for one in given if isinstance(one, dict))
                labels[cluster] = next(rows, {}).get("labels")
        if failures and len(failures) == len(clusters):
            raise ModelReplyError(
                f"step {self.name!r} got no labels for any of {len(clusters)} clusters; the first: "
                f"{failures[0]}"
            )
        for failure in failures:
            _log.warning("step %r has no labels for cluster %s", self.name, failure)
        return labels

    def _draw(self, rows: Sequence[Row], labels: Mapping[int, Any], path: Path) -> None:
        """Draw every row as a dot in the colour of its cluster, labels in the middle."""
        from matplotlib import colormaps
        from matplotlib.figure import Figure

        # Not through pyplot, whose state the whole process shares.
        figure = Figure(figsize=_FIGURE_INCHES, dpi=_FIGURE_DPI)
        axes = figure.subplots()
        colours = colormaps["Spectral"].resampled(max(len(labels) - 1, 1))
        clusters = [cluster for cluster in labels if cluster != _NO_CLUSTER]
        for place, cluster in enumerate(clusters):
            places = [
                row["projection"][:2]
                for row in rows
                if row["cluster_label"] == cluster and row["projection"] is not None
            ]
            if not places:
                continue
            across, up = zip(*places, strict=True)
            axes.scatter(across, up, s=0.75, alpha=0.8, linewidth=0.4, color=colours(place))
            axes.text(
                sum(across) / len(places),
                sum(up) / len(places),
                str(labels[cluster]),
                horizontalalignment="center",
                verticalalignment="center",
                fontsize=4,
                bbox={
                    "facecolor": "white",
                    "alpha": 0.9,
                    "linewidth": 0,
                    "boxstyle": "square,pad=0.1",
                },
                parse_math=False,  # a label is text, dollars included
            )
        axes.set_axis_off()
        figure.savefig(path)
