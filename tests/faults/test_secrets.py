"""Secrets of a model, of a step and of the environment stay out of all that a run leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from asyncdistil.testing.chaos import Fault, first_attempts, first_of
from asyncdistil.testing.model_server import ModelServer

KEY, FIELD, VARIABLE = "canary-key-7f31", "canary-field-90ab", "canary-variable-c2d4"

SCRIPT = """
import logging, os, sys, warnings
from pydantic import SecretStr
from asyncdistil.models import OpenAILLM
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts, Step, StepInput
from asyncdistil.steps.tasks import TextGeneration

logging.basicConfig(level=logging.DEBUG)


class Gossip(Step):
    token: SecretStr
    row_wise: bool = True

    def load(self):
        super().load()
        self.tell("load")

    def tell(self, where):
        words = f"{where} with {self.token.get_secret_value()} and {os.environ['SERVICE_TOKEN']}"
        print(words)
        print(words, file=sys.stderr, flush=True)
        logging.getLogger("gossip").warning("%s", words)
        warnings.warn(words)
        return words

    def process(self, inputs: StepInput):
        for row in inputs:
            words = self.tell("process")
            if row["number"] % 3 == 0:
                try:
                    raise KeyError(self.token.get_secret_value())
                except KeyError as cause:
                    raise ValueError(words) from cause
        yield inputs

    def unload(self):
        self.tell("unload")


failing = len(sys.argv) > 3
with Pipeline(name="secrets", cache_dir=sys.argv[1]) as pipeline:
    data = [{"instruction": f"say {n}", "number": n} for n in range(9)]
    load = LoadDataFromDicts(data=data)
    gossip = Gossip(name="gossip", token=os.environ["FIELD_VALUE"], input_batch_size=3)
    task = TextGeneration(
        name="task",
        llm=OpenAILLM(model="stand-in", base_url=sys.argv[2], api_key=os.environ["KEY_VALUE"]),
    )
    load >> gossip >> task
print(repr(pipeline), repr(gossip), repr(task))
logging.getLogger("gossip").info("%s", task.llm)
if hasattr(pipeline, "save"):
    pipeline.save(sys.argv[1] + "/saved.yaml")
if failing:
    pipeline.run(on_error="raise")
else:
    distiset = pipeline.run()
    print(distiset, distiset.report)
    distiset.save_to_disk(sys.argv[1] + "/saved")
"""


def leaks(texts: dict[str, bytes]) -> list[str]:
    return [
        f"{where}: {text[max(0, at - 80) : at + 40]!r}"
        for where, text in texts.items()
        for canary in (KEY, FIELD, VARIABLE)
        if (at := text.find(canary.encode())) >= 0
    ]


@pytest.mark.parametrize("failing", [False, True], ids=["rows fail", "the run fails"])
def test_no_secret_is_in_a_log_a_file_a_key_or_a_traceback(tmp_path: Path, failing: bool) -> None:
    echo = Fault("500", message="you sent {authorization}")
    refusal = Fault("400", message="you sent {authorization}")
    # One row is refused for good, all others are answered at the second try.
    refused = first_attempts([echo, refusal, echo], containing="say 4")
    script = first_of(refused, first_attempts([echo]))
    code = tmp_path / "script.py"
    code.write_text(SCRIPT)
    cache = tmp_path / "cache"
    environment = {**os.environ, "SERVICE_TOKEN": VARIABLE, "FIELD_VALUE": FIELD, "KEY_VALUE": KEY}
    with ModelServer(script=script) as server:
        ended = subprocess.run(
            [sys.executable, str(code), str(cache), server.url, *(["failing"] * failing)],
            env=environment,
            capture_output=True,
            cwd=tmp_path,
            timeout=200,
            check=False,
        )
    assert (ended.returncode != 0) == failing, ended.stderr[-3000:].decode()
    assert b"gossip" in ended.stderr  # it did talk
    files = {str(p): p.read_bytes() for p in cache.rglob("*") if p.is_file()}
    assert any(path.endswith(".adc") for path in files)
    found = leaks({"output": ended.stdout, "errors": ended.stderr, **files})
    assert found == []
    assert not [path for path in files if "canary" in path]
