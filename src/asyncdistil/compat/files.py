"""Python files that scripts load by their path."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType


def load_module_from_path(path: str | os.PathLike[str]) -> ModuleType:
    """Run a Python file and return it as a module, which is not put into ``sys.modules``.

    Raises:
        FileNotFoundError: There is no such file.
    """
    path = Path(path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file: its name must end in .py", path=str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
