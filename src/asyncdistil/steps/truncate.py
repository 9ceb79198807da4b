"""`TruncateTextColumn`: texts cut to a length."""

from typing import Any, ClassVar

from pydantic import PositiveInt, PrivateAttr

from asyncdistil.batch import Row
from asyncdistil.models.tokenizing import load_tokenizer
from asyncdistil.steps.row_step import RowStep
from asyncdistil.steps.rows import Entry
from asyncdistil.typing import StepColumns


class TruncateTextColumn(RowStep):
    """Cut a text after a number of tokens, or of characters if no tokenizer is given.

    Inputs: ``column``, a text. Outputs: ``column``, the same or its beginning; ``None`` stays.

    Attributes:
        column: The column.
        max_length: Tokens or characters that are left, at most.
        tokenizer: Hub id or directory of a tokenizer; needs transformers.

    Example:
        >>> from asyncdistil.steps import TruncateTextColumn
        >>> cut = TruncateTextColumn(column="text", max_length=10)
        >>> next(cut.process([{"text": "This is some text that is too long"}]))
        [{'text': 'This is so'}]
    """

    version: ClassVar[int] = 1

    column: str = "text"
    max_length: PositiveInt = 8192
    tokenizer: str | None = None

    _tokenizer: Any = PrivateAttr(default=None)

    def load(self) -> None:
        """Load the tokenizer, if there is one.

        Raises:
            ParameterError: transformers is not installed.
        """
        super().load()
        if self.tokenizer is not None:
            self._tokenizer = load_tokenizer(self.tokenizer, needed_by="TruncateTextColumn")

    def unload(self) -> None:
        """Let go of the tokenizer."""
        self._tokenizer = None
        super().unload()

    @property
    def inputs(self) -> StepColumns:
        """The column."""
        return [self.column]

    @property
    def outputs(self) -> StepColumns:
        """The column."""
        return [self.column]

    def transform(self, *rows: Row) -> Entry:
        """Return the row with the text cut."""
        (row,) = rows
        text = row[self.column]
        return row if text is None else {**row, self.column: self._cut(text)}

    def _cut(self, text: str) -> str:
        if self._tokenizer is None:
            return text[: self.max_length]
        tokens = self._tokenizer.encode(
            text, add_special_tokens=False, max_length=self.max_length, truncation=True
        )
        cut: str = self._tokenizer.decode(tokens)
        return cut
