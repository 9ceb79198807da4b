"""The command as a shell runs it: what it prints, where, and with which code it ends."""

import json
import os
import pty
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.log import Store, segment_path, stores

COMMAND = Path(sys.executable).with_name("asyncdistil")
Invoke = Callable[..., "subprocess.CompletedProcess[str]"]

DECLARED = """
import logging, sys
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts, RowStep

class Add(RowStep):
    amount: int = 1
    @property
    def inputs(self): return ["n"]
    @property
    def outputs(self): return ["sum"]
    @property
    def runtime_parameters_names(self): return {"amount": True}
    def transform(self, row):
        if row["n"] == 13: raise ValueError("unlucky")
        return row | {"sum": row["n"] + self.amount}

print("arguments", sys.argv[1:])
with Pipeline("numbers") as pipeline:
    LoadDataFromDicts(name="load", data=[{"n": n} for n in range(20)]) >> Add(name="add")
"""
RUN = DECLARED + "\nprint('sums', pipeline.run()['default']['train']['sum'][:3])\n"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "numbers.py"
    path.write_text(RUN)
    return path


def test_the_help_fits_a_screen_and_loads_nothing_heavy(invoke: Invoke) -> None:
    shown = invoke("--help")
    assert shown.returncode == 0
    assert len(shown.stdout.splitlines()) < 24
    heavy = "{'rich', 'pydantic', 'pyarrow', 'aiohttp', 'datasets', 'uvloop'}"
    code = f"import sys, asyncdistil.cli; print({heavy} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)  # noqa: PLW1510
    assert loaded.stdout == "set()\n"


def test_the_version_is_that_of_the_package(invoke: Invoke) -> None:
    import asyncdistil

    assert invoke("--version").stdout == f"asyncdistil {asyncdistil.__version__}\n"


def test_the_starter_runs_as_it_is_and_is_never_overwritten(invoke: Invoke, tmp_path: Path) -> None:
    assert invoke("init").returncode == 0
    before = (tmp_path / "pipeline.py").read_text()
    again = invoke("init")
    assert (again.returncode, (tmp_path / "pipeline.py").read_text()) == (2, before)
    done = invoke("run", "pipeline.py")
    assert done.returncode == 0, done.stderr
    assert "'words': 6" in done.stdout


def test_a_run_tells_its_steps_line_by_line_and_leaves_standard_output_to_the_script(
    invoke: Invoke, script: Path
) -> None:
    done = invoke("run", script, "--", "one", "--two")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "arguments ['one', '--two']\nsums [1, 2, 3]\n"
    lines = done.stderr.splitlines()
    assert "[add] done: 20 rows computed, 0 replayed, 1 failed" in lines
    assert any("ValueError: unlucky" in line for line in lines)


def test_json_alone_is_on_standard_output_and_a_second_run_changes_nothing(
    invoke: Invoke, tmp_path: Path
) -> None:
    path = tmp_path / "even.py"
    path.write_text(RUN.replace("== 13", "== -1"))
    (first,) = json.loads(invoke("run", path, "--json").stdout)["runs"]
    assert first["steps"]["add"]["rows_computed"] == 20
    (second,) = json.loads(invoke("run", path, "--json").stdout)["runs"]
    assert (second["hit"], second["datasets"]) == (True, {"default": 20})


def test_a_pipeline_that_a_script_only_declares_is_run_with_the_parameters_of_the_command(
    invoke: Invoke, tmp_path: Path
) -> None:
    path = tmp_path / "declared.py"
    path.write_text(DECLARED)
    for _ in range(2):
        done = invoke("run", path, "--param", "add.amount=2", "--json", "--no-cache")
        (run,) = json.loads(done.stdout)["runs"]
        assert run["steps"]["add"]["rows_computed"] == 20
    refused = invoke("run", path, "--param", "ad.input_batch_size=7")
    assert refused.returncode == 5
    assert "'ad'" in refused.stderr
    assert "load, add" in refused.stderr
    assert invoke("run", path, "--param", "add").returncode == 2


def test_a_script_that_configures_logging_gets_every_record_once(
    invoke: Invoke, tmp_path: Path
) -> None:
    path = tmp_path / "logs.py"
    path.write_text(RUN.replace("print('sums'", "logging.basicConfig(format='own %(message)s')\n#"))
    path.write_text(path.read_text() + "\npipeline.run()\n")
    told = invoke("run", path).stderr.splitlines()
    unlucky = [line for line in told if "unlucky" in line]
    assert [line.startswith("own ") for line in unlucky] == [True]


def test_a_terminal_gets_a_table(environment: dict[str, str], script: Path) -> None:
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [COMMAND, "run", script],
        env={**environment, "TERM": "xterm", "COLUMNS": "100"},
        stdout=subprocess.DEVNULL,
        stderr=follower,
    ) as process:
        os.close(follower)
        shown = _until_closed(leader)
    assert process.returncode == 0
    assert b"computed" in shown
    assert b"done" in shown


def _until_closed(leader: int) -> bytes:
    shown = b""
    with open(leader, "rb", buffering=0) as file:
        while True:
            try:
                piece = file.read(65536)
            except OSError:  # how Linux says that the other end of a terminal is closed
                return shown
            if not piece:
                return shown
            shown += piece


def test_an_exception_of_the_script_is_shown_from_the_scripts_first_frame_on(
    invoke: Invoke, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.py"
    path.write_text("def f():\n    raise RuntimeError('mine')\nf()\n")
    done = invoke("run", path)
    assert done.returncode == 1
    frames = [line for line in done.stderr.splitlines() if line.startswith("  File")]
    assert [str(path) in frame for frame in frames] == [True, True]


def test_a_pipeline_that_cannot_run_ends_in_one_paragraph_and_code_5(
    invoke: Invoke, tmp_path: Path
) -> None:
    path = tmp_path / "column.py"
    path.write_text(DECLARED.replace('"n": n', '"m": n'))
    done = invoke("run", path)
    assert done.returncode == 5
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert "'add'" in done.stderr
    assert "Traceback" in invoke("run", path, "--debug").stderr
    told = json.loads(invoke("run", path, "--json").stdout)["error"]
    assert (told["kind"], told["exit_code"]) == ("GraphError", 5)


def test_a_field_that_a_step_refuses_is_told_with_its_line_and_code_5(
    invoke: Invoke, tmp_path: Path
) -> None:
    path = tmp_path / "field.py"
    path.write_text(DECLARED.replace('Add(name="add"', 'Add(name="add", amount="many"'))
    done = invoke("run", path)
    assert done.returncode == 5
    line = 1 + path.read_text().splitlines().index(
        next(line for line in path.read_text().splitlines() if '"many"' in line)
    )
    assert f"{path}, line {line}: " in done.stderr
    assert "amount" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_cannot_be_used_ends_with_code_2(
    invoke: Invoke, invoke_here: Invoke, tmp_path: Path
) -> None:
    (tmp_path / "empty.py").write_text("x = 1\n")
    assert invoke("run", "nowhere.py").returncode == 2
    assert invoke("run", "empty.py").returncode == 2
    assert invoke_here("run").returncode == 2
    assert invoke_here("nothing").returncode == 2
    assert invoke_here("cache", "show", "never run").returncode == 2


def test_a_name_that_another_run_holds_ends_with_code_4_and_names_the_holder(
    invoke: Invoke, script: Path, tmp_path: Path
) -> None:
    store = Store.open(tmp_path / "cache", "numbers")
    try:
        done = invoke("run", script)
    finally:
        store.close(clean=True)
    assert done.returncode == 4
    assert f"pid {os.getpid()}" in done.stderr


def test_a_cache_directory_that_cannot_be_made_ends_with_code_3(
    invoke: Invoke, script: Path, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file, not a directory")
    assert invoke("run", script).returncode == 3


def test_the_cache_is_listed_shown_and_verified_and_damage_is_found(
    invoke: Invoke, invoke_here: Invoke, script: Path, tmp_path: Path
) -> None:
    assert "no pipeline yet" in invoke_here("cache", "ls").stdout
    assert invoke("run", script).returncode == 0
    (listed,) = json.loads(invoke("cache", "ls", "--json").stdout)["pipelines"]
    assert (listed["pipeline"], listed["runs"]) == ("numbers", 1)
    assert "numbers" in invoke_here("cache", "ls").stdout
    shown = json.loads(invoke_here("cache", "show", "numbers", "--json").stdout)
    steps = {step["step"]: (step["rows"], step["failed"]) for step in shown["steps"]}
    assert steps == {"load": (20, 0), "add": (20, 1)}
    assert "add" in invoke_here("cache", "show", "numbers").stdout
    assert invoke_here("cache", "verify").returncode == 0
    ((root, _),) = stores(tmp_path / "cache")
    victim = max(root.glob("segments/*/*.ads"), key=lambda path: path.stat().st_size)
    assert victim == segment_path(root, bytes.fromhex(victim.parent.name), int(victim.stem))
    _flip_last_byte(victim)
    damaged = invoke_here("cache", "verify", "numbers")
    assert damaged.returncode == 3
    assert str(victim) in damaged.stdout


def _flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes().rstrip(b"\0"))
    data[-1] ^= 1
    path.write_bytes(data)


WAITS = """
import os
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts, RowStep

class Wait(RowStep):
    def transform(self, row):
        if row["n"] == 4 and "RELEASE" not in os.environ:
            open("reached", "w").close()
            with open("gate"): pass
        return row

with Pipeline("waits") as pipeline:
    load = LoadDataFromDicts(name="load", data=[{"n": n} for n in range(8)], batch_size=1)
    load >> Wait(name="wait", input_batch_size=1)
"""


def test_ctrl_c_ends_with_code_130_and_the_next_run_goes_on(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    os.mkfifo(tmp_path / "gate")
    os.mkfifo(tmp_path / "reached")
    process = subprocess.Popen(
        [COMMAND, "run", "waits.py"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    (tmp_path / "reached").read_bytes()  # returns when the step opens and closes it
    process.send_signal(signal.SIGINT)
    (tmp_path / "gate").write_bytes(b"")
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run it again" in told
    done = subprocess.run(
        [COMMAND, "run", "waits.py", "--json"],
        cwd=tmp_path,
        env={**environment, "RELEASE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    (run,) = json.loads(done.stdout)["runs"]
    assert run["resumed"]
    assert run["steps"]["wait"]["rows_replayed"] >= 4


DECLARATION: dict[str, Any] = {
    "pipeline": {
        "name": "greetings",
        "steps": [
            {
                "name": "load",
                "step": {
                    "type_info": {"module": "asyncdistil.steps", "name": "LoadDataFromDicts"},
                    "data": [{"instruction": "Say hello.", "n": 1}],
                },
            },
            {
                "name": "keep",
                "step": {
                    "type_info": {"module": "asyncdistil.steps", "name": "KeepColumns"},
                    "columns": ["instruction"],
                },
            },
        ],
        "connections": [{"from": "load", "to": ["keep"]}],
    }
}


def test_a_pipeline_declared_in_a_file_runs(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "greetings.yaml").write_text(json.dumps(DECLARATION))  # JSON is YAML
    (run,) = json.loads(invoke("run", "greetings.yaml", "--json").stdout)["runs"]
    assert run["datasets"] == {"default": 1}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"asyncdistil.steps"', '"os"'),
        ('"KeepColumns"', '"NoSuchStep"'),
        ('"columns"', '"colums"'),
        ('"from"', '"form"'),
        ('"LoadDataFromDicts"', '"StepResources"'),
    ],
)
def test_a_file_that_declares_no_pipeline_is_refused_with_the_place(
    tmp_path: Path, old: str, new: str
) -> None:
    from asyncdistil.cli.declared import read_pipeline
    from asyncdistil.errors import UserError

    path = tmp_path / "wrong.yaml"
    path.write_text(json.dumps(DECLARATION).replace(old, new))
    with pytest.raises(UserError, match=r"wrong\.yaml"):
        read_pipeline(path)


def test_the_model_server_says_where_it_is_and_ends_on_ctrl_c(environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [COMMAND, "model-server", "--port", "0"], env=environment, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        with urllib.request.urlopen(f"{url}/models") as reply:
            assert json.load(reply)["data"][0]["id"] == "stand-in"
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    assert process.returncode == 130
