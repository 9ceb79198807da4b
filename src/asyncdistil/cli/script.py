"""Running a user's script as the main program, and the pipeline that it only declares."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from asyncdistil.cli.ending import UsageError

if TYPE_CHECKING:
    from asyncdistil.cli.planned import StopAtRun
    from asyncdistil.cli.progress import ProgressDisplay
    from asyncdistil.pipeline import Pipeline

FILES = frozenset({".yaml", ".yml", ".json"})


def parameters_of(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read ``step.key=value`` texts; keys nest by dots, values are JSON or else text.

    Raises:
        UsageError: A text has another form.
    """
    return nested(given, option="--param")


def nested(given: Sequence[str], *, option: str) -> dict[str, dict[str, Any]]:
    """As `parameters_of`, for another option of that form."""
    parameters: dict[str, dict[str, Any]] = {}
    for text in given:
        path, equals, value = text.partition("=")
        names = path.split(".")
        if not equals or len(names) < 2 or not all(names):
            raise UsageError(
                f"{option} {text!r} can't be read: write step.key=value, for example "
                f"{option} rewrite.input_batch_size=10"
            )
        inner: dict[str, Any] = parameters
        for name in names[:-1]:
            inner = inner.setdefault(name, {})
        inner[names[-1]] = _value(value)
    return parameters


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def run_script(
    path: Path,
    arguments: Sequence[str],
    display: ProgressDisplay | StopAtRun,
    *,
    pipeline_name: str | None = None,
    as_json: bool = False,
) -> None:
    """Run a script as ``python SCRIPT`` does, then its pipeline if it ran none.

    Args:
        path: The script, or a YAML or JSON file that declares a pipeline.
        arguments: Its own arguments.
        display: Sees the runs.
        pipeline_name: Which one to run of several that the script only declares.
        as_json: Whether standard output is not for the script.

    Raises:
        UsageError: The script can't be read, or it is not clear what to run.
    """
    from asyncdistil.pipeline.watch import WATCHER

    token = WATCHER.set(display)
    try:
        with redirect_stdout(_output(as_json=as_json)):
            if path.suffix in FILES:
                from asyncdistil.cli.declared import read_pipeline

                read_pipeline(path).run()
                return
            code = _compiled(path)
            with _as_main(path, arguments) as module:
                exec(code, module.__dict__)
                if display.started_runs == 0:
                    _declared(module, path, pipeline_name).run()
    finally:
        WATCHER.reset(token)


def _output(*, as_json: bool) -> Any:
    return sys.stderr if as_json else sys.stdout


def _compiled(path: Path) -> Any:
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} can't be read ({error.strerror}): name a script") from error
    return compile(source, os.fspath(path), "exec")


@contextmanager
def _as_main(path: Path, arguments: Sequence[str]) -> Iterator[ModuleType]:
    """Make a module the main one, as the interpreter does for a script."""
    module = ModuleType("__main__")
    module.__dict__.update(__file__=os.fspath(path), __builtins__=__builtins__)
    before = sys.modules["__main__"], sys.argv, list(sys.path)
    sys.modules["__main__"] = module
    sys.argv = [os.fspath(path), *arguments]
    # In place of the directory of the command itself, which a script has no business with.
    sys.path[0] = os.fspath(path.absolute().parent)
    try:
        yield module
    finally:
        sys.modules["__main__"], sys.argv, sys.path[:] = before


def _declared(module: ModuleType, path: Path, name: str | None) -> Pipeline:
    from asyncdistil.pipeline import Pipeline

    found = {id(p): p for p in vars(module).values() if isinstance(p, Pipeline)}
    pipelines = [p for p in found.values() if name is None or p.name == name]
    if len(pipelines) == 1:
        return pipelines[0]
    if not found:
        raise UsageError(
            f"{path} ran no pipeline and has none at module level: call `run()` in it, or assign "
            "the pipeline to a variable"
        )
    names = ", ".join(repr(p.name) for p in found.values())
    raise UsageError(f"{path} has the pipelines {names}: choose one with --pipeline NAME")
