"""The list of commands: in the order in which a newcomer needs them, on one screen."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

_ORDER = ("run", "plan", "explain", "inspect", "failures", "retry", "report", "ui", "cache")
_SHORTER = {"--show-completion": "Show completion for the current shell."}


class Menu(TyperGroup):
    """Commands about a pipeline of one's own first; then those that need none."""

    # What ``ctx`` and the parameters are is typer's own or click's, as its version has it.

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of the help; what is not known here comes last."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))

    def get_params(self, ctx: Any) -> list[Any]:
        """Options, those of completion with a help that takes one line."""
        params: list[Any] = super().get_params(ctx)
        for param in params:
            for name in param.opts:
                if name in _SHORTER:
                    param.help = _SHORTER[name]
        return params
