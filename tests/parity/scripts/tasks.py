"""Tasks that need a model for text alone, fed with replies in the shape that was asked for."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from distilabel.models import AsyncLLM
from distilabel.models.mixins.magpie import MagpieChatTemplateMixin
from distilabel.steps.tasks import (
    CLAIR,
    URIAL,
    APIGenExecutionChecker,
    APIGenGenerator,
    APIGenSemanticChecker,
    BitextRetrievalGenerator,
    ChatGeneration,
    ComplexityScorer,
    EmbeddingTaskGenerator,
    EvolComplexity,
    EvolComplexityGenerator,
    EvolInstruct,
    EvolInstructGenerator,
    EvolQuality,
    FormatPRM,
    GenerateEmbeddings,
    GenerateLongTextMatchingData,
    GenerateSentencePair,
    GenerateShortTextMatchingData,
    GenerateTextClassificationData,
    GenerateTextRetrievalData,
    Genstruct,
    InstructionBacktranslation,
    Magpie,
    MagpieGenerator,
    MathShepherdCompleter,
    MathShepherdGenerator,
    MonolingualTripletGenerator,
    PrometheusEval,
    QualityScorer,
    SelfInstruct,
    TextClassification,
    TextGeneration,
    UltraFeedback,
)
from distilabel.steps.tasks.apigen.utils import PrepareExamples, load_module_from_path
from distilabel.steps.tasks.base import GeneratorTask


class Canned(AsyncLLM, MagpieChatTemplateMixin):
    """Says the same to everybody."""

    reply: Any = "ok"

    @property
    def model_name(self) -> str:
        return "canned"

    async def agenerate(self, input: Any, num_generations: int = 1) -> Any:
        return {
            "generations": [self.reply] * num_generations,
            "statistics": {
                "input_tokens": [3] * num_generations,
                "output_tokens": [5] * num_generations,
            },
        }

    def get_last_hidden_states(self, inputs: Any) -> Any:
        return [np.array([[1.0, 2.0], [3.0, len(input[-1]["content"])]]) for input in inputs]


def row_wise(kind: Any, reply: Any, *rows: Any, **options: Any) -> Any:
    task = kind(name="task", llm=Canned(reply=reply), **options)
    task.load()
    return next(task.process([dict(row) for row in rows]))


def generator(kind: Any, reply: Any, **options: Any) -> Any:
    task = kind(name="task", llm=Canned(reply=reply), **options)
    task.load()
    return [row for rows, _ in task.process() for row in rows]


def magpie(kind: Any, reply: Any, *rows: Any, **options: Any) -> Any:
    llm = Canned(reply=reply, use_magpie_template=True, magpie_pre_query_template="llama3")
    task = kind(name="task", llm=llm, **options)
    task.load()
    if rows:
        return next(task.process([dict(row) for row in rows]))
    return [row for made, _ in task.process() for row in made]


def prm(rows: Any, **options: Any) -> Any:
    step = FormatPRM(name="step", **options)
    step.load()
    return next(step.process([dict(row) for row in rows]))


def execute(rows: Any, library: str) -> Any:
    step = APIGenExecutionChecker(name="step", libpath=library)
    step.load()
    return next(step.process([dict(row) for row in rows]))


CASES: dict[str, Any] = {}


def case(name: str, make: Any, *arguments: Any, **options: Any) -> None:
    CASES[name] = (make, arguments, options)


SAID = {"instruction": "2+2?", "generation": "4", "generations": ["4", "5"]}
NOTHING = None

case("TextGeneration", row_wise, TextGeneration, "4", {"instruction": "2+2?"})
case("TextGeneration, none", row_wise, TextGeneration, NOTHING, {"instruction": "2+2?"})
case(
    "TextGeneration, three",
    row_wise,
    TextGeneration,
    "4",
    {"instruction": "2+2?"},
    {"instruction": "3+3?"},
    num_generations=3,
)
case(
    "TextGeneration, grouped",
    row_wise,
    TextGeneration,
    "4",
    {"instruction": "2+2?", "kept": 1},
    num_generations=2,
    group_generations=True,
    add_raw_output=False,
)
case(
    "TextGeneration, template",
    row_wise,
    TextGeneration,
    "4",
    {"a": "2", "b": "3"},
    template="{{ a }}+{{ b }}{% if c %}!{% endif %}",
    columns=["a", "b"],
    system_prompt="Count.",
)
case(
    "ChatGeneration",
    row_wise,
    ChatGeneration,
    "4",
    {"messages": [{"role": "user", "content": "2+2?"}]},
)
RATED = "#### Output for Text {}\nRating: {}\nRationale: so {}"
TYPED = "#### Output for Text {}\nType: {}\nRationale: is {}\nRating: {}\nRationale: so {}"
for aspect in ("overall-rating", "honesty", "instruction-following"):
    reply = "\n\n".join(RATED.format(n, n + 3, n) for n in (1, 2))
    case(f"UltraFeedback, {aspect}", row_wise, UltraFeedback, reply, SAID, aspect=aspect)
for aspect in ("helpfulness", "truthfulness"):
    reply = "\n\n".join(TYPED.format(n, n, n, n + 3, n) for n in (1, 2))
    case(f"UltraFeedback, {aspect}", row_wise, UltraFeedback, reply, SAID, aspect=aspect)
case("UltraFeedback, none", row_wise, UltraFeedback, NOTHING, SAID)
case(
    "PrometheusEval, absolute",
    row_wise,
    PrometheusEval,
    "Feedback: Right. [RESULT] 5",
    SAID,
    mode="absolute",
    rubric="factual-validity",
)
case(
    "PrometheusEval, relative",
    row_wise,
    PrometheusEval,
    "A is right. [RESULT] A",
    {**SAID, "reference": "4"},
    mode="relative",
    rubric="own",
    rubrics={
        "own": "[Right?]\nScore 1: No.\nScore 2: Hm.\nScore 3: So.\nScore 4: Well.\nScore 5: Yes."
    },
    reference=True,
)
case(
    "PrometheusEval, none",
    row_wise,
    PrometheusEval,
    NOTHING,
    SAID,
    mode="absolute",
    rubric="reasoning",
)
SCORES = "[1] Score: 2\n[2] Score: 3"
case(
    "QualityScorer", row_wise, QualityScorer, SCORES, {"instruction": "x", "responses": ["a", "b"]}
)
case("QualityScorer, none", row_wise, QualityScorer, NOTHING, {"instruction": "x", "responses": []})
case("ComplexityScorer", row_wise, ComplexityScorer, SCORES, {"instructions": ["a", "b"]})
case(
    "InstructionBacktranslation",
    row_wise,
    InstructionBacktranslation,
    "It is short.\nScore: 4",
    SAID,
)
case(
    "CLAIR",
    row_wise,
    CLAIR,
    "{teacher_reasoning}: off by one\n\n**Corrected Student Solution:**\n\n4",
    {"task": "2+2?", "student_solution": "5"},
)
case(
    "SelfInstruct",
    row_wise,
    SelfInstruct,
    "What is rain?\nDescribe a storm.\n",
    {"input": "the weather"},
    num_instructions=2,
)
case(
    "Genstruct",
    row_wise,
    Genstruct,
    "Why?\n[[[Assistant]]] Because.",
    {"title": "a", "content": "b"},
)
case("URIAL", row_wise, URIAL, "\n\nHello.\n\n# User\n\nBye", {"instruction": "Hi"})
PAIR = "## Positive\n\nyes\n\n## Negative\n\nno"
case(
    "GenerateSentencePair, triplet",
    row_wise,
    GenerateSentencePair,
    PAIR,
    {"anchor": "a"},
    triplet=True,
    action="query",
    hard_negative=True,
    context="c",
)
case(
    "GenerateSentencePair",
    row_wise,
    GenerateSentencePair,
    "## Positive\n\nyes",
    {"anchor": "a"},
    action="paraphrase",
)
case(
    "TextClassification",
    row_wise,
    TextClassification,
    '{"labels": "spam"}',
    {"text": "Win!"},
    available_labels=["spam", "ham"],
    use_default_structured_output=False,
)
case(
    "TextClassification, two",
    row_wise,
    TextClassification,
    '{"labels": ["spam", "mail"]}',
    {"text": "Win!"},
    n=2,
    use_default_structured_output=False,
)
for kind in (EvolInstruct, EvolComplexity):
    name = kind.__name__
    case(name, row_wise, kind, "harder", {"instruction": "x"}, num_evolutions=2)
    case(
        f"{name}, all",
        row_wise,
        kind,
        "harder",
        {"instruction": "x"},
        num_evolutions=2,
        store_evolutions=True,
        include_original_instruction=True,
    )
case(
    "EvolInstruct, answers",
    row_wise,
    EvolInstruct,
    "harder",
    {"instruction": "x"},
    num_evolutions=1,
    generate_answers=True,
)
case(
    "EvolQuality",
    row_wise,
    EvolQuality,
    "better",
    {"instruction": "x", "response": "y"},
    num_evolutions=2,
)
case(
    "EvolQuality, all",
    row_wise,
    EvolQuality,
    "better",
    {"instruction": "x", "response": "y"},
    num_evolutions=2,
    store_evolutions=True,
    include_original_response=True,
)
LONG = "a new question " * 4
for kind in (EvolInstructGenerator, EvolComplexityGenerator):
    case(kind.__name__, generator, kind, LONG, num_instructions=2, min_length=5, max_length=90)
case(
    "EvolInstructGenerator, answers",
    generator,
    EvolInstructGenerator,
    LONG,
    num_instructions=2,
    min_length=5,
    max_length=90,
    generate_answers=True,
)
SOLUTION = "Step 1: 2 + 2 = 4\nStep 2: So it is 4\nThe answer is: 4"
case("MathShepherdGenerator", row_wise, MathShepherdGenerator, SOLUTION, {"instruction": "2+2?"})
case(
    "MathShepherdGenerator, two",
    row_wise,
    MathShepherdGenerator,
    f"{SOLUTION}\n---\n{SOLUTION}",
    {"instruction": "2+2?"},
    M=2,
)
STEPS = SOLUTION.splitlines()
case(
    "MathShepherdCompleter",
    row_wise,
    MathShepherdCompleter,
    "Step 2: So it is 4\nThe answer is: 4",
    {
        "instruction": "2+2?",
        "solutions": [STEPS[:], [*STEPS[:1], "The answer is: 5"]],
        "golden_solution": STEPS[:],
    },
    N=1,
)
LABELLED = {
    "instruction": "2+2?",
    "solutions": ["Step 1: 2 + 2 +", "Step 2: So 4 -", "Step 3: So it is The answer is: 4 +"],
}
case("FormatPRM", prm, [LABELLED])
case("FormatPRM, trl", prm, [LABELLED], format="trl")
TOOLS = json.dumps([{"type": "function", "function": {"name": "add", "parameters": {}}}])
CALL = [{"name": "add", "arguments": {"a": 1, "b": 2}}]
case(
    "APIGenGenerator",
    row_wise,
    APIGenGenerator,
    json.dumps([{"query": "1+2?", "answers": CALL}]),
    {"examples": "e", "func_name": "add", "func_desc": "Adds.", "tools": TOOLS},
)
case(
    "APIGenGenerator, fenced",
    row_wise,
    APIGenGenerator,
    "```json\n" + json.dumps([{"query": "1+2?", "answers": CALL}]) + "\n```",
    {"examples": "e", "func_name": "add", "func_desc": "Adds."},
    use_tools=False,
)
case(
    "APIGenSemanticChecker",
    row_wise,
    APIGenSemanticChecker,
    '{"thought": "It adds.", "passes": "yes"}',
    {
        "func_desc": "Adds.",
        "query": "1+2?",
        "answers": json.dumps(CALL),
        "execution_result": ["3"],
        "keep_row_after_execution_check": True,
    },
)
case(
    "APIGenExecutionChecker",
    execute,
    [
        {"query": "1+2?", "answers": json.dumps(CALL)},
        {"query": "1+2?", "answers": json.dumps([{"name": "gone", "arguments": {}}])},
    ],
    sys.argv[2],
)
case(
    "EmbeddingTaskGenerator",
    generator,
    EmbeddingTaskGenerator,
    '["one", "two"]',
    category="text-retrieval",
)
case(
    "EmbeddingTaskGenerator, flat",
    generator,
    EmbeddingTaskGenerator,
    '["one", "two"]',
    category="text-matching-short",
    flatten_tasks=True,
)
case(
    "GenerateTextRetrievalData",
    row_wise,
    GenerateTextRetrievalData,
    '{"user_query": "q", "positive_document": "p", "hard_negative_document": "n"}',
    {"task": "t"},
)
for kind in (GenerateShortTextMatchingData, GenerateLongTextMatchingData):
    case(kind.__name__, row_wise, kind, '{"input": "i", "positive_document": "p"}', {"task": "t"})
case(
    "GenerateTextClassificationData",
    row_wise,
    GenerateTextClassificationData,
    '{"input_text": "i", "label": "l", "misleading_label": "m"}',
    {"task": "t"},
)
S = '{"S1": "a", "S2": "b", "S3": "c"}'
case("MonolingualTripletGenerator", generator, MonolingualTripletGenerator, S)
case(
    "BitextRetrievalGenerator",
    generator,
    BitextRetrievalGenerator,
    S,
    source_language="English",
    target_language="German",
)
case(
    "GenerateEmbeddings",
    row_wise,
    GenerateEmbeddings,
    "",
    {"text": "abc"},
    {"text": [{"role": "user", "content": "x"}]},
)
case("Magpie", magpie, Magpie, "hi", {}, {"system_prompt": "Be kind."})
case("Magpie, turns", magpie, Magpie, "hi", {}, n_turns=2)
case("Magpie, ends with user", magpie, Magpie, "hi", {}, n_turns=2, end_with_user=True)
case(
    "Magpie, system",
    magpie,
    Magpie,
    "hi",
    {"system_prompt": "Be kind."},
    n_turns=2,
    include_system_prompt=True,
)
case("Magpie, instruction", magpie, Magpie, "hi", {}, only_instruction=True)
case(
    "MagpieGenerator",
    magpie,
    MagpieGenerator,
    "hi",
    num_rows=3,
    batch_size=2,
    system_prompt={"only": "Be kind."},
)


class Sayings(GeneratorTask):
    subject: str

    @property
    def outputs(self) -> list[str]:
        return ["saying", "model_name"]

    def format_output(self, output: Any, input: Any = None) -> Any:
        return {"saying": output}

    def process(self, offset: int = 0) -> Any:
        (reply,) = self.llm.generate(
            inputs=[[{"role": "user", "content": f"Say something on {self.subject}."}]]
        )
        rows = [self.format_output(said) for said in reply["generations"]]
        yield [row | {"model_name": self.llm.model_name} for row in rows], True


case("GeneratorTask", generator, Sayings, "It rains.", subject="rain")


def examples() -> Any:
    step = PrepareExamples(name="step")
    step.load()
    row = {"query": ["q0", "q1"], "answers": ["[0]", "[1]"], "tools": ["t0", "t1"]}
    return next(step.process([row]))


case("PrepareExamples", examples)
case("load_module_from_path", lambda: load_module_from_path(sys.argv[2]).add(1, 2))


def forget_prompts(rows: Any) -> Any:
    """Prompts are our own, on purpose."""
    for row in rows if isinstance(rows, list) else []:
        metadata = row.get("distilabel_metadata")
        for one in metadata if isinstance(metadata, list) else [metadata or {}]:
            one.pop("raw_input_task", None)
    return rows


made: dict[str, Any] = {}
for name, (make, arguments, options) in CASES.items():
    try:
        made[name] = forget_prompts(make(*arguments, **options))
    except Exception as error:
        made[name] = f"{type(error).__name__}: {error}"[:300]
Path(sys.argv[1], "made.json").write_text(json.dumps(made, default=str))
