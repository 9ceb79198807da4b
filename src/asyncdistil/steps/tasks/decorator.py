"""``@task``: a task class out of a function that formats the output."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pydantic import create_model

from asyncdistil.errors import ParameterError
from asyncdistil.models.typing import ChatType
from asyncdistil.steps.tasks.base import Task
from asyncdistil.typing import StepColumns

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_HOW = (
    "write YAML between two lines of three dashes in its docstring, with the keys `system_prompt` "
    "and `user_message_template`"
)


class _FunctionTask(Task):
    """What makes a task of a function; function, columns and prompts are per class."""

    function: ClassVar[Callable[..., dict[str, Any]]]
    declared_inputs: ClassVar[StepColumns] = []
    declared_outputs: ClassVar[StepColumns] = []

    # Fields, so that they are part of the identity: docstrings are not.
    system_prompt: str
    user_message_template: str

    @property
    def inputs(self) -> StepColumns:
        """Columns given to the decorator."""
        return self.declared_inputs

    @property
    def outputs(self) -> StepColumns:
        """Columns given to the decorator."""
        return self.declared_outputs

    def extra_code(self) -> Mapping[str, Callable[..., Any]]:
        """The function; the class around it is the library's."""
        return {"function": type(self).function}

    def format_input(self, input: dict[str, Any]) -> ChatType:
        """The two prompts, filled."""
        return [
            {"role": "system", "content": _fill(self.system_prompt, input)},
            {"role": "user", "content": _fill(self.user_message_template, input)},
        ]

    def format_output(
        self, output: str | None, input: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """What the function makes of the reply."""
        return type(self).function(output, input)


def task(
    inputs: StepColumns | None = None, outputs: StepColumns | None = None
) -> Callable[[Callable[..., dict[str, Any]]], type[Task]]:
    """Make a task class of a function ``(output, input) -> columns``.

    The docstring of the function holds the prompts, as YAML between two lines of three dashes:
    ``system_prompt`` and ``user_message_template``. ``{column}`` in them stands for a column.

    Args:
        inputs: Columns that the prompts may use.
        outputs: Columns that the function returns.

    Raises:
        ParameterError: The docstring has no such YAML, or a prompt uses an undeclared column.

    Example:
        >>> from asyncdistil.steps.tasks import task
        >>> from asyncdistil.testing.fake_llm import EchoLLM
        >>> @task(inputs=["noun"], outputs=["poem"])
        ... def WritePoem(output, input):
        ...     '''Poems.
        ...
        ...     ---
        ...     system_prompt: |
        ...         You are a poet.
        ...     user_message_template: |
        ...         Write a poem on {noun}.
        ...     ---
        ...     '''
        ...     return {"poem": output}
        >>> poet = WritePoem(llm=EchoLLM())
        >>> poet.load()
        >>> next(poet.process([{"noun": "rain"}]))[0]["poem"]
        'Write a poem on rain.'
    """
    allowed = list(inputs or [])

    def decorate(function: Callable[..., dict[str, Any]]) -> type[Task]:
        name = getattr(function, "__name__", repr(function))
        system, user = read_prompts(inspect.getdoc(function) or "", where=name)
        _check_placeholders(name, allowed, system_prompt=system, user_message_template=user)
        made = create_model(
            name,
            __base__=_FunctionTask,
            __module__=function.__module__,
            __doc__=function.__doc__,
            system_prompt=(str, system),
            user_message_template=(str, user),
        )
        made.__qualname__ = getattr(function, "__qualname__", name)
        made.function = staticmethod(function)
        made.declared_inputs = inputs or []
        made.declared_outputs = outputs or []
        return made

    return decorate


def _check_placeholders(task: str, allowed: list[str], **texts: str) -> None:
    for key, text in texts.items():
        if unknown := sorted(set(_PLACEHOLDER.findall(text)) - set(allowed)):
            raise ParameterError(
                f"the {key} of task {task!r} uses {unknown}, but its inputs are {allowed}: "
                f"declare them in @task(inputs=...)"
            )


def read_prompts(docstring: str, *, where: str) -> tuple[str, str]:
    """Read system prompt and user message template out of a docstring.

    Args:
        docstring: With its indentation removed.
        where: Name of the function, for the message.

    Raises:
        ParameterError: They are not there.
    """
    import yaml

    parts = re.split(r"^---[ \t]*$", docstring, flags=re.MULTILINE)
    if len(parts) != 3:
        raise ParameterError(f"function {where!r} can't become a task: {_HOW}")
    try:
        held = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        raise ParameterError(
            f"the docstring of {where!r} holds YAML that can't be read ({error}): {_HOW}"
        ) from None
    found = held if isinstance(held, dict) else {}
    system, user = found.get("system_prompt"), found.get("user_message_template")
    if not isinstance(system, str) or not isinstance(user, str):
        raise ParameterError(f"the docstring of {where!r} lacks a prompt: {_HOW}")
    return system.strip(), user.strip()


def _fill(template: str, row: Mapping[str, Any]) -> str:
    # Not str.format: braces that are no placeholder, as in an example of JSON, stay as they are.
    return _PLACEHOLDER.sub(lambda found: str(row[found.group(1)]), template)
