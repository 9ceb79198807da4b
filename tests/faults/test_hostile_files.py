"""Pipeline files that somebody else wrote: errors of our own, nothing run, memory bounded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from asyncdistil.errors import DataError, UserError
from asyncdistil.pipeline import Pipeline
from asyncdistil.pipeline.parsing import MAX_FILE_BYTES

LOADER = "type_info: {module: asyncdistil.steps, name: LoadDataFromDicts}"
GOOD = f"""pipeline:
  name: good
  steps:
  - name: load
    step:
      data: [{{x: 1}}]
      {LOADER}
"""
ROUTED = (
    GOOD
    + """  - name: keep
    step: {columns: [x], type_info: {module: asyncdistil.steps, name: KeepColumns}}
  connections: [{from: load, to: [keep]}]
  routing_batch_functions:
  - step: load
    type_info: {module: asyncdistil.pipeline, name: sample_n_steps, kwargs: {n: 1}}
"""
)
NOTHING_LIKE_IT = "no YAML that can be read"


def levels(count: int, inner: str) -> str:
    """Aliases of aliases: nine times as many values with each level."""
    lines = [f"l0: &l0 {inner}"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, count)]
    return "\n".join(lines) + "\n"


def merges(count: int) -> str:
    lines = ["m0: &m0 {x: 1}"]
    lines += [
        f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}], y{n}: 1}}" for n in range(1, count)
    ]
    return "\n".join(lines) + "\n"


def step_of(module: str, name: str) -> str:
    return GOOD.replace("asyncdistil.steps", module).replace("LoadDataFromDicts", name)


HOSTILE = {
    "laughs in a field": levels(9, "[a, b]") + GOOD.replace("{x: 1}", "{x: *l8}"),
    "laughs in the head": levels(9, "a") + "pipeline: {name: *l8}",
    "merged laughs": merges(9) + GOOD.replace("{x: 1}", "{<<: *m8}"),
    "a list in itself": GOOD.replace("[{x: 1}]", "&x [*x]"),
    "a step in itself": GOOD.replace("step:", "step: &s").replace("[{x: 1}]", "*s"),
    "an object": "pipeline: !!python/object/apply:os.system ['touch pwned']",
    "an object in a field": GOOD.replace("1", "!!python/object/apply:os.system ['touch pwned']"),
    "an object by new": GOOD.replace("1", "!!python/object/new:canary_steps.Mine []"),
    "a name": GOOD.replace("1", "!!python/name:canary_steps.Mine ''"),
    "a module": GOOD.replace("1", "!!python/module:canary_steps ''"),
    "a tag of nobody": GOOD.replace("1", "!canary 1"),
    "a class of another module": step_of("canary_steps", "Mine"),
    "a class below another module": step_of("canary_steps.inner", "Mine"),
    "a function of the system": step_of("os", "system"),
    "a builtin": step_of("builtins", "eval"),
    "a program": step_of("asyncdistil.cli.__main__", "main"),
    "a module through ours": step_of("asyncdistil.pipeline.serialise", "os.system"),
    "an import of ours": step_of("asyncdistil.pipeline.serialise", "json"),
    "a relative module": step_of('"..canary_steps"', "Mine"),
    "an empty module": step_of('""', "Mine"),
    "a module with a NUL": step_of('"canary\\0steps"', "Mine"),
    "a module of half a character": step_of('"asyncdistil.\\ud800"', "Mine"),
    "a module of 10,000 letters": step_of("asyncdistil." + "x" * 10_000, "Mine"),
    "a field with another class": GOOD.replace(
        "{x: 1}", "{type_info: {module: canary_steps, name: Mine}}"
    ),
    "a list for a class": GOOD.replace(LOADER, "type_info: [1, 2]"),
    "a router of another module": ROUTED.replace("asyncdistil.pipeline", "canary_steps"),
    "a router that is a step": ROUTED.replace("sample_n_steps", "Pipeline"),
    "a router with a text": ROUTED.replace("n: 1", "n: one"),
    "a router with a list": ROUTED.replace("{n: 1}", "[1]"),
    "a router with more": ROUTED.replace("n: 1", "n: 1, command: touch pwned"),
    "a router after nothing": ROUTED.replace("step: load", "step: nowhere"),
    "a key twice": GOOD.replace("name: good", "name: good\n  name: bad"),
    "a quoted key twice": GOOD.replace("name: good", 'name: good\n  "name": bad'),
    "a field twice": GOOD.replace("data:", "data: []\n      data:"),
    "a key that is a number": GOOD.replace("data:", "1: 2\n      data:"),
    "a key that is a list": GOOD.replace("data:", "? [a]\n      : 2\n      data:"),
    "a field of a model that is a number": GOOD.replace(
        "{x: 1}", "{1: 2, type_info: {module: asyncdistil.models, name: OpenAILLM}}"
    ),
    "a field named self": GOOD.replace("data:", "self: 1\n      data:"),
    "a field named by Python": GOOD.replace("data:", "__class__: 1\n      data:"),
    "two documents": GOOD + "---\n" + GOOD,
    "no document": "",
    "a text": "pipeline",
    "a list": "[pipeline]",
    "steps that are a text": "pipeline: {name: p, steps: load}",
    "steps that are numbers": "pipeline: {name: p, steps: [1, 2]}",
    "a name that is a list": "pipeline: {name: [p]}",
    "a flag that is a text": "pipeline: {name: p, enable_metadata: maybe}",
    "a name that climbs": GOOD.replace("name: load", "name: ../load"),
    "a name with a NUL": 'pipeline: {name: "a\\0b"}',
    "a description of half a character": 'pipeline: {name: p, description: "\\ud800"}',
    "a requirement that is an option": GOOD + "requirements: ['--index-url http://127.0.0.1:1 x']",
    "a day that is none": GOOD.replace("1", "2020-99-99"),
    "no number": GOOD.replace("1", "!!int ''"),
    "no fraction": GOOD.replace("1", "!!float ''"),
    "no truth": GOOD.replace("1", "!!bool perhaps"),
    "no time": GOOD.replace("1", "!!timestamp soon"),
    "no bytes": GOOD.replace("1", "!!binary 'ä'"),
    "100,000 digits": GOOD.replace("1", "9" * 100_000),
    "20,000 parts of base 60": GOOD.replace("1", "1" + ":59" * 20_000),
    "100,000 lists": GOOD.replace("1", "[" * 100_000 + "]" * 100_000),
    "100,000 mappings": GOOD.replace("1", "{a: " * 100_000),
    "100,000 dashes": "- " * 100_000,
}
HOSTILE_JSON = {
    "100,000 lists": "[" * 100_000,
    "100,000 objects": '{"a":' * 100_000,
    "900 lists in a field": json.dumps({"pipeline": {"description": 0}}).replace(
        "0", "[" * 900 + "]" * 900
    ),
    "a key twice": '{"pipeline": {"name": "p"}, "pipeline": {"name": "q"}}',
    "5,000 digits": '{"pipeline": {"name": ' + "9" * 5_000 + "}}",
    "no number": '{"pipeline": {"name": "p", "description": NaN}}',
    "a million values": '{"pipeline": {"name": "p", "more": [' + "1," * 999_999 + "1]}}",
    "half a character": '{"pipeline": {"name": "p", "description": "\\udc00"}}',
    "nothing": "",
}
WATCHED = """
import os, resource, sys
from pathlib import Path

from asyncdistil.errors import UserError
from asyncdistil.pipeline import Pipeline
import asyncdistil.models, asyncdistil.pipeline.serialise, asyncdistil.steps

FORBIDDEN = ("os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.", "pickle.")
FORBIDDEN += ("socket.", "urllib.")
seen = []

def watch(event, arguments):
    if event.startswith(FORBIDDEN) or (event == "import" and "canary" in str(arguments[0])):
        seen.append((event, str(arguments)))

sys.addaudithook(watch)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (700 << 20),) * 2)
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        Pipeline.from_file(path, cache_dir=sys.argv[2])
    except UserError as error:
        if len(str(error)) > 2_000:
            seen.append((path.name, len(str(error)), "characters"))
    except BaseException as error:
        seen.append((path.name, repr(error)[:300]))
    else:
        seen.append((path.name, "was accepted"))
for item in seen:
    print(*item)
"""


def test_a_hostile_file_is_an_error_of_ours_and_runs_nothing(tmp_path: Path) -> None:
    """All in one process with a limit on its memory, which reports what it was made to do."""
    files = tmp_path / "files"
    files.mkdir()
    for form, texts in (("yaml", HOSTILE), ("json", HOSTILE_JSON)):
        for number, text in enumerate(texts.values()):
            (files / f"{number:02}.{form}").write_text(text, encoding="utf-8")
    (tmp_path / "canary_steps.py").write_text("raise SystemExit('it was imported')")
    for name, content in (
        ("latin.yaml", b"pipeline: {name: \xe9}"),
        ("wide.yaml", GOOD.encode("utf-16")),
        ("latin.json", b'{"pipeline": {"name": "\xe9"}}'),
        ("large.yaml", b"[" * (100 << 20)),
        ("large.json", b"[" * (100 << 20)),
    ):
        (files / name).write_bytes(content)
    ended = subprocess.run(
        [sys.executable, "-c", WATCHED, str(files), str(tmp_path / "cache")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    names = {f"{n:02}.yaml": name for n, name in enumerate(HOSTILE)}
    names |= {f"{n:02}.json": name for n, name in enumerate(HOSTILE_JSON)}
    told = [f"{line}  ({names.get(line.split()[0])})" for line in ended.stdout.splitlines()]
    assert told == []
    assert ended.returncode == 0, ended.stderr[-2_000:]
    assert not (tmp_path / "pwned").exists()
    assert not (tmp_path / "cache").exists()


def written(folder: Path, text: str | bytes, name: str = "it.yaml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return path


def test_the_files_that_the_hostile_ones_were_made_of_are_read(tmp_path: Path) -> None:
    """Else the errors might have another cause."""
    for text in (GOOD, ROUTED, b"\xef\xbb\xbf" + GOOD.encode(), GOOD.replace("1", "[[[[2]]]]")):
        assert "load" in Pipeline.from_file(written(tmp_path, text), cache_dir=tmp_path).steps
    shared = GOOD.replace("{x: 1}", "&row {x: 1}, *row, {<<: *row, y: 2}")
    pipeline: Any = Pipeline.from_file(written(tmp_path, shared), cache_dir=tmp_path)
    assert pipeline["load"].data == [{"x": 1}, {"x": 1}, {"x": 1, "y": 2}]


def test_a_file_is_read_up_to_its_limit_and_no_further(tmp_path: Path) -> None:
    text = json.dumps({"pipeline": {"name": "p", "description": "d"}})
    path = written(tmp_path, text + " " * (MAX_FILE_BYTES - len(text)), "it.json")
    assert Pipeline.from_file(path, cache_dir=tmp_path).name == "p"
    with path.open("a") as file:
        file.write(" ")
    with pytest.raises(DataError, match="larger than 16 MiB"):
        Pipeline.from_file(path, cache_dir=tmp_path)


def test_data_that_holds_itself_is_refused_as_a_dict_too() -> None:
    deep: list[Any] = []
    for _ in range(5_000):
        deep = [deep]
    itself: dict[str, Any] = {"pipeline": {"name": "p"}}
    itself["pipeline"]["more"] = itself
    many: list[Any] = [1]
    for _ in range(30):
        many = [many, many]
    for data in ({"pipeline": {"name": "p", "steps": deep}}, itself, {"pipeline": many}):
        with pytest.raises(DataError, match=r"nested too deeply|more than"):
            Pipeline.from_dict(data)


def test_an_error_does_not_show_what_stands_in_the_file(tmp_path: Path) -> None:
    for text in (
        f"api_key: sk-canary\n{GOOD}  oops: [",
        f"api_key: sk-canary: sk-canary\n{GOOD}",
        GOOD.replace("1", "!!int sk-canary"),
        GOOD.replace("1", "!!float sk-canary"),
    ):
        with pytest.raises(DataError, match=NOTHING_LIKE_IT) as refused:
            Pipeline.from_file(written(tmp_path, text))
        assert "sk-canary" not in str(refused.value)
        assert refused.value.__cause__ is None


# --- consent --------------------------------------------------------------------------------------

MINE = """
import os
import subprocess
from subprocess import Popen

from asyncdistil.steps import KeepColumns
from asyncdistil.steps.routing import RoutingBatchFunction


class Mine(KeepColumns):
    pass


def route(n: int) -> RoutingBatchFunction:
    return RoutingBatchFunction(lambda steps: steps[:n], "the first ones")


class Outer:
    class Inner(KeepColumns):
        pass
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "consented_steps.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.delitem(sys.modules, "consented_steps", raising=False)
    return "consented_steps"


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "subprocess.Popen",
        "subprocess.run",
        "Popen",
        "Mine.process.__globals__.get",
        "Mine.__init__.__globals__.__class__",
        "route.__code__",
        "route.__class__",
        "os",
        "__builtins__",
        "__name__",
    ],
)
def test_consent_to_a_module_is_none_to_what_it_imports(
    tmp_path: Path, mine: str, name: str
) -> None:
    called = ROUTED.replace("asyncdistil.pipeline", mine).replace("sample_n_steps", name)
    called = called.replace("{n: 1}", "{command: touch pwned, args: [touch, pwned]}")
    in_a_step = step_of(mine, name)
    for text in (called, in_a_step):
        path = written(tmp_path, text.replace("touch pwned", f"touch {tmp_path}/pwned"))
        with pytest.raises(DataError, match=r"outside asyncdistil|nothing here"):
            Pipeline.from_file(path, trust=[mine], cache_dir=tmp_path)
    assert not (tmp_path / "pwned").exists()


def test_consent_to_a_module_is_enough_for_what_it_defines(tmp_path: Path, mine: str) -> None:
    text = ROUTED.replace("asyncdistil.pipeline", mine).replace("sample_n_steps", "route")
    for kind in ("Mine", "Outer.Inner", "KeepColumns"):
        own = text.replace("asyncdistil.steps, name: KeepColumns", f"{mine}, name: {kind}")
        pipeline = Pipeline.from_file(written(tmp_path, own), trust=[mine], cache_dir=tmp_path)
        assert type(pipeline["keep"]).__qualname__ == kind
        assert [str(name) for name in pipeline.routers] == ["load"]


# --- drawn ----------------------------------------------------------------------------------------

PIECES = [*"&*!|>'\"%@`{}[],:?#-~<=\t\n\0", "&a ", "*a", "<<: *a", "!!set ", "!!omap ", "!!pairs "]
PIECES += ["!!str ", "!!int ", "!!null x", "!!python/tuple [1]", "!!timestamp x", "? ", "\n---\n"]
PIECES += ["%YAML 9.9\n", "\ufeff", "\x85", "\u2028", "\\x", "1e999", ".nan", "0o8", "2020-01-01"]
PIECES += ["type_info: ", "{type_info: {module: os, name: system}}", "_type: enum", "null", "[]"]


@st.composite
def texts(draw: st.DrawFn) -> str:
    text = draw(st.sampled_from([GOOD, ROUTED, json.dumps({"pipeline": {"name": "p"}})]))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        cut = draw(st.sampled_from([0, 0, 1, 5, 20]))
        piece = draw(st.sampled_from(PIECES) | st.text(max_size=3))
        text = text[:at] + piece + text[at + cut :]
    return text


def test_any_text_is_a_pipeline_or_an_error_of_ours(faults: Any, tmp_path: Path) -> None:
    examples = faults.amount(smoke=150, short=1_000, full=3_000, soak=1_000_000)

    def block(number: int, size: int) -> None:
        @seed(number)
        @settings(
            max_examples=size,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        )
        @given(texts(), st.sampled_from(["yaml", "json"]))
        def read(text: str, form: str) -> None:
            path = written(tmp_path, text, f"it.{form}")
            try:
                pipeline = Pipeline.from_file(path, cache_dir=tmp_path)
            except UserError:
                return
            pipeline.save(tmp_path / f"again.{form}")

        read()

    faults.count("fuzzed frames and records", faults.drawn(examples, block))
