"""APIGen: requests and the function calls that answer them, made up, executed and judged."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar

import anyio
from pydantic import Field, PositiveFloat
from xxhash import xxh3_128_hexdigest

from asyncdistil.batch import Row
from asyncdistil.errors import ModelReplyError, ParameterError
from asyncdistil.mixins import RUNTIME_PARAMETER
from asyncdistil.models.typing import ChatType
from asyncdistil.steps.row_step import RowStep
from asyncdistil.steps.rows import Entry
from asyncdistil.steps.step import Step
from asyncdistil.steps.tasks import prompts, replies
from asyncdistil.steps.tasks.base import Task
from asyncdistil.steps.tasks.draws import Draw
from asyncdistil.typing import StepColumns

# A package in distilabel: its modules are found below this one by name only.
__path__: list[str] = []

_RUNNER = Path(__file__).with_name("apigen_runner.py")


class PrepareExamples(RowStep):
    r"""Write lists of requests and answers as one text of examples, for `APIGenGenerator`.

    Inputs: ``query`` and ``answers``, lists of equal length, as ``DataSampler`` makes them.
    Outputs: ``examples``; all other columns are dropped.

    Attributes:
        template: One example; ``{query}`` and ``{answers}`` stand for the pair.

    Example:
        >>> from asyncdistil.steps.tasks import PrepareExamples
        >>> step = PrepareExamples(template="{query} -> {answers}")
        >>> next(step.process([{"query": ["a", "b"], "answers": ["[1]", "[2]"]}]))
        [{'examples': 'a -> [1]\n\nb -> [2]'}]
    """

    version: ClassVar[int | None] = 1
    drops_rest: ClassVar[bool] = True

    template: str = "Query:\n{query}\nAnswers:\n{answers}"

    @property
    def inputs(self) -> StepColumns:
        """``query`` and ``answers``."""
        return ["query", "answers"]

    @property
    def outputs(self) -> StepColumns:
        """``examples``."""
        return ["examples"]

    def transform(self, *rows: Row) -> Entry:
        """One text out of the pairs."""
        pairs = zip(rows[0]["query"], rows[0]["answers"], strict=True)
        examples = (
            self.template.replace("{query}", str(query)).replace("{answers}", str(answers))
            for query, answers in pairs
        )
        return {"examples": "\n\n".join(examples)}


class APIGenGenerator(Task):
    """Make up a request to a function, and the calls that answer it.

    Inputs: ``examples``, a text; ``func_name``; ``func_desc``; ``tools``, optional, the function
    as a tool. Outputs: ``query``; ``answers``, JSON text of a list of calls, each with ``name``
    and ``arguments``; ``model_name``.

    Attributes:
        number: Pairs to ask for, of which the first is kept: a number, several to draw from, or
            a dict from number to weight.
        use_tools: Whether ``tools`` is shown, where a row has it.
        system_prompt: What the model is to do.
        seed: Seed of the draw.

    Example:
        >>> from asyncdistil.steps.tasks import APIGenGenerator
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> reply = '[{"query": "2 + 2?", "answers": [{"name": "add", "arguments": {"a": 2}}]}]'
        >>> task = APIGenGenerator(llm=FakeLLM(reply=reply))
        >>> task.load()
        >>> row = {"examples": "", "func_name": "add", "func_desc": "Adds."}
        >>> next(task.process([row]))[0]["answers"]
        '[{"name": "add", "arguments": {"a": 2}}]'

    Source: Liu et al., APIGen: Automated Pipeline for Generating Verifiable and Diverse
    Function-Calling Datasets, https://arxiv.org/abs/2406.18518
    """

    version: ClassVar[int | None] = 1
    prompt_files: ClassVar[tuple[str, ...]] = ("apigen/generator.jinja2",)

    system_prompt: str = Field(
        default_factory=lambda: prompts.render("apigen/generator-system.jinja2")
    )
    number: int | list[int] | dict[int, float] = 1
    use_tools: bool = True
    seed: Annotated[int, RUNTIME_PARAMETER] = Field(
        default=42, description="Seed of the choice of the number."
    )

    @property
    def inputs(self) -> StepColumns:
        """The examples and the function."""
        return {"examples": True, "func_name": True, "func_desc": True, "tools": False}

    @property
    def outputs(self) -> StepColumns:
        """``query``, ``answers`` and ``model_name``."""
        return ["query", "answers", "model_name"]

    def format_input(self, input: dict[str, Any]) -> ChatType:
        """The examples, the function and the form of the answer."""
        user = prompts.render(
            "apigen/generator.jinja2",
            examples=input["examples"],
            number=self._number(input),
            func_name=input["func_name"],
            func_desc=input["func_desc"],
            tools=input.get("tools") if self.use_tools else None,
            structured=self.structured,
        )
        return [
            {"role": "system", "content": self.system_prompt},
            {"role": "user", "content": user},
        ]

    def _number(self, row: Row) -> int:
        if isinstance(self.number, int):
            return self.number
        draw = Draw(self.seed, {name: row.get(name) for name in self.inputs})
        if isinstance(self.number, list):
            return draw.choice(self.number)
        return draw.weighted(list(self.number), list(self.number.values()))

    def format_output(
        self, output: str | None, input: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The first pair.

        Raises:
            ModelReplyError: There is no pair in the reply.
        """
        if output is None:
            return {"query": None, "answers": None}
        held = replies.read_json(output)
        if isinstance(held, dict):
            held = held.get("pairs", [held])
        pair = held[0] if isinstance(held, list) and held else None
        if not isinstance(pair, dict) or not {"query", "answers"} <= pair.keys():
            raise ModelReplyError(f"no query with answers in the reply: {replies.shown(output)}")
        answers = pair["answers"] if isinstance(pair["answers"], list) else [pair["answers"]]
        return {"query": pair["query"], "answers": json.dumps(answers, ensure_ascii=False)}

    def get_structured_output(self) -> dict[str, Any]:
        """A list of pairs."""
        call = {
            "type": "object",
            "properties": {"name": {"type": "string"}, "arguments": {"type": "object"}},
            "required": ["name", "arguments"],
        }
        pair = {
            "type": "object",
            "properties": {
                "query": {"type": "string"},
                "answers": {"type": "array", "items": call},
            },
            "required": ["query", "answers"],
        }
        return {
            "title": "Pairs",
            "type": "object",
            "properties": {"pairs": {"type": "array", "items": pair}},
            "required": ["pairs"],
        }


class APIGenExecutionChecker(Step):
    r"""Execute the calls of `APIGenGenerator` and say whether they work.

    Every call runs in a process of its own that is killed after ``seconds_per_call``, so a
    function that hangs, crashes or exits costs that call only. That is no jail: the functions run
    with your rights, and ``check_is_dangerous`` only looks at their source for well-known names.

    Inputs: ``answers``, JSON text of a list of calls. Outputs:
    ``keep_row_after_execution_check``, whether all of them worked; ``execution_result``, a list
    of texts, what each returned or why it failed.

    Attributes:
        libpath: A Python file with the functions, or a folder with a file for each, named like it.
        check_is_dangerous: Whether functions are left alone whose source uses other processes,
            the shell, sockets, deletion, ``input``, ``eval`` and the like.
        seconds_per_call: Seconds after which a call is given up.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from asyncdistil.steps.tasks import APIGenExecutionChecker
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "functions.py")
        ...     _ = path.write_text("def add(a, b):\n    return a + b")
        ...     step = APIGenExecutionChecker(libpath=str(path))
        ...     step.load()
        ...     calls = '[{"name": "add", "arguments": {"a": 1, "b": 2}}]'
        ...     row = next(step.process([{"answers": calls}]))[0]
        >>> row["keep_row_after_execution_check"], row["execution_result"]
        (True, ['3'])

    Source: Liu et al., APIGen: Automated Pipeline for Generating Verifiable and Diverse
    Function-Calling Datasets, https://arxiv.org/abs/2406.18518
    """

    version: ClassVar[int | None] = 1

    row_wise: bool = True
    libpath: str = Field(description="A file with the functions, or a folder of such files.")
    check_is_dangerous: bool = Field(
        default=True, description="Whether functions that look dangerous are left alone."
    )
    seconds_per_call: PositiveFloat = 5.0

    @property
    def inputs(self) -> StepColumns:
        """``answers``."""
        return ["answers"]

    @property
    def outputs(self) -> StepColumns:
        """Whether to keep the row, and what came back."""
        return ["keep_row_after_execution_check", "execution_result"]

    @property
    def concurrency(self) -> int:
        """Rows whose calls are executed at the same time."""
        return 4

    def load(self) -> None:
        """Look whether the functions are there.

        Raises:
            ParameterError: They are not.
        """
        super().load()
        if not Path(self.libpath).exists():
            raise ParameterError(f"libpath {self.libpath!r} of step {self.name!r} does not exist")

    def identity_extra(self) -> Mapping[str, Any]:
        """The source of the functions: it can change the results."""
        path = Path(self.libpath)
        files = sorted(path.glob("*.py")) if path.is_dir() else [path]
        digests = {
            file.name: xxh3_128_hexdigest(file.read_bytes()) for file in files if file.is_file()
        }
        return {**super().identity_extra(), "functions": digests}

    async def aprocess(self, row: Row) -> Entry:
        """Execute the calls of one row, one after another."""
        calls = json.loads(row["answers"]) if row.get("answers") else []
        outcomes = [await self._executed(call) for call in calls]
        if not outcomes:
            outcomes = [(False, "there are no calls")]
        return {
            **row,
            "keep_row_after_execution_check": all(worked for worked, _ in outcomes),
            "execution_result": [result for _, result in outcomes],
        }

    def _request(self, call: Mapping[str, Any]) -> bytes:
        request = {
            "library": os.path.abspath(self.libpath),
            "name": call["name"],
            "arguments": call.get("arguments"),
            "check": self.check_is_dangerous,
        }
        return json.dumps(request).encode()

    async def _executed(self, call: Any) -> tuple[bool, str]:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            return False, "this is no call"
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            str(_RUNNER),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        talk = asyncio.ensure_future(child.communicate(self._request(call)))
        try:
            done, _ = await asyncio.wait({talk}, timeout=self.seconds_per_call)
        finally:
            # Also reached when we are cancelled: a child that outlives us goes on doing things.
            # The whole group, because what the function started holds its pipes open.
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            with anyio.CancelScope(shield=True):
                said, _ = await talk
        if not done:
            return False, f"{call['name']!r} took more than {self.seconds_per_call} seconds"
        try:
            worked, result = json.loads(said)
        except ValueError:
            return False, f"{call['name']!r} ended its process ({child.returncode})"
        return bool(worked), str(result)


class APIGenSemanticChecker(Task):
    """Judge whether calls do what the request meant.

    Inputs: ``func_desc``, ``query``, ``answers``, ``execution_result``,
    ``keep_row_after_execution_check``. Outputs: ``keep_row_after_semantic_check``, ``thought``,
    ``model_name``.

    Attributes:
        system_prompt: What the model is to do.

    Example:
        >>> from asyncdistil.steps.tasks import APIGenSemanticChecker
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> reply = '{"thought": "It adds.", "passes": "yes"}'
        >>> task = APIGenSemanticChecker(llm=FakeLLM(reply=reply))
        >>> task.load()
        >>> row = {"func_desc": "Adds.", "query": "2 + 2?", "answers": "[]",
        ...        "execution_result": ["4"], "keep_row_after_execution_check": True}
        >>> next(task.process([row]))[0]["keep_row_after_semantic_check"]
        True

    Source: Liu et al., APIGen: Automated Pipeline for Generating Verifiable and Diverse
    Function-Calling Datasets, https://arxiv.org/abs/2406.18518
    """

    version: ClassVar[int | None] = 1
    prompt_files: ClassVar[tuple[str, ...]] = ("apigen/semantic.jinja2",)

    system_prompt: str = Field(
        default_factory=lambda: prompts.render("apigen/semantic-system.jinja2")
    )

    @property
    def inputs(self) -> StepColumns:
        """The function, the request, the calls and what came back."""
        return [
            "func_desc",
            "query",
            "answers",
            "execution_result",
            "keep_row_after_execution_check",
        ]

    @property
    def outputs(self) -> StepColumns:
        """The judgement, the reasoning and ``model_name``."""
        return ["keep_row_after_semantic_check", "thought", "model_name"]

    def format_input(self, input: dict[str, Any]) -> ChatType:
        """What is to be judged."""
        user = prompts.render(
            "apigen/semantic.jinja2",
            func_desc=input["func_desc"],
            query=input["query"] or "",
            func_call=input["answers"] or "",
            execution_result=input["execution_result"],
        )
        return [
            {"role": "system", "content": self.system_prompt},
            {"role": "user", "content": user},
        ]

    def format_output(
        self, output: str | None, input: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The judgement as a truth value.

        Raises:
            ModelReplyError: It is neither yes nor no.
        """
        if output is None:
            return {"keep_row_after_semantic_check": None, "thought": None}
        held = replies.read_object(output, "passes")
        passes = {"yes": True, "true": True, "no": False, "false": False}.get(
            str(held["passes"]).strip().lower()
        )
        if passes is None:
            raise ModelReplyError(f"`passes` is neither yes nor no: {replies.shown(output)}")
        return {"keep_row_after_semantic_check": passes, "thought": held.get("thought")}

    def get_structured_output(self) -> dict[str, Any]:
        """A thought and yes or no."""
        return {
            "title": "Judgement",
            "type": "object",
            "properties": {
                "thought": {"type": "string"},
                "passes": {"type": "string", "enum": ["yes", "no"]},
            },
            "required": ["thought", "passes"],
        }
