from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from asyncdistil.models.image_generation.base import (
    AsyncImageGenerationModel,
    ImageGenerationModel,
)
from asyncdistil.steps.rows import FailedRow
from asyncdistil.steps.tasks import ImageGeneration, ImageTask


def png(colour: str) -> str:
    held = BytesIO()
    Image.new("RGB", (2, 2), colour).save(held, format="PNG")
    return base64.b64encode(held.getvalue()).decode()


class Painter(AsyncImageGenerationModel):
    """Paints the colour that the prompt names."""

    style: str = "flat"

    @property
    def model_name(self) -> str:
        return "painter"

    async def agenerate(self, input: str, num_generations: int = 1, **kwargs: Any) -> Any:
        if input == "nothing":
            raise ValueError("nothing can't be painted")
        return [{"images": [png(input)]} for _ in range(num_generations)]


class BatchPainter(ImageGenerationModel):
    """As `Painter`, several images in one output."""

    @property
    def model_name(self) -> str:
        return "batch-painter"

    def generate(self, inputs: list[str], num_generations: int = 1, **kwargs: Any) -> Any:
        return [[{"images": [png(prompt)] * num_generations}] for prompt in inputs]


def run(task: Any, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    task.load()
    return next(task.process(list(rows)))


def test_an_image_is_made_for_every_prompt() -> None:
    task = ImageGeneration(image_generation_model=Painter(), name="i")
    red, blue = run(task, {"prompt": "red"}, {"prompt": "blue"})
    assert red["image"] == png("red")
    assert blue["image"] == png("blue")
    assert red["model_name"] == "painter"
    assert red["distilabel_metadata"] == {"raw_input_i": "red"}


@pytest.mark.parametrize("model", [Painter(), BatchPainter()])
def test_several_images_are_several_rows(model: Any) -> None:
    rows = run(ImageGeneration(image_generation_model=model, num_generations=2), {"prompt": "red"})
    assert [row["image"] for row in rows] == [png("red")] * 2


def test_a_prompt_that_fails_fails_alone() -> None:
    task = ImageGeneration(image_generation_model=Painter())
    ((good, bad, odd),) = list(
        task.entries([{"prompt": "red"}, {"prompt": "nothing"}, {"prompt": 3}])
    )
    assert good["image"] == png("red")
    assert isinstance(bad, FailedRow)
    assert bad.failure.message == "nothing can't be painted"
    assert bad.row["image"] is None
    assert isinstance(odd, FailedRow)


def test_images_are_kept_as_files_that_the_row_names(tmp_path: Path) -> None:
    task = ImageGeneration(
        image_generation_model=Painter(), name="i", save_artifacts=True, image_format="JPEG"
    )
    task.set_artifacts_path(tmp_path / "artifacts")
    (row,) = run(task, {"prompt": "red"})
    kept = tmp_path / row["image_path"]
    assert Image.open(kept).format == "JPEG"
    run(task, {"prompt": "red"})
    assert len(list(tmp_path.rglob("*.jpeg"))) == 1


def test_columns_follow_the_options() -> None:
    plain = ImageGeneration(image_generation_model=Painter())
    assert plain.outputs == {"image": True, "image_path": False, "model_name": True}
    assert plain.kind() == "row"
    assert plain.asynchronous
    assert not ImageGeneration(image_generation_model=BatchPainter()).asynchronous


def test_a_language_model_is_no_image_model() -> None:
    with pytest.raises(ValueError, match="image_generation_model"):
        ImageGeneration(llm=Painter(), image_generation_model=Painter())


def test_fields_can_be_set_later() -> None:
    task = ImageGeneration(image_generation_model=Painter())
    task.num_generations = 3
    assert len(run(task, {"prompt": "red"})) == 3


def test_identity_follows_the_model() -> None:
    def digest(style: str) -> bytes:
        task = ImageGeneration(image_generation_model=Painter(style=style), name="i")
        return bytes(task.identity().digest)

    assert digest("flat") == digest("flat")
    assert digest("flat") != digest("deep")


def test_an_image_task_of_your_own_says_what_to_ask_and_what_to_keep() -> None:
    class Sizes(ImageTask):
        @property
        def inputs(self) -> list[str]:
            return ["colour"]

        @property
        def outputs(self) -> list[str]:
            return ["bytes"]

        def format_input(self, input: dict[str, Any]) -> str:
            return str(input["colour"])

        def format_output(self, output: Any, input: dict[str, Any] | None = None) -> dict[str, Any]:
            return {"bytes": len(output["images"][0]) if output else None}

    (row,) = run(Sizes(image_generation_model=Painter()), {"colour": "red"})
    assert row["bytes"] == len(png("red"))
