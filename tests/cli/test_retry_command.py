"""Failed rows on the command line: listed, chosen, asked anew, and told apart afterwards."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCRIPT = """
import os
from asyncdistil.mixins.runtime_parameters import RuntimeParameter
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts, RowStep


class Half(RowStep):
    scale: RuntimeParameter[int] = 1

    @property
    def inputs(self):
        return ["n"]

    @property
    def outputs(self):
        return ["half"]

    def transform(self, row):
        if row["n"] % 2 and not os.path.exists("mended"):
            kind = KeyError if row["n"] == 3 else ValueError
            raise kind(f"{row['n']} is odd")
        return row | {"half": row["n"] // 2 * self.scale}


with Pipeline("halves") as pipeline:
    Half(name="half")

if __name__ == "__main__":
    pipeline.run(dataset=[{"n": n} for n in range(6)])
"""
FILE = """
pipeline:
  name: plain
  steps:
    - name: load
      step:
        type_info: {module: asyncdistil.steps, name: LoadDataFromDicts}
        data: [{n: 1, m: a}, {n: 2, m: b}]
    - name: keep
      step:
        type_info: {module: asyncdistil.steps, name: KeepColumns}
        columns: [n]
  connections:
    - {from: load, to: [keep]}
"""


def asked(invoke: Callable[..., Any], *arguments: str) -> Any:
    done = invoke(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_failed_rows_are_listed_chosen_and_asked_anew(
    invoke: Callable[..., Any], invoke_here: Callable[..., Any], tmp_path: Path
) -> None:
    script = tmp_path / "halves.py"
    script.write_text(SCRIPT)
    assert invoke("run", script).returncode == 0

    listed = asked(invoke_here, "failures", "halves")["failures"]
    assert [(each["step"], each["row"], each["class"]) for each in listed] == [
        ("half", [1], "ValueError"),
        ("half", [3], "KeyError"),
        ("half", [5], "ValueError"),
    ]
    assert [each["attempts"] for each in listed] == [1, 1, 1]
    assert "Traceback" in listed[0]["detail"]
    chosen = invoke_here(
        "failures", "halves", "--where", 'failure.kind == "KeyError"', "--rows"
    ).stdout
    assert chosen.splitlines()[0].startswith("half row 3: KeyError")
    assert "{'n': 3}" in chosen
    assert "1 rows failed" in chosen
    shown = asked(invoke_here, "inspect", "halves", "half", "--where", "failed")
    assert [row["n"] for row in shown] == [1, 3, 5]

    # The name alone does not tell what the step does.
    refused = invoke_here("retry", "halves")
    assert refused.returncode == 2
    assert "name the script" in refused.stderr

    (tmp_path / "mended").touch()
    told = json.loads(invoke("retry", script, "--step", "half", "--dry-run", "--json").stdout)
    assert [step["compute"] for step in told["steps"] if step["name"] == "half"] == [3]
    done = invoke(
        "retry",
        script,
        "--where",
        'failure.kind == "ValueError" and n > 1',
        "--step",
        "half",
        "--with",
        "scale=10",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    assert run["steps"]["half"]["inputs_computed"] == 1
    assert run["failed_rows"] == 2
    shown = asked(invoke_here, "inspect", "halves", "half")
    assert [row["half"] for row in shown] == [0, None, 1, None, 2, 20]
    why = invoke("explain", script, "half", "--row", "5").stdout
    assert "asked anew for" in why
    assert "field.scale: 1 → 10" in why


def test_a_stored_pipeline_of_library_steps_is_retried_by_its_name(
    invoke: Callable[..., Any], invoke_here: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "plain.yaml"
    file.write_text(FILE)
    assert invoke("run", file).returncode == 0
    done = invoke("retry", "plain", "--step", "keep", "--where", "n == 2", "--json")
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    assert run["steps"]["keep"]["inputs_computed"] == 1
    assert run["steps"]["load"]["rows_replayed"] == 2
    again = invoke("run", file, "--json")
    assert json.loads(again.stdout)["runs"][0]["hit"]
    none = invoke_here("retry", "plain", "--step", "keep", "--where", "n > 99")
    assert "there is no such row to ask anew, the stored dataset is served" in none.stderr
    odd = invoke_here("retry", "plain", "--where", "n >")
    assert odd.returncode == 5
    assert "at character" in odd.stderr
    nameless = invoke_here("retry", "plain", "--with", "columns=1")
    assert nameless.returncode == 2
    assert "--step" in nameless.stderr
