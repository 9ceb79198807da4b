"""Tasks that ask a model for images."""

import base64
from io import BytesIO
from typing import Any, ClassVar, Self

from pydantic import model_validator
from xxhash import xxh3_128_hexdigest

from asyncdistil.batch import Failure, Row
from asyncdistil.errors import DataError, ParameterError
from asyncdistil.models.image_generation.base import (
    AsyncImageGenerationModel,
    ImageGenerationModel,
)
from asyncdistil.models.typing import ChatType, GenerateOutput
from asyncdistil.steps.rows import Entry
from asyncdistil.steps.tasks.base import Task
from asyncdistil.steps.tasks.dialogue import Ask, Dialogue
from asyncdistil.typing import StepColumns


class ImageTask(Task):
    """A task that asks a model for images. ``format_input`` returns a prompt, a plain string.

    ``format_output`` gets ``{"images": [base64 text or URL]}`` for each generation.

    Inputs and outputs: as ``inputs`` and ``outputs`` say.

    Attributes:
        image_generation_model: The model to ask.
        llm: Not yours to set: the same model, where other code looks for it.

    Example:
        >>> from asyncdistil.models import ImageGenerationModel
        >>> from asyncdistil.steps.tasks import ImageTask
        >>> class Painter(ImageGenerationModel):
        ...     @property
        ...     def model_name(self):
        ...         return "painter"
        ...
        ...     def generate(self, inputs, num_generations=1):
        ...         return [[{"images": [prompt.encode().hex()]}] for prompt in inputs]
        >>> class Draw(ImageTask):
        ...     @property
        ...     def inputs(self):
        ...         return ["subject"]
        ...
        ...     @property
        ...     def outputs(self):
        ...         return ["picture", "model_name"]
        ...
        ...     def format_input(self, input):
        ...         return input["subject"]
        ...
        ...     def format_output(self, output, input=None):
        ...         return {"picture": output["images"][0]}
        >>> task = Draw(image_generation_model=Painter())
        >>> task.load()
        >>> next(task.process([{"subject": "dot"}]))[0]["picture"]
        '646f74'
    """

    llm: Any = None
    image_generation_model: ImageGenerationModel

    @model_validator(mode="before")
    @classmethod
    def _one_model(cls, data: Any) -> Any:
        # On a later assignment the fields are all there, `llm` among them.
        given = data.get("llm") if isinstance(data, dict) else None
        if given is not None and given is not data.get("image_generation_model"):
            raise ParameterError(
                f"{cls.__name__} asks an image model: pass image_generation_model, not llm"
            )
        return data

    @model_validator(mode="after")
    def _share_model(self) -> Self:
        self.__dict__["llm"] = self.image_generation_model
        return self

    def _many_at_once(self) -> bool:
        return isinstance(self.image_generation_model, AsyncImageGenerationModel)

    def operational_fields(self) -> frozenset[str]:
        """``llm`` is the image model once more."""
        return super().operational_fields() | {"llm"}

    def dialogue(self, row: Row) -> Dialogue[Entry]:
        """Ask for the images of one row."""
        prompt = self.format_input(row)
        [outputs] = yield Ask((prompt,), self.num_generations)
        return self.entry(row, self.answers(_one_image_each(outputs), row, prompt))


class ImageGeneration(ImageTask):
    """Make an image from a prompt.

    Inputs: ``prompt``. Outputs: ``image``, base64 text, or a URL if the model gives only that;
    ``image_path`` with ``save_artifacts``; ``model_name``.

    Attributes:
        save_artifacts: Whether images are kept as files beside the dataset, too. That takes base64
            text.
        image_format: Format of these files, such as ``JPEG`` or ``PNG``.

    Example:
        >>> from asyncdistil.models import ImageGenerationModel
        >>> from asyncdistil.steps.tasks import ImageGeneration
        >>> class Painter(ImageGenerationModel):
        ...     @property
        ...     def model_name(self):
        ...         return "painter"
        ...
        ...     def generate(self, inputs, num_generations=1):
        ...         return [[{"images": ["aW1hZ2U="]}] for _ in inputs]
        >>> task = ImageGeneration(image_generation_model=Painter())
        >>> task.load()
        >>> next(task.process([{"prompt": "A dot"}]))[0]["image"]
        'aW1hZ2U='
    """

    version: ClassVar[int | None] = 1

    save_artifacts: bool = False
    image_format: str = "JPEG"

    @property
    def inputs(self) -> StepColumns:
        """``prompt``."""
        return ["prompt"]

    @property
    def outputs(self) -> StepColumns:
        """``image``, perhaps ``image_path``, and ``model_name``."""
        return {"image": True, "image_path": self.save_artifacts, "model_name": True}

    def format_input(self, input: dict[str, Any]) -> str:
        """The prompt as it is."""
        prompt = input["prompt"]
        if not isinstance(prompt, str):
            raise DataError(
                f"column 'prompt' of task {self.name!r} must be text, not {type(prompt).__name__}"
            )
        return prompt

    def format_output(self, output: Any, input: dict[str, Any] | None = None) -> dict[str, Any]:
        """The first image of the output."""
        images = (output or {}).get("images") or [None]
        columns = {"image": images[0]}
        if self.save_artifacts:
            columns["image_path"] = None if images[0] is None else self._keep(images[0])
        return columns

    def null_columns(self) -> Row:
        """``image`` and, if it is written, ``image_path``."""
        return {"image": None} | ({"image_path": None} if self.save_artifacts else {})

    def metadata_of(self, raw: Any, formatted: Any, statistics: Any) -> dict[str, Any]:
        """As for every task, without the image: the row has it already."""
        metadata = super().metadata_of(raw, formatted, statistics)
        metadata.pop(f"raw_output_{self.name}", None)
        return metadata

    def _keep(self, image: str) -> str:
        """Write an image below the artifacts and return its path there.

        Named by its content: images of one prompt don't overwrite each other, and writing one
        again changes nothing.
        """
        from PIL import Image

        name = f"{xxh3_128_hexdigest(image.encode())}.{self.image_format.lower()}"
        held = Image.open(BytesIO(base64.b64decode(image)))
        converted = held.convert("RGB") if self.image_format.upper() == "JPEG" else held
        self.save_artifact(
            name.replace(".", "-"),
            lambda folder: converted.save(folder / name, format=self.image_format),
            {"type": "image"},
        )
        return f"artifacts/{self.name}/{name.replace('.', '-')}/{name}"

    def _sample_input(self) -> ChatType:
        return [{"role": "user", "content": "<PLACEHOLDER_PROMPT>"}]


def _one_image_each(outputs: Any) -> GenerateOutput:
    """Image outputs, each with one or more images, as one output with one image a generation."""
    generations: list[Any] = []
    failures: list[Failure | None] = []
    for output in outputs:
        reasons = output.get("failures") or []
        for number, image in enumerate(output["images"]):
            generations.append(None if image is None else {"images": [image]})
            failures.append(reasons[number] if number < len(reasons) else None)
    return {"generations": generations, "statistics": {}, "failures": failures}
