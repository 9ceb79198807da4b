"""Calls functions of a file in a process of its own: reads a request, writes what came back.

Started by path with ``python -I``, so it imports nothing of this package. The request on standard
input and the answer on standard output are JSON.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import json
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

RISKY = (
    "subprocess",
    "os.system",
    "os.popen",
    "os.remove",
    "os.unlink",
    "shutil.rmtree",
    "sys.exit",
    "exit",
    "quit",
    "input",
    "exec",
    "eval",
    "compile",
    "__import__",
    "threading.Thread",
    "multiprocessing",
    "socket",
    "SystemExit",
)
NOT_FOUND = "there is no such function"


def dotted(node: ast.AST) -> str:
    """The name that an expression spells, such as ``os.system``; empty if it spells none."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        above = dotted(node.value)
        return f"{above}.{node.attr}" if above else ""
    return ""


def risky(function: Callable[..., Any]) -> str:
    """The first risky name that a function uses, or an empty text."""
    try:
        tree = ast.parse(dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return "source that can't be read"
    for node in ast.walk(tree):
        name = dotted(node)
        for risk in RISKY:
            if name == risk or name.startswith(risk + "."):
                return name
    return ""


def load(path: Path) -> ModuleType:
    """Run a Python file and return it as a module."""
    loader = SourceFileLoader("apigen_library", str(path))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None  # a loader was given
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def find(library: str, name: str) -> Callable[..., Any] | None:
    """The function of that name: in the file, or in the file of its own below the folder."""
    path = Path(library)
    if path.is_dir():
        path = path / f"{name}.py"
        if not name.isidentifier() or not path.is_file():
            return None
    found: Any = getattr(load(path), name, None)
    return found if callable(found) else None


def value_of(text: Any) -> Any:
    """What an argument that came as text stands for, if it is a Python literal."""
    if not isinstance(text, str):
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def call(
    library: str, name: str, arguments: Mapping[str, Any] | None, check: bool
) -> tuple[bool, str]:
    """Call one function; return whether it worked, and its result or why not."""
    function = find(library, name)
    if function is None:
        return False, f"{NOT_FOUND}: {name!r}"
    if check and (risk := risky(function)):
        return False, f"{name!r} is not called, it uses {risk}"
    values = {key: value_of(value) for key, value in (arguments or {}).items()}
    try:
        bound = inspect.signature(function).bind(**values)
    except TypeError:
        # Other names than the function's own: by place.
        return True, str(function(*values.values()))
    return True, str(function(*bound.args, **bound.kwargs))


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    # What a function prints must not get between us and the reader.
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            keep, result = call(
                request["library"], request["name"], request["arguments"], request["check"]
            )
        except BaseException as error:
            keep, result = False, f"{type(error).__name__}: {error}"
    json.dump([keep, result], sys.stdout)


if __name__ == "__main__":
    main()
