"""Reading, rendering and naming the prompt files under ``templates/``.

jinja2 is imported at the first rendering, so that looking at a task class costs nothing.
"""

from __future__ import annotations

import logging
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from xxhash import xxh3_128_hexdigest

from asyncdistil.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Collection

    import jinja2

_ROOT = "asyncdistil.steps.tasks.templates"


@cache
def source(name: str) -> str:
    """Text of the file ``templates/<name>``, such as ``"urial.jinja2"``."""
    return files(_ROOT).joinpath(name).read_text(encoding="utf-8")


def render(name: str, /, **values: Any) -> str:
    """Fill the prompt file ``name``; surrounding white space is dropped.

    Raises:
        jinja2.UndefinedError: The template uses a value that was not given.
    """
    return _library().get_template(name).render(values).strip()


def digest(*names: str) -> str:
    """32 hex digits over the text of the named prompt files: part of a task's identity."""
    return xxh3_128_hexdigest("\0".join(source(name) for name in names).encode())


@cache
def compiled(text: str, *, trim: bool = False) -> jinja2.Template:
    """Compile a template that a user may have written.

    It runs in Jinja2's sandbox: a pipeline file may come from a hub, and a template that it holds
    must not reach beyond the row.

    Args:
        text: The template.
        trim: Whether lines that hold only tags leave nothing behind, as in our own templates.

    Raises:
        ParameterError: The text is not a Jinja2 template.
    """
    from jinja2 import TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    try:
        sandbox = ImmutableSandboxedEnvironment(trim_blocks=trim, lstrip_blocks=trim)
        return sandbox.from_string(text)
    except TemplateSyntaxError as error:
        raise ParameterError(
            f"the template is not valid Jinja2, line {error.lineno}: {error.message}. "
            f"Write columns as {{{{ column }}}}."
        ) from error


def check_columns(text: str, columns: Collection[str], *, where: str) -> None:
    """Compare the names that a template uses with the columns that it may use.

    A name that is no column is logged as a warning: Jinja2 writes nothing in its place, which is
    seldom what was meant.

    Args:
        text: Jinja2 template.
        columns: Columns declared for it.
        where: What to call the owner of the template in the message.

    Raises:
        ParameterError: A declared column is not used.
    """
    from jinja2 import Environment, TemplateSyntaxError, meta, nodes

    environment = Environment()
    try:
        parsed = environment.parse(text)
        used = meta.find_undeclared_variables(parsed)
    except TemplateSyntaxError:
        compiled(text)  # raises the same fault with a message that says what to do
        raise
    if unused := sorted(set(columns) - used):
        raise ParameterError(
            f"{where} declares the columns {unused}, but its template uses only {sorted(used)}: "
            f"write {{{{ {unused[0]} }}}} into the template, or leave the name out of `columns`"
        )
    asked_for = {
        test.node.name
        for test in parsed.find_all(nodes.Test)
        if isinstance(test.node, nodes.Name) and test.name in ("defined", "undefined")
    }
    for name in sorted(used - set(columns) - set(environment.globals) - asked_for):
        _warn_of_unfilled(name, where)


@cache  # a step is checked again whenever one of its fields is set
def _warn_of_unfilled(name: str, where: str) -> None:
    logging.getLogger("asyncdistil.steps").warning(
        "the template of %s uses %r, which stays empty because it is not in `columns`: add it "
        "there, or mend its spelling",
        where,
        name,
    )


@cache
def _library() -> jinja2.Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    return Environment(
        loader=FunctionLoader(source),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
