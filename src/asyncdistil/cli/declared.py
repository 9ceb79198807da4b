"""A pipeline declared in YAML or JSON: steps by class, connections by name.

The form is that of ``pipeline.yaml`` files, distilabel's own ones included::

    pipeline:
      name: greetings
      steps:
        - name: load
          step:
            type_info: {module: asyncdistil.steps, name: LoadDataFromDicts}
            data: [{instruction: Say hello.}]
        - name: keep
          step:
            type_info: {module: asyncdistil.steps, name: KeepColumns}
            columns: [instruction]
      connections:
        - {from: load, to: [keep]}

A file may name classes of asyncdistil only: loading one never imports code of anybody else.
"""

from __future__ import annotations

from pathlib import Path

from asyncdistil.cli.ending import UsageError
from asyncdistil.pipeline import Pipeline


def read_pipeline(path: Path) -> Pipeline:
    """Build the pipeline that a file declares.

    Raises:
        UsageError: The file can't be read.
        UserError: It does not declare a pipeline that can be built here; says where.
    """
    try:
        return Pipeline.from_file(path)
    except OSError as error:
        raise UsageError(f"{path} can't be read ({error.strerror}): name a file") from error
