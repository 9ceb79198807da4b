"""Training data for text embeddings, made up by a model: first tasks, then examples for them."""

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PrivateAttr

from asyncdistil.batch import Row
from asyncdistil.errors import ModelReplyError
from asyncdistil.mixins import RUNTIME_PARAMETER
from asyncdistil.models.typing import ChatType
from asyncdistil.steps.tasks import prompts, replies
from asyncdistil.steps.tasks.base import BaseTask, GeneratorTask, Task
from asyncdistil.steps.tasks.dialogue import Dialogue, ask
from asyncdistil.steps.tasks.draws import Draw
from asyncdistil.typing import GeneratorStepOutput, StepColumns

_QUERY_TYPES = ("extremely long-tail", "long-tail", "common")
_QUERY_LENGTHS = ("less than 5 words", "5 to 15 words", "at least 10 words")
_CLARITIES = ("clear", "understandable with some effort", "ambiguous")
_EDUCATIONS = ("high school", "college", "PhD")
_WORDS = (50, 100, 200, 300, 400, 500)
_UNITS = ("sentence", "phrase", "passage")
_PAIR_EDUCATIONS = ("elementary school", "high school", "college")
_HIGH_SCORES = ("4", "4.5", "5")
_LOW_SCORES = ("2.5", "3", "3.5")


class _JsonTask(BaseTask):
    """What the tasks share whose replies are a JSON object with fixed keys."""

    keys: ClassVar[tuple[str, ...]]
    seed: Annotated[int, RUNTIME_PARAMETER] = Field(
        default=42, description="Seed of what is not set."
    )

    @property
    def outputs(self) -> StepColumns:
        """The keys of the object, and ``model_name``."""
        return [*self.keys, "model_name"]

    def format_output(self, output: Any, input: dict[str, Any] | None = None) -> dict[str, Any]:
        """The values of the object.

        Raises:
            ModelReplyError: There is no object in the reply, or it lacks a key.
        """
        if output is None:
            return dict.fromkeys(self.keys)
        held = replies.read_object(output, *self.keys)
        return {key: held[key] for key in self.keys}

    def get_structured_output(self) -> dict[str, Any]:
        """An object of texts."""
        return {
            "title": type(self).__name__,
            "type": "object",
            "properties": {key: {"type": "string"} for key in self.keys},
            "required": list(self.keys),
        }


class _ExampleTask(_JsonTask, Task):
    """What the tasks share that write an example for a task in column ``task``."""

    language: str = Field(default="English", description="Language of the example.")

    _can_be_used_with_offline_batch_generation: bool = PrivateAttr(default=True)

    @property
    def inputs(self) -> StepColumns:
        """``task``."""
        return ["task"]

    def drawn(self, task: str) -> dict[str, Any]:
        """Values for the prompt besides task and language; what is not set is drawn."""
        return {}

    def format_input(self, input: dict[str, Any]) -> ChatType:
        """The task, and what the example should be like."""
        task = input["task"]
        user = prompts.render(
            self.prompt_files[0], task=task, language=self.language, **self.drawn(task)
        )
        return [{"role": "user", "content": user}]


class _PromptGenerator(GeneratorTask):
    """What the generators share that ask one prompt ``num_generations`` times."""

    reads_only_fields: ClassVar[bool] = True

    @property
    @abstractmethod
    def prompt(self) -> ChatType:
        """What is asked."""

    def process(self, offset: int = 0) -> GeneratorStepOutput:
        """Ask once.

        Raises:
            ModelReplyError: None of the answers could be used.
        """
        [rows] = self.hold([self._rows()])
        yield rows[offset:], True

    def _rows(self) -> Dialogue[list[Row]]:
        prompt = self.prompt
        reply = yield from ask(self.asked(prompt), self.num_generations)
        answers = self.answers(reply, None, prompt)
        failures = [answer.failure for answer in answers if answer.failure is not None]
        if len(failures) == len(answers):
            reason = f"{failures[0].kind}: {failures[0].message}" if failures else "it gave none"
            raise ModelReplyError(
                f"generator {self.name!r} could use no answer of the model; {reason}"
            )
        name = {"model_name": self.llm.model_name}
        rows = [self.noted(answer) | name for answer in answers]
        if not self.group_generations:
            return [row for made in rows for row in self.expanded(made)]
        return [{key: [row.get(key) for row in rows] for key in rows[0]} | name]

    def expanded(self, row: Row) -> list[Row]:
        """Rows that one answer becomes."""
        return [row]

    def _sample_input(self) -> ChatType:
        return self.prompt


class EmbeddingTaskGenerator(_PromptGenerator):
    """Make up tasks of a category for which embeddings are useful.

    Inputs: none. Outputs: ``tasks``, a list of texts, or with ``flatten_tasks`` a row for each in
    ``task``; ``model_name``.

    Attributes:
        category: Kind of the tasks.
        flatten_tasks: Whether every task is a row.

    Example:
        >>> from asyncdistil.steps.tasks import EmbeddingTaskGenerator
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> task = EmbeddingTaskGenerator(
        ...     llm=FakeLLM(reply='["Find answers.", "Find laws."]'), category="text-retrieval",
        ...     flatten_tasks=True,
        ... )
        >>> task.load()
        >>> rows, last = next(task.process())
        >>> [row["task"] for row in rows], last
        (['Find answers.', 'Find laws.'], True)

    Source: Wang et al., Improving Text Embeddings with Large Language Models,
    https://arxiv.org/abs/2401.00368
    """

    version: ClassVar[int | None] = 1
    prompt_files: ClassVar[tuple[str, ...]] = (
        "embeddings/brainstorm-text-retrieval.jinja2",
        "embeddings/brainstorm-text-matching-short.jinja2",
        "embeddings/brainstorm-text-matching-long.jinja2",
        "embeddings/brainstorm-text-classification.jinja2",
    )

    category: Literal[
        "text-retrieval", "text-matching-short", "text-matching-long", "text-classification"
    ]
    flatten_tasks: bool = False

    _can_be_used_with_offline_batch_generation: bool = PrivateAttr(default=True)

    @property
    def outputs(self) -> StepColumns:
        """``tasks`` or ``task``, and ``model_name``."""
        return ["task" if self.flatten_tasks else "tasks", "model_name"]

    @property
    def prompt(self) -> ChatType:
        """The request for tasks of the category."""
        user = prompts.render(f"embeddings/brainstorm-{self.category}.jinja2")
        return [{"role": "user", "content": user}]

    def format_output(self, output: Any, input: dict[str, Any] | None = None) -> dict[str, Any]:
        """The list in the reply; ``flatten_tasks`` is applied later.

        Raises:
            ModelReplyError: There is no list of texts.
        """
        if output is None:
            return {self._column: None}
        tasks = replies.read_json(output, kind=list)
        if not tasks or not all(isinstance(task, str) for task in tasks):
            raise ModelReplyError(f"no list of tasks in the reply: {replies.shown(output)}")
        return {self._column: tasks}

    @property
    def _column(self) -> str:
        return "task" if self.flatten_tasks else "tasks"

    def expanded(self, row: Row) -> list[Row]:
        """A row per task, if they are to be flat."""
        if not self.flatten_tasks or not isinstance(row["task"], list):
            return [row]
        return [{**row, "task": task} for task in row["task"]]


class GenerateTextRetrievalData(_ExampleTask):
    """Write a query, a document for it and one that only looks like it.

    Inputs: ``task``, such as `EmbeddingTaskGenerator` makes. Outputs: ``user_query``,
    ``positive_document``, ``hard_negative_document``, ``model_name``.

    Attributes:
        language: Language of the texts.
        query_type: How common the query is; drawn by seed and row if not set, as all below.
        query_length: How long it is.
        difficulty: Education that it takes to understand the texts.
        clarity: How clear the query is.
        num_words: Least words of a document.
        seed: Seed of the draws.

    Example:
        >>> from asyncdistil.steps.tasks import GenerateTextRetrievalData
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> reply = '{"user_query": "q", "positive_document": "p", "hard_negative_document": "n"}'
        >>> task = GenerateTextRetrievalData(llm=FakeLLM(reply=reply))
        >>> task.load()
        >>> next(task.process([{"task": "Find answers."}]))[0]["positive_document"]
        'p'

    Source: Wang et al., Improving Text Embeddings with Large Language Models,
    https://arxiv.org/abs/2401.00368
    """

    version: ClassVar[int | None] = 1
    prompt_files: ClassVar[tuple[str, ...]] = ("embeddings/text-retrieval.jinja2",)
    keys: ClassVar[tuple[str, ...]] = (
        "user_query",
        "positive_document",
        "hard_negative_document",
    )

    query_type: Literal["extremely long-tail", "long-tail", "common"] | None = None
    query_length: Literal["less than 5 words", "5 to 15 words", "at least 10 words"] | None = None
    difficulty: Literal["high school", "college", "PhD"] | None = None
    clarity: Literal["clear", "understandable with some effort", "ambiguous"] | None = None
    num_words: Literal[50, 100, 200, 300, 400, 500] | None = None

    def drawn(self, task: str) -> dict[str, Any]:
        """Kind, length and clarity of the query, education and length of the documents."""
        draw = Draw(self.seed, task)
        lots = {
            "query_type": draw.choice(_QUERY_TYPES),
            "query_length": draw.choice(_QUERY_LENGTHS),
            "difficulty": draw.choice(_EDUCATIONS),
            "clarity": draw.choice(_CLARITIES),
            "num_words": draw.choice(_WORDS),
        }
        return {name: getattr(self, name) or lot for name, lot in lots.items()}


class GenerateShortTextMatchingData(_ExampleTask):
    """Write two short texts that match as a task wants.

    Inputs: ``task``. Outputs: ``input``, ``positive_document``, ``model_name``.

    Attributes:
        language: Language of the texts.

    Example:
        >>> from asyncdistil.steps.tasks import GenerateShortTextMatchingData
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> reply = '{"input": "hammer", "positive_document": "driving nails"}'
        >>> task = GenerateShortTextMatchingData(llm=FakeLLM(reply=reply))
        >>> task.load()
        >>> next(task.process([{"task": "Say what a tool is for."}]))[0]["positive_document"]
        'driving nails'

    Source: Wang et al., Improving Text Embeddings with Large Language Models,
    https://arxiv.org/abs/2401.00368
    """

    version: ClassVar[int | None] = 1
    prompt_files: ClassVar[tuple[str, ...]] = ("embeddings/short-text-matching.jinja2",)
    keys: ClassVar[tuple[str, ...]] = ("input", "positive_document")


class GenerateLongTextMatchingData(_ExampleTask):
    """Write two long texts that match as a task wants.

    Inputs: ``task``. Outputs: ``input``, ``positive_document``, ``model_name``.

    Attributes:
        language: Language of the texts.

    Example:
        >>> from asyncdistil.steps.tasks import GenerateLongTextMatchingData
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> reply = '{"input": "A long report ...", "positive_document": "Another one ..."}'
        >>> task = GenerateLongTextMatchingData(llm=FakeLLM(reply=reply))
        >>> task.load()
        >>> next(task.process([{"task": "Find a like report."}]))[0]["positive_document"]
        'Another one ...'

    Source: Wang et al., Improving Text Embeddings with Large Language Models,
    https://arxiv.org/abs/2401.00368
    """

    version: ClassVar[int | None] = 1
    prompt_files: ClassVar[tuple[str, ...]] = ("embeddings/long-text-matching.jinja2",)
    keys: ClassVar[tuple[str, ...]] = ("input", "positive_document")


class GenerateTextClassificationData(_ExampleTask):
    """Write a text, its class and a class that it might be taken for.

    Inputs: ``task``. Outputs: ``input_text``, ``label``, ``misleading_label``, ``model_name``.

    Attributes:
        language: Language of the texts.
        difficulty: Education that it takes to understand the text; drawn by seed and row if not
            set, as ``clarity``.
        clarity: How clear the text is.
        seed: Seed of the draws.

    Example:
        >>> from asyncdistil.steps.tasks import GenerateTextClassificationData
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> reply = '{"input_text": "Never again.", "label": "bad", "misleading_label": "good"}'
        >>> task = GenerateTextClassificationData(llm=FakeLLM(reply=reply))
        >>> task.load()
        >>> next(task.process([{"task": "Judge a review."}]))[0]["label"]
        'bad'

    Source: Wang et al., Improving Text Embeddings with Large Language Models,
    https://arxiv.org/abs/2401.00368
    """

    version: ClassVar[int | None] = 1
    prompt_files: ClassVar[tuple[str, ...]] = ("embeddings/text-classification.jinja2",)
    keys: ClassVar[tuple[str, ...]] = ("input_text", "label", "misleading_label")

    difficulty: Literal["high school", "college", "PhD"] | None = None
    clarity: Literal["clear", "understandable with some effort", "ambiguous"] | None = None

    def drawn(self, task: str) -> dict[str, Any]:
        """Education and clarity."""
        draw = Draw(self.seed, task)
        lots = {"difficulty": draw.choice(_EDUCATIONS), "clarity": draw.choice(_CLARITIES)}
        return {name: getattr(self, name) or lot for name, lot in lots.items()}


class _TripletGenerator(_JsonTask, _PromptGenerator):
    """What the generators of three texts share."""

    keys: ClassVar[tuple[str, ...]] = ("S1", "S2", "S3")

    unit: Literal["sentence", "phrase", "passage"] | None = None
    difficulty: Literal["elementary school", "high school", "college"] | None = None
    high_score: Literal["4", "4.5", "5"] | None = None
    low_score: Literal["2.5", "3", "3.5"] | None = None

    _can_be_used_with_offline_batch_generation: bool = PrivateAttr(default=True)

    @property
    @abstractmethod
    def languages(self) -> dict[str, str]:
        """Languages of the texts, as the prompt calls them."""

    @property
    def prompt(self) -> ChatType:
        """The request for three texts; what is not set is drawn by the seed."""
        draw = Draw(self.seed, type(self).__name__)
        lots = {
            "unit": draw.choice(_UNITS),
            "difficulty": draw.choice(_PAIR_EDUCATIONS),
            "high_score": draw.choice(_HIGH_SCORES),
            "low_score": draw.choice(_LOW_SCORES),
        }
        values = {name: getattr(self, name) or lot for name, lot in lots.items()}
        user = prompts.render(self.prompt_files[0], **self.languages, **values)
        return [{"role": "user", "content": user}]


class MonolingualTripletGenerator(_TripletGenerator):
    """Make up three texts of one language, two of them closer in meaning than the third.

    Inputs: none. Outputs: ``S1``, ``S2``, ``S3``, ``model_name``.

    Attributes:
        language: Language of the texts.
        unit: What each text is; drawn by the seed if not set, as all below.
        difficulty: Education that it takes to understand them.
        high_score: Closeness of S1 and S2, of 5.
        low_score: Closeness of S1 and S3, of 5.
        seed: Seed of the draws.

    Example:
        >>> from asyncdistil.steps.tasks import MonolingualTripletGenerator
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> reply = '{"S1": "Rain falls.", "S2": "It rains.", "S3": "It snows."}'
        >>> task = MonolingualTripletGenerator(llm=FakeLLM(reply=reply))
        >>> task.load()
        >>> next(task.process())[0][0]["S2"]
        'It rains.'

    Source: Wang et al., Improving Text Embeddings with Large Language Models,
    https://arxiv.org/abs/2401.00368
    """

    version: ClassVar[int | None] = 1
    prompt_files: ClassVar[tuple[str, ...]] = ("embeddings/monolingual-triplet.jinja2",)

    language: str = Field(default="English", description="Language of the texts.")

    @property
    def languages(self) -> dict[str, str]:
        """One language."""
        return {"language": self.language}


class BitextRetrievalGenerator(_TripletGenerator):
    """Make up a text and two of another language, one of them closer to it in meaning.

    Inputs: none. Outputs: ``S1``, ``S2``, ``S3``, ``model_name``.

    Attributes:
        source_language: Language of S1.
        target_language: Language of S2 and S3.
        unit: What each text is; drawn by the seed if not set, as all below.
        difficulty: Education that it takes to understand them.
        high_score: Closeness of S1 and S2, of 5.
        low_score: Closeness of S1 and S3, of 5.
        seed: Seed of the draws.

    Example:
        >>> from asyncdistil.steps.tasks import BitextRetrievalGenerator
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> reply = '{"S1": "It rains.", "S2": "Es regnet.", "S3": "Es schneit."}'
        >>> task = BitextRetrievalGenerator(
        ...     llm=FakeLLM(reply=reply), source_language="English", target_language="German"
        ... )
        >>> task.load()
        >>> next(task.process())[0][0]["S2"]
        'Es regnet.'

    Source: Wang et al., Improving Text Embeddings with Large Language Models,
    https://arxiv.org/abs/2401.00368
    """

    version: ClassVar[int | None] = 1
    prompt_files: ClassVar[tuple[str, ...]] = ("embeddings/bitext-retrieval.jinja2",)

    source_language: str = Field(default="English", description="Language of S1.")
    target_language: str = Field(description="Language of S2 and S3.")

    @property
    def languages(self) -> dict[str, str]:
        """Two languages."""
        return {"source_language": self.source_language, "target_language": self.target_language}
