"""A module, a class, a function that outgrows its ceiling wants splitting by responsibility."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import asyncdistil

SOURCE = Path(asyncdistil.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))
MODULE_LINES = 600
CLASS_LINES = 300
FUNCTION_LINES = 60

EXCEPTIONS: dict[str, str] = {}
"""``module:name`` to the reason why it may be longer; empty is the aim."""


def ident(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def code_lines(node: ast.AST) -> int:
    """Lines of a definition without its docstring: prose is not what makes it long."""
    assert isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


@pytest.mark.parametrize("path", MODULES, ids=ident)
def test_nothing_outgrows_its_ceiling(path: Path) -> None:
    text = path.read_text("utf-8")
    too_long = []
    if text.count("\n") > MODULE_LINES:
        too_long.append(ident(path))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            ceiling = CLASS_LINES
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            ceiling = FUNCTION_LINES
        else:
            continue
        name = f"{ident(path)}:{node.name}"
        if code_lines(node) > ceiling and name not in EXCEPTIONS:
            too_long.append(f"{name} ({code_lines(node)} lines)")
    assert not too_long
