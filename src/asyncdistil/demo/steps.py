"""The steps of the demonstration. Each notes in the journal what it is called with."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import msgspec
from xxhash import xxh3_128_digest, xxh3_128_hexdigest

from asyncdistil.batch import Row
from asyncdistil.demo import library, questions
from asyncdistil.demo.journal import note
from asyncdistil.steps import GeneratorStep, GlobalStep, RowStep
from asyncdistil.steps.rows import Entries, Entry
from asyncdistil.typing import GeneratorStepOutput, StepColumns, StepInput, StepOutput


class ListModules(GeneratorStep):
    """One row per module of the standard library, with the digest of its source.

    The digest makes a module whose source changed another row, and everything below it runs
    again for this module alone.
    """

    version: ClassVar[int] = 1
    resumable: ClassVar[bool] = True

    @property
    def outputs(self) -> StepColumns:
        """Where the source is, and what is in it."""
        return ["module", "path", "source_digest"]

    def process(self, offset: int = 0) -> GeneratorStepOutput:
        """Yield the modules from the ``offset``-th on."""
        rows = _module_rows()
        for start in range(offset, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            note(self.name, batch)
            yield batch, start + self.batch_size >= len(rows)

    def data_identity(self) -> bytes | None:
        """Digest of every source file."""
        return xxh3_128_digest(msgspec.msgpack.encode(_module_rows()))


def _module_rows() -> list[Row]:
    return [
        {
            "module": module,
            "path": os.fspath(path),
            "source_digest": xxh3_128_hexdigest(path.read_bytes()),
        }
        for module, path in library.modules()
    ]


class Noted(RowStep):
    """A row step that writes its calls down."""

    def entries(self, *ports: list[Row]) -> Iterator[Entries]:
        """Note the rows, then work on them."""
        note(self.name, ports[0])
        return super().entries(*ports)


class ExtractDocumentation(Noted):
    """Turn a module into one row per documentation string in it."""

    version: ClassVar[int] = 1

    @property
    def inputs(self) -> StepColumns:
        """The module and its source."""
        return ["module", "path"]

    @property
    def outputs(self) -> StepColumns:
        """What is documented, and the text."""
        return ["name", "kind", "arguments", "line", "documentation"]

    def transform(self, *rows: Row) -> Entry:
        """Parse the source; a file that is not Python gives no rows."""
        (row,) = rows
        try:
            found = list(library.documented(Path(row["path"]).read_bytes()))
        except SyntaxError:
            return None
        return [
            {
                **row,
                "name": item.name,
                "kind": item.kind,
                "arguments": item.arguments,
                "line": item.line,
                "documentation": item.text,
            }
            for item in found
        ]


class CleanText(Noted):
    """Tidy the documentation, and drop what is too short to learn from."""

    version: ClassVar[int] = 1

    @property
    def inputs(self) -> StepColumns:
        """The text."""
        return ["documentation"]

    @property
    def outputs(self) -> StepColumns:
        """The tidy text."""
        return ["text"]

    def transform(self, *rows: Row) -> Entry:
        """Clean one text."""
        (row,) = rows
        text = questions.cleaned(row["documentation"])
        return None if text is None else row | {"text": text}


class DropDuplicates(GlobalStep):
    """Keep the first of all rows whose texts differ in nothing but form."""

    version: ClassVar[int] = 1

    @property
    def inputs(self) -> StepColumns:
        """The text."""
        return ["text"]

    @property
    def outputs(self) -> StepColumns:
        """How many rows said the same."""
        return ["copies"]

    def process(self, inputs: StepInput) -> StepOutput:
        """Yield the first of each kind."""
        note(self.name, inputs)
        prints = [questions.fingerprint(row["text"]) for row in inputs]
        copies = Counter(prints)
        first = dict(zip(reversed(prints), reversed(inputs), strict=True))
        yield [
            row | {"copies": copies[mark]}
            for mark, row in zip(prints, inputs, strict=True)
            if first[mark] is row
        ]


class AskAndAnswer(Noted):
    """Make a question of the name, and an answer of the text."""

    version: ClassVar[int] = 1

    @property
    def inputs(self) -> StepColumns:
        """What is documented, and the text."""
        return ["module", "name", "kind", "text"]

    @property
    def outputs(self) -> StepColumns:
        """Question and answer."""
        return ["question", "answer", "summary"]

    def transform(self, *rows: Row) -> Entry:
        """Ask about one thing."""
        (row,) = rows
        return row | {
            "question": questions.question(row["kind"], row["module"], row["name"]),
            "answer": questions.answer(row["text"]),
            "summary": questions.summary(row["text"]),
        }


class ScoreText(Noted):
    """Judge how much a reader learns from the text."""

    version: ClassVar[int] = 1

    @property
    def inputs(self) -> StepColumns:
        """The text and the arguments that it should explain."""
        return ["text", "arguments"]

    @property
    def outputs(self) -> StepColumns:
        """A score from 0 to 1, and the first example."""
        return ["score", "example"]

    def transform(self, *rows: Row) -> Entry:
        """Score one text."""
        (row,) = rows
        text = row["text"]
        return row | {
            "score": questions.score(text, row["arguments"]),
            "example": questions.example(text),
        }


class RankInModule(GlobalStep):
    """Number the rows of each module, the best one first."""

    version: ClassVar[int] = 1

    @property
    def inputs(self) -> StepColumns:
        """Module and score."""
        return ["module", "score"]

    @property
    def outputs(self) -> StepColumns:
        """Place in the module, from 1."""
        return ["rank_in_module"]

    def process(self, inputs: StepInput) -> StepOutput:
        """Yield all rows in their order, each with its place."""
        note(self.name, inputs)
        places: dict[int, int] = {}
        seen: Counter[str] = Counter()
        for number in sorted(range(len(inputs)), key=lambda n: (-inputs[n]["score"], n)):
            module = inputs[number]["module"]
            seen[module] += 1
            places[number] = seen[module]
        yield [row | {"rank_in_module": places[n]} for n, row in enumerate(inputs)]
