"""Steps travel to another process before they are loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cloudpickle

from asyncdistil.steps import KeepColumns, LoadDataFromDicts, Map, sample_n_steps

MAIN = '''
"""A user's script: steps defined in a main module, with everything that pydantic offers."""
import threading
from typing import Any, Optional

import cloudpickle
from pydantic import Field, PrivateAttr, SecretStr, field_validator, model_validator

from asyncdistil.mixins.runtime_parameters import RuntimeParameter
from asyncdistil.steps import GeneratorStep, Step, StepInput, StepOutput, step

FACTOR = 2


class Shout(Step):
    column: str = "a"
    times: RuntimeParameter[int] = Field(default=3, description="How often.")
    maybe: Optional[RuntimeParameter[int]] = None
    key: SecretStr | None = None
    _client: Any = PrivateAttr(default=None)
    _bonus: int = 0

    @field_validator("column")
    @classmethod
    def _lower(cls, value):
        return value.lower()

    @model_validator(mode="after")
    def _small(self):
        assert self.times < 100
        return self

    def model_post_init(self, context):
        self._bonus = 7

    @property
    def outputs(self):
        return ["loud"]

    def load(self):
        super().load()
        self._client = threading.Lock()

    def process(self, inputs: StepInput) -> StepOutput:
        with self._client:
            yield [
                {**row, "loud": row[self.column].upper() * self.times * FACTOR + str(self._bonus)}
                for row in inputs
            ]


class Louder(Shout):
    def process(self, inputs):
        yield from super().process(inputs)


@step(outputs=["b"])
def Ask(inputs: StepInput, verb: RuntimeParameter[str] = "x") -> StepOutput:
    yield [{**row, "b": verb} for row in inputs]


if __name__ == "__main__":
    import sys

    board = type("Board", (), {
        "has_step": lambda *_: False, "add_step": lambda *_: None, "lock": threading.Lock()
    })()
    steps = [
        Shout(column="A", times=1, key="k", pipeline=board, output_mappings={"loud": "cry"}),
        Louder(times=1),
        Ask(verb="y"),
    ]
    sys.stdout.buffer.write(cloudpickle.dumps(steps))
'''

OTHER = """
import json, pickle, sys
steps = pickle.load(sys.stdin.buffer)
out = []
for step in steps:
    step.load()
    out.append([step.name, step.pipeline, list(step.apply([{"a": "z"}]))])
try:
    steps[0].times = 200
except ValueError:
    out.append("checked")
print(json.dumps(out))
"""


def _python(code: str, data: bytes = b"") -> bytes:
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], input=data, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_steps_of_a_main_script_work_in_another_interpreter(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(MAIN)
    made = subprocess.run([sys.executable, str(script)], capture_output=True, check=False)
    assert made.returncode == 0, made.stderr.decode()
    assert _python(OTHER, made.stdout).decode().strip() == (
        '[["shout_0", null, [[{"a": "z", "cry": "ZZ7"}]]], '
        '["louder_0", null, [[{"a": "z", "loud": "ZZ7"}]]], '
        '["ask_0", null, [[{"a": "z", "b": "y"}]]], "checked"]'
    )


def test_built_in_steps_and_routers_travel() -> None:
    bundle = cloudpickle.dumps(
        [
            KeepColumns(columns=["a"]),
            Map(function=lambda row: {**row, "b": 1}),
            LoadDataFromDicts(data=[{"a": 1}], name="rows"),
            sample_n_steps(1),
        ]
    )
    code = (
        "import pickle, sys\n"
        "keep, each, rows, router = pickle.load(sys.stdin.buffer)\n"
        "print(list(keep.apply([{'a': 1, 'c': 2}])), list(each.apply([{'a': 1}])),\n"
        "      list(rows.generate()), router.choose(['x', 'y'], (), bytes(16)))"
    )
    assert _python(code, bundle).decode().strip() == (
        f"[[{{'a': 1}}]] [[{{'a': 1, 'b': 1}}]] [([{{'a': 1}}], True)] "
        f"{sample_n_steps(1).choose(['x', 'y'], (), bytes(16))}"
    )


def test_importing_steps_imports_no_heavy_library() -> None:
    heavy = _python(
        "import sys, asyncdistil.steps\n"
        "print([m for m in ('pyarrow', 'datasets', 'pandas', 'numpy', 'jinja2', 'aiohttp',"
        " 'fsspec') if m in sys.modules])"
    )
    assert heavy.decode().strip() == "[]"
