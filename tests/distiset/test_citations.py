"""Papers in docstrings become BibTeX, whatever the docstrings look like, without the network."""

from asyncdistil.distiset.citations import citations_of
from asyncdistil.steps import tasks

DISTILABEL = """A task.

    References:
        - [A Paper](https://arxiv.org/abs/2401.00368)

    Citations:
        ```
        @misc{wang2024,
            title={Improving {Text}},
            eprint={2401.00368},
        }
        ```
    """


def test_an_entry_is_taken_as_it_is_and_its_link_is_no_second_one() -> None:
    assert citations_of([DISTILABEL, None, DISTILABEL]) == [
        "@misc{wang2024,\n    title={Improving {Text}},\n    eprint={2401.00368},\n}"
    ]


def test_a_link_becomes_an_entry_with_the_words_before_it() -> None:
    text = "Does it.\n\nSource: Xu et al., Wizard{LM,\nhttps://arxiv.org/abs/2304.12244v2; more"
    assert citations_of([text]) == [
        "@misc{arxiv_2304_12244,\n"
        "    title = {Xu et al., WizardLM},\n"
        "    eprint = {2304.12244},\n"
        "    archivePrefix = {arXiv},\n"
        "    url = {https://arxiv.org/abs/2304.12244},\n"
        "}"
    ]


def test_an_entry_that_never_ends_is_none() -> None:
    assert citations_of(["@article{open, title={x}"]) == []


def test_every_paper_of_the_gallery_is_cited_with_words() -> None:
    found = citations_of(getattr(tasks, name).__doc__ for name in tasks.__all__)
    assert len(found) > 10
    assert [entry for entry in found if "title" not in entry] == []
    assert all(entry.count("{") == entry.count("}") for entry in found)
