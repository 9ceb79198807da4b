"""The documentation strings of this machine's Python: read as text, nothing is imported. Pure."""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_LEFT_OUT = frozenset(
    {
        "config",
        "dist-packages",
        "ensurepip",
        "idlelib",
        "lib2to3",
        "pydoc_data",
        "site-packages",
        "test",
        "tests",
        "turtledemo",
    }
)
"""Directories of tests, tools and installed packages: no documentation of the library itself."""

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Documented(NamedTuple):
    """One documentation string.

    Attributes:
        name: Dotted name inside its module, empty for the module itself.
        kind: ``module``, ``class``, ``function`` or ``method``.
        arguments: Names of the arguments of a function.
        line: Where it is defined; 0 for a module.
        text: The documentation, its indentation removed.
    """

    name: str
    kind: str
    arguments: list[str]
    line: int
    text: str


def modules() -> Iterator[tuple[str, Path]]:
    """Yield the modules of the standard library that have a source file, by name."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root).with_suffix("").parts
        named = inside[:-1] if inside[-1] == "__init__" else inside
        if _LEFT_OUT.isdisjoint(inside) and named and all(map(_is_public, named)):
            yield ".".join(named), path


def documented(source: bytes) -> Iterator[Documented]:
    """Yield the public documentation strings of a module in the order in which they stand.

    Raises:
        SyntaxError: It is not Python, as some files that the library's tools work on.
    """
    with warnings.catch_warnings():
        # Old modules hold escapes that newer compilers warn about.
        warnings.simplefilter("ignore")
        tree = ast.parse(source)
    yield from _walk(tree, "", in_class=False)


def _walk(node: ast.AST, name: str, *, in_class: bool) -> Iterator[Documented]:
    if isinstance(node, _Documented):
        text = ast.get_docstring(node)
        if text:
            line = getattr(node, "lineno", 0)
            yield Documented(name, _kind(node, in_class=in_class), _arguments(node), line, text)
        in_class = isinstance(node, ast.ClassDef)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return  # what is defined inside of a function is nobody's interface
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            continue
        inner = getattr(child, "name", None) if isinstance(child, _Documented) else None
        if inner is not None and not _is_public(inner):
            continue
        yield from _walk(child, f"{name}.{inner}".lstrip(".") if inner else name, in_class=in_class)


def _is_public(name: str) -> bool:
    return name.isidentifier() and not name.startswith("_")


def _kind(node: _Documented, *, in_class: bool) -> str:
    if isinstance(node, ast.Module):
        return "module"
    if isinstance(node, ast.ClassDef):
        return "class"
    return "method" if in_class else "function"


def _arguments(node: _Documented) -> list[str]:
    if isinstance(node, ast.Module | ast.ClassDef):
        return []
    given = node.args
    names = [arg.arg for arg in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return [name for name in names if name not in {"self", "cls"}]
