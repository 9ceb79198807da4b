"""Models against a service of OpenAI's dialect, alone and in tasks."""

import base64
import json
import logging
import sys
from pathlib import Path
from typing import Any

from distilabel.models import (
    AnyscaleLLM,
    AsyncImageGenerationModel,
    AzureOpenAILLM,
    GroqLLM,
    ImageGenerationModel,
    InferenceEndpointsLLM,
    MixtureOfAgentsLLM,
    OllamaLLM,
    OpenAIImageGeneration,
    OpenAILLM,
    TogetherLLM,
)
from distilabel.models.embeddings import Embeddings
from distilabel.models.image_generation.utils import image_from_str, image_to_str
from distilabel.pipeline import Pipeline
from distilabel.steps import EmbeddingGeneration, KeepColumns, LoadDataFromDicts
from distilabel.steps.tasks import (
    ChatGeneration,
    ImageGeneration,
    StructuredGeneration,
    TextClassification,
    TextGeneration,
    TextGenerationWithImage,
)
from distilabel.steps.tasks.base import ImageTask
from pydantic import BaseModel

HOME, URL = Path(sys.argv[1]), sys.argv[3]
logging.disable(logging.CRITICAL)
AS_TEXT = {"response_format": "b64_json"}  # there a URL is fetched by a client of its own
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQ"
    "AAAABJRU5ErkJggg=="
)


def chat() -> Any:
    return [{"role": "user", "content": "What is rain?"}]


def openai(**options: Any) -> OpenAILLM:
    return OpenAILLM(model="stand-in", base_url=URL, api_key="sk-any", **options)


def said(llm: Any, *inputs: Any, **options: Any) -> Any:
    llm.load()
    return [llm.model_name, llm.generate_outputs(inputs=list(inputs), **options)]


def plain() -> Any:
    return said(openai(), chat(), [{"role": "user", "content": "And snow?"}])


def several() -> Any:
    return said(openai(), chat(), num_generations=3)


def with_settings() -> Any:
    llm = openai(generation_kwargs={"temperature": 0.2, "max_new_tokens": 5, "stop": ["."]})
    llm.load()
    return llm.generate_outputs(inputs=[chat()], **llm.get_generation_kwargs())


def with_logprobs() -> Any:
    llm = openai()
    llm.load()
    (made,) = llm.generate_outputs(
        inputs=[[{"role": "user", "content": "one two"}]], logprobs=True, top_logprobs=2
    )
    return [made["generations"], made["logprobs"]]


def azure() -> Any:
    root = URL.removesuffix("/v1")
    return said(
        AzureOpenAILLM(model="stand-in", base_url=root, api_key="k", api_version="2024-10-21"),
        chat(),
    )


def together() -> Any:
    return said(TogetherLLM(model="stand-in", base_url=URL, api_key="k"), chat())


def anyscale() -> Any:
    return said(AnyscaleLLM(model="stand-in", base_url=URL, api_key="k"), chat())


def inference_endpoints() -> Any:
    return said(InferenceEndpointsLLM(base_url=URL, api_key="k"), chat())


def groq() -> Any:
    return said(GroqLLM(model="stand-in", base_url=URL.removesuffix("/v1"), api_key="k"), chat())


def ollama() -> Any:
    return said(OllamaLLM(model="stand-in", host=URL.removesuffix("/v1")), chat())


class City(BaseModel):
    name: str
    people: int


def structured() -> Any:
    """The words are drawn from all that was sent, so their shape is compared."""
    llm = openai(structured_output={"schema": City})
    _, (made,) = said(llm, chat())
    return {k: type(v).__name__ for k, v in json.loads(made["generations"][0]).items()}


def structured_rows() -> Any:
    task = StructuredGeneration(name="ask", llm=openai(), use_system_prompt=False)
    row = {"instruction": "A city?", "structured_output": {"schema": City.model_json_schema()}}
    (made,) = alone(task, row)
    return [sorted(made), sorted(json.loads(made["generation"]))]


def labels() -> Any:
    task = TextClassification(name="ask", llm=openai(), n=2)
    (made,) = alone(task, {"text": "Rain falls."})
    return [sorted(made), type(made["labels"]).__name__]


def drawn() -> Any:
    llm = OpenAIImageGeneration(
        model="stand-in", base_url=URL, api_key="k", generation_kwargs=AS_TEXT
    )
    task = ImageGeneration(name="draw", image_generation_model=llm, image_format="PNG")
    (made,) = alone(task, {"prompt": "a dot"})
    return [sorted(made), image_from_str(made["image"]).size]


def mixture() -> Any:
    llm = MixtureOfAgentsLLM(aggregator_llm=openai(), proposers_llms=[openai(), openai()], rounds=1)
    name, (made,) = said(llm, chat())
    return [name, len(made["generations"])]


def alone(task: Any, row: Any) -> Any:
    task.load()
    return next(task.process([row]))


def text_generation() -> Any:
    return alone(TextGeneration(name="ask", llm=openai()), {"instruction": "What is rain?"})


def chat_generation() -> Any:
    return alone(ChatGeneration(name="ask", llm=openai()), {"messages": chat()})


def picture_by_url() -> Any:
    task = TextGenerationWithImage(name="ask", llm=openai(), image_type="url")
    return alone(task, {"instruction": "What is it?", "image": "https://example.org/x.png"})


def picture_by_value() -> Any:
    task = TextGenerationWithImage(
        name="ask", llm=openai(), image_type="base64", system_prompt="Look."
    )
    return alone(task, {"instruction": "What is it?", "image": PIXEL})


class Painter(ImageGenerationModel):
    @property
    def model_name(self) -> str:
        return "painter"

    def load(self) -> None:
        super().load()

    def generate(self, inputs: Any, num_generations: int = 1) -> Any:
        return [[{"images": [PIXEL] * num_generations}] for _ in inputs]


class Sketcher(AsyncImageGenerationModel):
    @property
    def model_name(self) -> str:
        return "sketcher"

    def load(self) -> None:
        super().load()

    async def agenerate(self, input: str, num_generations: int = 1) -> Any:
        return [{"images": [PIXEL] * num_generations}]


def painted() -> Any:
    task = ImageGeneration(name="paint", image_generation_model=Painter(), image_format="PNG")
    return alone(task, {"prompt": "a dot"})


def sketched() -> Any:
    task = ImageGeneration(name="paint", image_generation_model=Sketcher(), image_format="PNG")
    return alone(task, {"prompt": "a dot"})


class Sketch(ImageTask):
    @property
    def inputs(self) -> list[str]:
        return ["subject"]

    @property
    def outputs(self) -> list[str]:
        return ["picture", "model_name"]

    def format_input(self, input: Any) -> str:
        return f"Draw {input['subject']}."

    def format_output(self, output: Any, input: Any = None) -> Any:
        return {"picture": None if output is None else output["images"][0]}


def own_image_task() -> Any:
    task = Sketch(name="sketch", image_generation_model=Sketcher(), add_raw_output=False)
    return alone(task, {"subject": "a dot"})


def pixels() -> Any:
    image = image_from_str(PIXEL)
    again = image_from_str(image_to_str(image, image_format="PNG"))
    return [image.size, image.mode, again.getpixel((0, 0)), len(base64.b64decode(PIXEL))]


class Lengths(Embeddings):
    def load(self) -> None:
        super().load()

    @property
    def model_name(self) -> str:
        return "lengths"

    def encode(self, inputs: list[str]) -> Any:
        return [[float(len(text)), 1.0] for text in inputs]


def embedded() -> Any:
    step = EmbeddingGeneration(name="embed", embeddings=Lengths())
    step.load()
    return next(step.process([{"text": "a"}, {"text": "bcd"}]))


def whole_pipeline() -> Any:
    with Pipeline("served", cache_dir=HOME) as it:
        load = LoadDataFromDicts(data=[{"instruction": f"Say {n}"} for n in range(5)])
        ask = TextGeneration(
            name="ask",
            llm=openai(generation_kwargs={"max_new_tokens": 20}),
            system_prompt="Be brief.",
            num_generations=2,
            input_batch_size=2,
        )
        load >> ask >> KeepColumns(columns=["instruction", "generation", "model_name"])
    return [dict(row) for row in it.run()["default"]["train"]]


CASES = [
    inference_endpoints,
    plain,
    several,
    with_settings,
    with_logprobs,
    azure,
    together,
    anyscale,
    groq,
    ollama,
    structured,
    structured_rows,
    labels,
    drawn,
    mixture,
    text_generation,
    chat_generation,
    picture_by_url,
    picture_by_value,
    painted,
    sketched,
    own_image_task,
    pixels,
    embedded,
    whole_pipeline,
]

if __name__ == "__main__":
    made: dict[str, Any] = {}
    for one in CASES:
        try:
            made[one.__name__] = one()
        except Exception as error:
            made[one.__name__] = f"{type(error).__name__}: {error}"[:300]
    (HOME / "made.json").write_text(json.dumps(made, default=str))
