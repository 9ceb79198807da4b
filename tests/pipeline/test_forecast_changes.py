"""A stored pipeline of four steps, changed in every way that counts and in every way that doesn't.

What steps and models were called with is read from a file that they append to; they find it by an
environment variable, which is in no key.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from asyncdistil.pipeline import Pipeline
from asyncdistil.pipeline.forecast import Forecast
from asyncdistil.steps.tasks import TextGeneration

CALLS = "ASYNCDISTIL_TEST_CALLS"

HELPERS = """
def louder(text):
    return text.upper()
"""

STEPS = """
import json
import os
from typing import Any

from asyncdistil.models.llms import AsyncLLM
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts, Step, StepInput, step
from asyncdistil.steps.tasks import TextGeneration

from forecast_helpers import louder

MARK = "!"


def note(name, rows):
    with open(os.environ["ASYNCDISTIL_TEST_CALLS"], "a") as file:
        file.write(json.dumps([name, len(rows)]) + "\\n")


class Shout(Step):
    times: int = 1

    @property
    def inputs(self):
        return ["text"]

    @property
    def outputs(self):
        return ["instruction"]

    def process(self, inputs: StepInput):
        note(self.name, inputs)
        yield [row | {"instruction": louder(row["text"]) + MARK * self.times} for row in inputs]


class Model(AsyncLLM):
    model: str = "small"
    warmth: float = 0.0
    max_concurrency: int = 8

    @property
    def concurrency(self):
        return self.max_concurrency

    @property
    def model_name(self):
        return self.model

    async def agenerate(self, input, num_generations=1, **kwargs: Any):
        note("model", [input] * num_generations)
        return {
            "generations": [f"{self.model} {self.warmth} {input[-1]['content']}"] * num_generations,
            "statistics": {
                "input_tokens": [3] * num_generations,
                "output_tokens": [4] * num_generations,
            },
        }


def signed_by(name):
    @step(inputs=["generation"], outputs=["letter"])
    def Sign(inputs: StepInput):
        note("sign", inputs)
        yield [row | {"letter": row["generation"] + name} for row in inputs]

    return Sign


def build(
    cache,
    *,
    rows=8,
    times=1,
    name="Ada",
    model=None,
    template="{{ instruction }}",
    ask_what="shout",
    ask_extra=None,
    shout_extra=None,
):
    with Pipeline("letters", cache_dir=cache) as pipeline:
        load = LoadDataFromDicts(
            name="load",
            data=[{"text": f"text {n}", "instruction": f"say {n}"} for n in range(rows)],
        )
        shout = Shout(name="shout", times=times, input_batch_size=4, **(shout_extra or {}))
        ask = TextGeneration(
            name="ask", llm=Model(**(model or {})), template=template, **(ask_extra or {})
        )
        sign = signed_by(name)(name="sign", input_batch_size=4)
        load >> shout
        (shout if ask_what == "shout" else load) >> ask
        ask >> sign
    return pipeline
"""


class Code:
    """The user's two modules, which a test may write anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, steps: str = STEPS, helpers: str = HELPERS, folder: str = "code") -> ModuleType:
        where = self.folder / folder
        where.mkdir(exist_ok=True)
        self._module("forecast_helpers", helpers, where)
        return self._module("forecast_steps", steps, where)

    @staticmethod
    def _module(name: str, source: str, folder: Path) -> ModuleType:
        path = folder / f"{name}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        # Not through the byte-code cache, which tells versions apart by whole seconds only.
        exec(compile(source, str(path), "exec"), module.__dict__)
        return module


class Journal:
    """Calls since the last look, per step: how many, and of how many rows in all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = 0

    def take(self) -> dict[str, tuple[int, int]]:
        text = self._path.read_text() if self._path.exists() else ""
        fresh, self._seen = text[self._seen :], len(text)
        found: dict[str, tuple[int, int]] = {}
        for name, rows in map(json.loads, fresh.splitlines()):
            calls, total = found.get(name, (0, 0))
            found[name] = calls + 1, total + rows
        return found


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache directory with one finished run."""
    folder = tmp_path_factory.mktemp("stored")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CALLS, str(folder / "calls"))
        Code(folder).load().build(folder / "cache").run()
        assert set(Journal(folder / "calls").take()) == {"shout", "model", "sign"}
    yield folder / "cache"
    for name in ("forecast_helpers", "forecast_steps"):
        sys.modules.pop(name, None)


@pytest.fixture
def cache(stored: Path, tmp_path: Path) -> Path:
    shutil.copytree(stored, tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def code(tmp_path: Path) -> Code:
    return Code(tmp_path)


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))
    return Journal(tmp_path / "calls")


def predicted(forecast: Forecast) -> dict[str, tuple[int, int]]:
    """Calls that a forecast foresees, in the form of `Journal.take`."""
    found = {}
    for name in ("shout", "sign"):
        step = forecast[name]
        assert step.calls is not None
        if step.calls:
            assert step.to_run is not None
            found[name] = step.calls, step.to_run
    if asked := forecast["ask"].model_calls:
        found["model"] = asked, asked
    return found


def rewritten(old: str, new: str, source: str = STEPS) -> str:
    assert source.count(old) == 1
    return source.replace(old, new)


Change = Callable[[Code, Path, pytest.MonkeyPatch], Pipeline]

CHANGES: dict[str, tuple[Change, str, list[str]]] = {
    "a parameter": (
        lambda code, cache, _: code.load().build(cache, times=2),
        "shout",
        ["field.times"],
    ),
    "a nested model parameter": (
        lambda code, cache, _: code.load().build(cache, model={"warmth": 0.5}),
        "ask",
        ["field.llm.warmth"],
    ),
    "code of a method": (
        lambda code, cache, _: code.load(
            rewritten("MARK * self.times}", "MARK * (self.times + 1)}")
        ).build(cache),
        "shout",
        ["code.Shout.process"],
    ),
    "code of a helper in another module": (
        lambda code, cache, _: code.load(
            helpers=rewritten("text.upper()", "text.title()", HELPERS)
        ).build(cache),
        "shout",
        ["code.louder"],
    ),
    "a closure value": (
        lambda code, cache, _: code.load().build(cache, name="Eve"),
        "sign",
        ["code.signed_by.Sign.name"],
    ),
    "a module constant": (
        lambda code, cache, _: code.load(rewritten('MARK = "!"', 'MARK = "?"')).build(cache),
        "shout",
        ["code.MARK"],
    ),
    "a prompt template": (
        lambda code, cache, _: code.load().build(cache, template="Please: {{ instruction }}"),
        "ask",
        ["field.template"],
    ),
    "a model id": (
        lambda code, cache, _: code.load().build(cache, model={"model": "large"}),
        "ask",
        ["field.llm.model"],
    ),
    "an upstream step": (
        lambda code, cache, _: code.load().build(cache, times=3),
        "ask",
        ["upstream shout"],
    ),
    "input rows": (lambda code, cache, _: code.load().build(cache, rows=12), "load", ["data"]),
    "wiring": (
        lambda code, cache, _: code.load().build(cache, ask_what="load"),
        "ask",
        ["input 0.upstream"],
    ),
    "the version of a library step": (
        lambda code, cache, patch: (
            patch.setattr(TextGeneration, "version", 1000),
            code.load().build(cache),
        )[1],
        "ask",
        ["version"],
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_named_and_its_calls_are_foreseen(
    what: str, code: Code, cache: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, step, components = CHANGES[what]
    pipeline = change(code, cache, monkeypatch)
    before = sorted(path for path in cache.rglob("*"))
    explained = pipeline.explain(step)
    forecast = pipeline.plan()
    assert [change.component for change in explained.changes] == components
    if what == "code of a method":
        shown = explained.changes[0].diff.splitlines()
        assert [line for line in shown if line.startswith("-        yield")]
        assert [line for line in shown if line.startswith("+        yield")]
    assert not forecast.hit
    assert journal.take() == {}
    assert sorted(path for path in cache.rglob("*")) == before
    pipeline.run()
    assert journal.take() == predicted(forecast)
    assert pipeline.plan().hit


@pytest.mark.parametrize(
    ("old", "new", "times", "step", "says"),
    [
        (
            "times: int = 1",
            "times: int = 2",
            2,
            "shout",
            "field.times: 1 → 2\ncode.Shout: what it declares changed (times: 1 → 2)",
        ),
        (
            "times: int = 1",
            "times: int = 2",
            1,
            "shout",
            "code.Shout: what it declares changed: the default, type or limit of a field (times) "
            "that no value of the step shows",
        ),
        (
            "warmth: float = 0.0",
            "warmth: float = 0.5",
            1,
            "ask",
            "field.llm.warmth: 0.0 → 0.5\n"
            "code.Model: what it declares changed (llm.warmth: 0.0 → 0.5)",
        ),
    ],
)
def test_a_changed_default_is_told_in_words_and_values_not_in_digests(
    code: Code, cache: Path, old: str, new: str, times: int, step: str, says: str
) -> None:
    pipeline = code.load(rewritten(old, new)).build(cache, times=times)
    explained = pipeline.explain(step)
    lines = [line for line in str(explained).splitlines()[1:] if not line.startswith("upstream ")]
    assert "\n".join(lines).partition("\nabove")[0] == says
    assert explained.to_dict()["changes"][-1]["old"]


SAME: dict[str, Change] = {
    "nothing": lambda code, cache, _: code.load().build(cache),
    "a comment": lambda code, cache, _: code.load(
        rewritten("        note(self.name, inputs)", "        note(self.name, inputs)  # noted")
    ).build(cache),
    "white space": lambda code, cache, _: code.load(
        "\n\n" + rewritten("MARK * self.times", "MARK  *  self.times")
    ).build(cache),
    "a file moved": lambda code, cache, _: code.load(folder="elsewhere").build(cache),
    "replicas": lambda code, cache, _: code.load(
        rewritten("import LoadDataFromDicts, ", "import LoadDataFromDicts, StepResources, ")
    ).build(cache, shout_extra={"resources": {"replicas": 2}}),
    "the batch size of a row-wise step": lambda code, cache, _: code.load().build(
        cache, ask_extra={"input_batch_size": 3}
    ),
    "concurrency": lambda code, cache, _: code.load().build(cache, model={"max_concurrency": 3}),
    "another directory": lambda code, cache, patch: (
        patch.chdir(cache),
        code.load().build(cache),
    )[1],
    "an error policy of no consequence": lambda code, cache, _: code.load().build(
        cache, ask_extra={"max_failures": 5}
    ),
}


@pytest.mark.parametrize("what", SAME)
def test_what_can_not_change_a_row_changes_no_key(
    what: str, code: Code, cache: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = SAME[what](code, cache, monkeypatch)
    forecast = pipeline.plan()
    assert forecast.hit
    assert [step.compute or step.pending for step in forecast.steps] == [0, 0, 0, 0]
    for name in pipeline:
        explained = pipeline.explain(name)
        assert explained.stored
        assert explained.changes == ()
    pipeline.run()
    assert journal.take() == {}


def test_the_seed_of_hashes_changes_no_key(code: Code, cache: Path, journal: Journal) -> None:
    code.load()
    for seed in ("1", "2"):
        made = subprocess.run(
            [
                sys.executable,
                "-c",
                "import json, sys; sys.path.insert(0, sys.argv[1])\n"
                "from forecast_steps import build\n"
                "print(json.dumps(build(sys.argv[2]).plan().to_dict()))",
                str(code.folder / "code"),
                str(cache),
            ],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        told: dict[str, Any] = json.loads(made.stdout)
        assert told["hit"], told
