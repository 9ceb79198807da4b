"""Every class of the galleries says what goes in and out, shows it, and names its paper."""

from __future__ import annotations

import doctest
import inspect
import sys

import pytest

from asyncdistil import steps
from asyncdistil.steps import tasks
from asyncdistil.steps.base import BaseStep

GALLERY: dict[str, type[BaseStep]] = {
    name: kind
    for room in (steps, tasks)
    for name in room.__all__
    if isinstance(kind := getattr(room, name), type) and issubclass(kind, BaseStep)
}
CLASSES = sorted(GALLERY.keys() - {"BaseStep"})  # of which nobody has an instance
RUN_ELSEWHERE = {f"asyncdistil.steps.{module}" for module in steps._GALLERY.values()}
"""Modules whose examples are run whole, as are those of all tasks."""

PAPERS = {
    "1802.03426": "UMAP",
    "2212.10560": "SelfInstruct",
    "2304.12244": "EvolInstruct EvolInstructGenerator EvolComplexity EvolComplexityGenerator",
    "2306.02561": "PairRM",
    "2308.06259": "InstructionBacktranslation",
    "2310.01377": "UltraFeedback",
    "2310.04484": "Genstruct",
    "2312.01552": "URIAL",
    "2312.08935": "FormatPRM MathShepherdCompleter MathShepherdGenerator",
    "2312.15685": (
        "DeitaFiltering ComplexityScorer EvolComplexity EvolComplexityGenerator EvolQuality "
        "GenerateEmbeddings QualityScorer"
    ),
    "2401.00368": (
        "BitextRetrievalGenerator EmbeddingTaskGenerator GenerateLongTextMatchingData "
        "GenerateShortTextMatchingData GenerateTextClassificationData GenerateTextRetrievalData "
        "MonolingualTripletGenerator"
    ),
    "2401.08281": "FaissNearestNeighbour",
    "2405.01535": "PrometheusEval",
    "2406.08464": "Magpie MagpieGenerator",
    "2406.18518": "APIGenExecutionChecker APIGenGenerator APIGenSemanticChecker",
    "2408.02442": "TextClassification",
    "2408.06266": "CLAIR",
}
"""arXiv number to the classes that do what the paper describes."""


def documentation(name: str) -> str:
    return inspect.cleandoc(GALLERY[name].__doc__ or "")


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_says_what_goes_in_and_out_and_what_each_field_means(name: str) -> None:
    told = documentation(name)
    assert "Inputs" in told
    assert "utputs" in told
    kind = GALLERY[name]
    inherited = {field for base in kind.__mro__[1:] for field in getattr(base, "model_fields", ())}
    own = [field for field in kind.__annotations__ if field in kind.model_fields.keys() - inherited]
    # A default stands in the signature; what it does stands here.
    assert [field for field in own if f"\n    {field}: " not in told] == []


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_has_an_example_and_the_example_is_true(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = GALLERY[name]
    found = doctest.DocTestParser().get_doctest(
        documentation(name), dict(vars(sys.modules[kind.__module__])), name, None, None
    )
    assert found.examples
    if kind.__module__ in RUN_ELSEWHERE or kind.__module__.startswith(tasks.__name__):
        return
    assert doctest.DocTestRunner().run(found).failed == 0, capsys.readouterr().out


@pytest.mark.parametrize("paper", sorted(PAPERS))
def test_a_class_names_the_paper_that_it_follows(paper: str) -> None:
    unnamed = [name for name in PAPERS[paper].split() if paper not in documentation(name)]
    assert unnamed == []
