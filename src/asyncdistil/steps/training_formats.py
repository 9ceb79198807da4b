"""Rows in the forms that trainers read: conversations, SFT and DPO."""

from hashlib import sha256
from typing import Any, ClassVar

from asyncdistil.batch import Row
from asyncdistil.errors import DataError
from asyncdistil.steps.row_step import RowStep
from asyncdistil.steps.rows import Entry
from asyncdistil.typing import StepColumns


class ConversationTemplate(RowStep):
    """Make a conversation of an instruction and its response.

    Inputs: ``instruction`` and ``response``. Outputs: ``conversation``, a list of two messages.

    Example:
        >>> from asyncdistil.steps import ConversationTemplate
        >>> row = {"instruction": "Hello", "response": "Hi"}
        >>> next(ConversationTemplate().process([row]))[0]["conversation"]
        [{'role': 'user', 'content': 'Hello'}, {'role': 'assistant', 'content': 'Hi'}]
    """

    version: ClassVar[int] = 1

    @property
    def inputs(self) -> StepColumns:
        """``instruction`` and ``response``."""
        return ["instruction", "response"]

    @property
    def outputs(self) -> StepColumns:
        """``conversation``."""
        return ["conversation"]

    def transform(self, *rows: Row) -> Entry:
        """Return the row with the conversation."""
        (row,) = rows
        turns = [_user(row["instruction"]), _assistant(row["response"])]
        return {**row, "conversation": turns}


class FormatTextGenerationSFT(RowStep):
    """Give an instruction and its generation the form of a row for supervised fine-tuning.

    Inputs: ``instruction``, ``generation``; ``system_prompt`` if there is one. Outputs: ``prompt``,
    the instruction; ``prompt_id``, 64 hex digits of its SHA-256; ``messages``, a list.

    Example:
        >>> from asyncdistil.steps import FormatTextGenerationSFT
        >>> row = {"instruction": "What's 2+2?", "generation": "4"}
        >>> made = next(FormatTextGenerationSFT().process([row]))[0]
        >>> made["messages"]
        [{'role': 'user', 'content': "What's 2+2?"}, {'role': 'assistant', 'content': '4'}]
        >>> made["prompt_id"][:8]
        '7762ecf1'
    """

    version: ClassVar[int] = 1

    @property
    def inputs(self) -> StepColumns:
        """``instruction`` and ``generation``, perhaps ``system_prompt``."""
        return {"system_prompt": False, "instruction": True, "generation": True}

    @property
    def outputs(self) -> StepColumns:
        """``prompt``, ``prompt_id`` and ``messages``."""
        return ["prompt", "prompt_id", "messages"]

    def transform(self, *rows: Row) -> Entry:
        """Return the row in its new form."""
        (row,) = rows
        messages = [*_asked(row), _assistant(row["generation"])]
        return {**row, **_prompt(row["instruction"]), "messages": messages}


class FormatChatGenerationSFT(RowStep):
    """Give a conversation and its next turn the form of a row for supervised fine-tuning.

    Inputs: ``messages``, a list; ``generation``, what the assistant says next. Outputs:
    ``prompt``, what the user said first; ``prompt_id``, 64 hex digits of its SHA-256;
    ``messages``, with the generation at the end.

    Example:
        >>> from asyncdistil.steps import FormatChatGenerationSFT
        >>> row = {"messages": [{"role": "user", "content": "Hi"}], "generation": "Hello"}
        >>> made = next(FormatChatGenerationSFT().process([row]))[0]
        >>> made["prompt"], made["messages"][-1]
        ('Hi', {'role': 'assistant', 'content': 'Hello'})
    """

    version: ClassVar[int] = 1

    @property
    def inputs(self) -> StepColumns:
        """``messages`` and ``generation``."""
        return ["messages", "generation"]

    @property
    def outputs(self) -> StepColumns:
        """``prompt``, ``prompt_id`` and ``messages``."""
        return ["prompt", "prompt_id", "messages"]

    def transform(self, *rows: Row) -> Entry:
        """Return the row in its new form."""
        (row,) = rows
        messages = [*row["messages"], _assistant(row["generation"])]
        return {**row, **_prompt(_first_said(row["messages"])), "messages": messages}


class _Preference(RowStep):
    """What both forms for preferences share: the best and the worst rated generation."""

    version: ClassVar[int] = 1

    @property
    def outputs(self) -> StepColumns:
        """The prompt, and what was chosen and rejected; the models if the row names them."""
        return {
            "prompt": True,
            "prompt_id": True,
            "chosen": True,
            "chosen_model": False,
            "chosen_rating": True,
            "rejected": True,
            "rejected_model": False,
            "rejected_rating": True,
        }

    def _preferred(self, row: Row, turns: list[Any]) -> Row:
        generations, ratings = row["generations"], row["ratings"]
        if len(generations) != len(ratings) or not ratings:
            raise DataError(
                f"step {self.name!r} needs one rating per generation, and at least one: got "
                f"{len(generations)} generations and {len(ratings)} ratings"
            )
        unrated = [n for n, rating in enumerate(ratings) if rating is None]
        if unrated:
            raise DataError(
                f"step {self.name!r} got no rating for generation {unrated[0]}: filter such rows "
                "out before it"
            )
        made: Row = {}
        models = row.get("generation_models")
        # The first of equals, on both sides.
        best, worst = ratings.index(max(ratings)), ratings.index(min(ratings))
        for name, place in ("chosen", best), ("rejected", worst):
            made[name] = [*turns, _assistant(generations[place])]
            if models is not None:
                made[f"{name}_model"] = models[place]
            made[f"{name}_rating"] = ratings[place]
        return made


class FormatTextGenerationDPO(_Preference):
    """Make a preference of the best and the worst rated answer to an instruction.

    Of equal ratings the first counts. A row with a missing rating fails alone.

    Inputs: ``instruction``; ``generations`` and ``ratings``, lists; perhaps ``system_prompt`` and
    ``generation_models``. Outputs: ``prompt``, the instruction; ``prompt_id``, 64 hex digits of its
    SHA-256; ``chosen`` and ``rejected``, conversations; ``chosen_rating`` and ``rejected_rating``;
    with the models' names ``chosen_model`` and ``rejected_model``.

    Example:
        >>> from asyncdistil.steps import FormatTextGenerationDPO
        >>> row = {"instruction": "2+2?", "generations": ["4", "5"], "ratings": [1, -1]}
        >>> made = next(FormatTextGenerationDPO().process([row]))[0]
        >>> made["chosen"][-1]["content"], made["rejected"][-1]["content"]
        ('4', '5')

    Source: Rafailov et al., Direct Preference Optimization: Your Language Model is Secretly a
    Reward Model, https://arxiv.org/abs/2305.18290
    """

    @property
    def inputs(self) -> StepColumns:
        """The instruction, what was generated, and how it was rated."""
        return {
            "system_prompt": False,
            "instruction": True,
            "generations": True,
            "generation_models": False,
            "ratings": True,
        }

    def transform(self, *rows: Row) -> Entry:
        """Return the row in its new form."""
        (row,) = rows
        return {**row, **_prompt(row["instruction"]), **self._preferred(row, _asked(row))}


class FormatChatGenerationDPO(_Preference):
    """Make a preference of the best and the worst rated next turn of a conversation.

    Of equal ratings the first counts. A row with a missing rating fails alone.

    Inputs: ``messages``, ``generations`` and ``ratings``, lists; perhaps ``generation_models``.
    Outputs: ``prompt``, what the user said first, and the others of `FormatTextGenerationDPO`.

    Example:
        >>> from asyncdistil.steps import FormatChatGenerationDPO
        >>> row = {
        ...     "messages": [{"role": "user", "content": "2+2?"}],
        ...     "generations": ["4", "5"], "ratings": [1, -1], "generation_models": ["m", "n"],
        ... }
        >>> made = next(FormatChatGenerationDPO().process([row]))[0]
        >>> made["prompt"], made["chosen_model"], made["rejected_rating"]
        ('2+2?', 'm', -1)

    Source: as for `FormatTextGenerationDPO`.
    """

    @property
    def inputs(self) -> StepColumns:
        """The conversation, what was generated, and how it was rated."""
        return {"messages": True, "generations": True, "generation_models": False, "ratings": True}

    def transform(self, *rows: Row) -> Entry:
        """Return the row in its new form."""
        (row,) = rows
        turns = row["messages"]
        return {**row, **_prompt(_first_said(turns)), **self._preferred(row, turns)}


def _user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _assistant(text: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _asked(row: Row) -> list[dict[str, Any]]:
    system = row.get("system_prompt")
    turns = [_user(row["instruction"])]
    if isinstance(system, str) and system:
        turns.insert(0, {"role": "system", "content": system})
    return turns


def _first_said(messages: list[Any]) -> Any:
    for turn in messages:
        if turn["role"] == "user":
            return turn["content"]
    raise DataError("no message of a user is in the conversation")


def _prompt(text: str) -> Row:
    return {"prompt": text, "prompt_id": sha256(text.encode()).hexdigest()}
