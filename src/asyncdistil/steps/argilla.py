"""Steps that hand rows to people: records of a dataset on an Argilla server."""

import hashlib
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, PrivateAttr, SecretStr

from asyncdistil.batch import Row
from asyncdistil.errors import ParameterError, StepError
from asyncdistil.mixins import RuntimeParameter
from asyncdistil.models.sdk import require
from asyncdistil.steps.step import Step
from asyncdistil.typing import StepColumns, StepInput, StepOutput

# Its classes had modules of their own below this name.
__path__: list[str] = []

_RATINGS = (1, 2, 3, 4, 5)


def _environment_key() -> SecretStr | None:
    key = os.environ.get("ARGILLA_API_KEY")
    return SecretStr(key) if key else None


class ArgillaBase(Step):
    """What the steps that write to Argilla share: the connection, the dataset, the records.

    They act on the outside world: they wait until their input is durable, and a run that finds a
    push recorded does not push again. A record is named by its content, so that one which is pushed
    twice all the same, after a crash in the middle, is still one record. They need the package
    argilla (extra ``argilla``).

    Attributes:
        dataset_name: Dataset to write to; it is made if it is missing.
        dataset_workspace: Where it is, or is made; not set: the first workspace of the user.
        api_url: The server, from ``ARGILLA_API_URL`` unless given.
        api_key: Key of the server, from ``ARGILLA_API_KEY`` unless given.
    """

    effects: ClassVar[bool] = True

    dataset_name: RuntimeParameter[str] = Field(default=None, description="Name of the dataset.")
    dataset_workspace: RuntimeParameter[str] | None = Field(
        default=None, description="Its workspace; not set: the first one of the user."
    )
    api_url: RuntimeParameter[str] | None = Field(
        default_factory=lambda: os.environ.get("ARGILLA_API_URL"), description="The server."
    )
    api_key: RuntimeParameter[SecretStr] | None = Field(
        default_factory=_environment_key, description="Key of the server."
    )

    _argilla: Any = PrivateAttr(None)
    _dataset: Any = PrivateAttr(None)

    @property
    def outputs(self) -> StepColumns:
        """None: the rows are passed on as they are."""
        return []

    def load(self) -> None:
        """Connect, and find or make the dataset.

        Raises:
            ParameterError: Something is not set, the package is missing, the server refuses, or
                the dataset that is there has other fields.
        """
        super().load()
        if not self.api_url or not self.api_key or not self.dataset_name:
            raise ParameterError(
                f"step {self.name!r} needs `dataset_name`, `api_url` and `api_key`: set them, or"
                " the environment variables ARGILLA_API_URL and ARGILLA_API_KEY"
            )
        self._argilla = require("argilla", extra="argilla", needed_by=type(self).__name__)
        try:
            client = self._argilla.Argilla(
                api_url=self.api_url,
                api_key=self.api_key.get_secret_value(),
                headers=_headers(self.api_url),
            )
            found = client.datasets(name=self.dataset_name, workspace=self.dataset_workspace)
            self._dataset = found if found is not None else self._make(client)
        except Exception as error:
            raise ParameterError(
                f"step {self.name!r} can't use dataset {self.dataset_name!r} at {self.api_url}"
                f" ({type(error).__name__}: {self._hidden(error)}): see that the server runs, and"
                " that the key may write to the workspace"
            ) from None
        if found is not None:
            self._check_dataset(found)

    def unload(self) -> None:
        """Let go of the connection."""
        self._dataset = self._argilla = None
        super().unload()

    def _make(self, client: Any) -> Any:
        settings = self._argilla.Settings(
            fields=self._fields(client), questions=self._questions(client)
        )
        return self._argilla.Dataset(
            name=self.dataset_name,
            workspace=self.dataset_workspace,
            settings=settings,
            client=client,
        ).create()

    def _check_dataset(self, dataset: Any) -> None:
        """See that records of ours are whole ones of a dataset that others made.

        Raises:
            ParameterError: It requires a field that they don't have.
        """
        foreign = [
            field.name
            for field in dataset.fields
            if field.required and field.name not in self._field_names()
        ]
        if foreign:
            raise ParameterError(
                f"dataset {self.dataset_name!r} is there already and requires the fields {foreign},"
                f" which step {self.name!r} does not write: give another `dataset_name`"
            )

    def _hidden(self, error: Exception) -> str:
        key = self.api_key.get_secret_value() if self.api_key else ""
        return str(error).replace(key, "[secret]") if key else str(error)

    def _text_field(self, client: Any, name: str, *, required: bool = True) -> Any:
        return self._argilla.TextField(name=name, title=name, required=required, client=client)

    def _column(self, name: str) -> str:
        """A column of the step by its name in the pipeline, which is what people are shown."""
        return self.input_mappings.get(name, name)

    @abstractmethod
    def _field_names(self) -> Sequence[str]:
        """Names of the fields that records have."""

    @abstractmethod
    def _fields(self, client: Any) -> list[Any]:
        """Fields of a dataset that is made."""

    @abstractmethod
    def _questions(self, client: Any) -> list[Any]:
        """Questions of a dataset that is made."""

    @abstractmethod
    def _records(self, row: Row) -> list[Any]:
        """Records of a row."""

    def _record(self, fields: Mapping[str, str | None], suggestions: Sequence[Any] = ()) -> Any:
        given = {name: text for name, text in fields.items() if text is not None}
        content = "\0".join(f"{name}\0{text}" for name, text in given.items())
        return self._argilla.Record(
            id=hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest(),
            fields=given,
            suggestions=list(suggestions),
        )

    def process(self, inputs: StepInput) -> StepOutput:
        """Push the records of the rows, then yield the rows, once.

        Raises:
            StepError: The server refused them.
        """
        records = {record.id: record for row in inputs for record in self._records(row)}
        try:
            if records:
                self._dataset.records.log(list(records.values()))
        except Exception as error:
            raise StepError(
                f"dataset {self.dataset_name!r} at {self.api_url} refused {len(records)} records"
                f" ({type(error).__name__}): {self._hidden(error)}"
            ) from None
        yield inputs


class TextGenerationToArgilla(ArgillaBase):
    """Write instructions with their generations to Argilla, to be rated good or bad by people.

    Rows go on as they are; one without a generation writes no record.

    Inputs: ``instruction``; ``generation``, a text or a list of texts. Outputs: none besides.

    Attributes:
        dataset_name: As for the other attributes, see ``ArgillaBase``.

    Example:
        >>> from asyncdistil.steps import TextGenerationToArgilla
        >>> step = TextGenerationToArgilla(
        ...     dataset_name="answers", api_url="http://127.0.0.1:6900", api_key="owner.apikey"
        ... )
        >>> step.inputs, step.api_key
        (['instruction', 'generation'], SecretStr('**********'))
    """

    version: ClassVar[int | None] = 1

    @property
    def inputs(self) -> StepColumns:
        """``instruction`` and ``generation``."""
        return ["instruction", "generation"]

    def _field_names(self) -> Sequence[str]:
        return ["id", self._column("instruction"), self._column("generation")]

    def _fields(self, client: Any) -> list[Any]:
        return [self._text_field(client, name) for name in self._field_names()]

    def _questions(self, client: Any) -> list[Any]:
        instruction, generation = self._column("instruction"), self._column("generation")
        return [
            self._argilla.LabelQuestion(
                name="quality",
                title=f"How good is the {generation} as an answer to the {instruction}?",
                labels={"bad": "👎", "good": "👍"},
                client=client,
            )
        ]

    def _records(self, row: Row) -> list[Any]:
        generations = row["generation"]
        if not isinstance(generations, list):
            generations = [generations]
        instruction = row["instruction"]
        if instruction is None:
            return []
        names = self._field_names()
        return [
            self._record(
                dict(zip(names, (_id_of(instruction), instruction, generation), strict=True))
            )
            for generation in dict.fromkeys(generations)
            if generation is not None
        ]


class PreferenceToArgilla(ArgillaBase):
    """Write instructions with several generations to Argilla, to be rated by people.

    Ratings and rationales that a model gave, such as those of ``UltraFeedback``, become
    suggestions. Rows go on as they are.

    Inputs: ``instruction``; ``generations``, a list of texts; ``ratings`` and ``rationales``, lists
    that go with them, optional. Outputs: none besides.

    Attributes:
        num_generations: Generations of a row that are written, at most.
        dataset_name: As for the other attributes, see ``ArgillaBase``.

    Example:
        >>> from asyncdistil.steps import PreferenceToArgilla
        >>> step = PreferenceToArgilla(
        ...     num_generations=2,
        ...     dataset_name="answers",
        ...     api_url="http://127.0.0.1:6900",
        ...     api_key="owner.apikey",
        ... )
        >>> [name for name, needed in step.get_inputs().items() if needed]
        ['instruction', 'generations']
    """

    version: ClassVar[int | None] = 1

    num_generations: int = Field(ge=1, description="Generations that are written.")

    @property
    def inputs(self) -> StepColumns:
        """``instruction`` and ``generations``; ``ratings`` and ``rationales`` if there are any."""
        return {"instruction": True, "generations": True, "ratings": False, "rationales": False}

    def _field_names(self) -> Sequence[str]:
        return ["id", self._column("instruction"), *self._generation_names()]

    def _generation_names(self) -> list[str]:
        generations = self._column("generations")
        return [f"{generations}-{place}" for place in range(self.num_generations)]

    def _fields(self, client: Any) -> list[Any]:
        others = set(self._generation_names()[1:])
        return [
            self._text_field(client, name, required=name not in others)
            for name in self._field_names()
        ]

    def _questions(self, client: Any) -> list[Any]:
        instruction = self._column("instruction")
        questions: list[Any] = []
        for place, name in enumerate(self._generation_names()):
            hint = f"Skip it where there is no {name}." if place else None
            questions += [
                self._argilla.RatingQuestion(
                    name=f"{name}-rating",
                    title=f"Rate {name} as an answer to the {instruction}.",
                    description=hint,
                    values=list(_RATINGS),
                    required=not place,
                    client=client,
                ),
                self._argilla.TextQuestion(
                    name=f"{name}-rationale",
                    title=f"Why this rating of {name}?",
                    description=hint,
                    required=False,
                    client=client,
                ),
            ]
        return questions

    def _records(self, row: Row) -> list[Any]:
        instruction, generations = row["instruction"], row["generations"] or []
        names = self._generation_names()
        if instruction is None or not generations or generations[0] is None:
            return []  # the first one is what a record must have
        fields = {
            "id": _id_of(instruction),
            self._column("instruction"): instruction,
            **dict(zip(names, generations, strict=False)),
        }
        return [self._record(fields, self._suggestions(row, names))]

    def _suggestions(self, row: Row, names: Sequence[str]) -> list[Any]:
        suggestions: list[Any] = []
        for column, kind in (("ratings", "rating"), ("rationales", "rationale")):
            for name, value in zip(names, row.get(column) or (), strict=False):
                given = value in _RATINGS if kind == "rating" else isinstance(value, str)
                if given and not isinstance(value, bool):
                    suggestions.append(
                        self._argilla.Suggestion(
                            question_name=f"{name}-{kind}",
                            value=int(value) if kind == "rating" else value,
                        )
                    )
        return suggestions


def _id_of(instruction: str) -> str:
    """What records of one instruction have in common."""
    return hashlib.sha256(instruction.encode("utf-8", "surrogatepass")).hexdigest()


def _headers(url: str) -> dict[str, str]:
    """A private space of the Hugging Face Hub lets in whoever has a token of its owner."""
    token = os.environ.get("HF_TOKEN", "")
    return {"Authorization": f"Bearer {token}"} if token and ".hf.space" in url else {}
