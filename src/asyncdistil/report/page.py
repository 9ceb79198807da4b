"""One self-contained HTML page about a run: no font, no picture, no script from elsewhere.

Every text of the user's goes through the template's escaping; only the pictures, which escape by
themselves, are put in as markup. The page of a report and the live one are the same templates over
the same figures.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from asyncdistil.report.figures import figures_of
from asyncdistil.supervisor.stored_run import StoredRun


def page_of(name: str, run: StoredRun) -> str:
    """Write the page of a run.

    Args:
        name: Of the pipeline.
        run: Open; stays open.

    Raises:
        LogError: The store can't be read. Sample rows that are damaged are left out.
    """
    body = rendered("run.html.j2", **figures_of(name, run))
    return whole_page(f"{name}: run {run.begin.run[:8]}", body)


def whole_page(title: str, body: str, *, script: str = "", events: str = "") -> str:
    """A page around a rendered body.

    Args:
        title: Of the page.
        body: Markup from `rendered`.
        script: Path of the script that keeps the page up to date; empty for a page that stays.
        events: Path that the script listens to.
    """
    return rendered("page.html.j2", title=title, body=Markup(body), script=script, events=events)


def rendered(template: str, **values: Any) -> str:
    """Fill in a template of this package."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> jinja2.Environment:
    folder = resources.files("asyncdistil.report")
    return jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        loader=jinja2.FunctionLoader(lambda name: folder.joinpath(name).read_text("utf-8")),
        auto_reload=False,
        trim_blocks=True,
    )


def _shown(value: Any) -> Any:
    """A text without characters that no page may hold, lone halves of a pair among them."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    text = value.encode("utf-8", "replace").decode()
    return "".join(c if c >= " " or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
