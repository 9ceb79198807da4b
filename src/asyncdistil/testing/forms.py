"""Answers in the shape that a prompt describes in words: forms, headings, keys, lists, steps.

Tasks tell a model how to answer: "in this form", with these headings, as a list of so many. The
stand-in keeps to that, so that what it says can be read by the task that asked. The words are drawn
from the prompt and worth nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

_FORM = re.compile(
    r"[^\n]*(?:in this form|has this form|exactly these lines)[^\n]*:[ \t]*\n", re.IGNORECASE
)
_BLANK = re.compile(r"<([^<>\n{}\"]{1,90})>")
_LINE = re.compile(r"(?:[\w ]+: )?<[^<>]+>|[\[{].*<[^<>]+>.*[\]}]")
_WHOLE_NUMBER = re.compile(r"whole number from (\d+) to (\d+)")
_CHOICE = re.compile(r"(?:[\w/]{1,4}, )*[\w/]{1,4} or [\w/]{1,4}")
_LISTED = re.compile(r'^- (".*?(?<!\\)")(?:: .*)?$', re.MULTILINE)
_HEADINGS = re.compile(
    r'Begin the first with the line "(.+?)" and the second with the line "(.+?)"'
)
_KEYS_IN_LINE = re.compile(r"JSON object with the keys ([^\n.]+)")
_KEYS_BELOW = re.compile(r"JSON object with these keys:\n((?:- .*\n)+)")
_STRINGS = re.compile(r"JSON array of (\d+) strings")
_QUERIES = re.compile(r"Write (\d+) user queries")
_MANY = re.compile(r"Write (\d+) different (?:solutions|continuations)")
_LAST_STEP = re.compile(r"^Step (\d+):", re.MULTILINE)
_NEW_TEXT = re.compile(r"Write only the new (?:prompt|response)")
_TELLS = re.compile(r"Answer (?:in|with) |Explain what |Write (?:each|only|nothing|three|one) |- ")
_QUOTED = re.compile(r'"(\w+)"')
_HEADING = re.compile(r"^#+ .*$", re.MULTILINE)
_OPEN_TURN = "[[[User]]]"

Say = Callable[[str], str]
"""Words for a part of an answer, by the part's name."""
Pick = Callable[[str, int], int]
"""A number from 0 to below the second argument, by the name of what is to be chosen."""


def fill(prompt: str, say: Callable[[str, str], str], draw: Pick) -> str | None:
    """Answer a prompt in the shape that it asks for.

    Args:
        prompt: All of the conversation as text.
        say: Words for a part of an answer, by what they are about and the part's name.
        draw: Chooses a number.

    Returns:
        The answer; ``None`` if the prompt describes no shape that is known here.
    """
    subject = subject_of(prompt)

    def words(part: str) -> str:
        return say(subject, part)

    for shape in (_form, _headings, _object, _array, _lines, _steps, _turn, _text):
        filled = shape(prompt, words, draw)
        if filled is not None:
            return filled
    return None


def subject_of(prompt: str) -> str:
    """What a prompt is about: its last paragraph that says nothing of how to answer."""
    found = _FORM.search(prompt)
    parts = [prompt[: found.start()], *_rest(prompt[found.end() :])] if found else [prompt]
    for part in reversed(parts):
        paragraphs = [_HEADING.sub("", text).strip() for text in part.split("\n\n")]
        told = [
            text
            for text in paragraphs
            if text and not _BLANK.search(text) and not _TELLS.match(text)
        ]
        if told:
            return told[-1]
    return prompt


def _rest(text: str) -> list[str]:
    return [text[len(_blank_lines(text)) :]]


def _blank_lines(text: str) -> str:
    """The form at the beginning of a text: to the last line that has something to fill in."""
    form, waiting = "", ""
    for line in text.splitlines(keepends=True):
        if _LINE.fullmatch(line.strip()):
            form, waiting = form + waiting + line, ""
        elif line.strip() and not line.startswith(("#", "*")):
            break
        else:
            waiting += line
    return form


def _form(prompt: str, words: Say, draw: Pick) -> str | None:
    found = _FORM.search(prompt)
    if found is None:
        return None
    form = _blank_lines(prompt[found.end() :]).strip()
    if not form or "[RESULT]" in form or form.startswith("["):
        return None  # scores, which have a reader of their own
    labels = [json.loads(text) for text in _LISTED.findall(prompt)]
    quoted = form.startswith("{")
    count = 0

    def value(blank: re.Match[str]) -> str:
        nonlocal count
        count += 1
        name = blank.group(1)
        part = f"{name} {count}"
        if bounds := _WHOLE_NUMBER.search(name):
            low, high = map(int, bounds.groups())
            return str(low + draw(part, high - low + 1))
        if _CHOICE.fullmatch(name):
            choices = [one for one in re.split(r", | or ", name) if one != "N/A"]
            return choices[draw(part, len(choices))]
        if name.startswith("label"):
            # Side by side, so that several of one answer differ.
            first = draw("label", max(1, len(labels)))
            text = labels[(first + count - 1) % len(labels)] if labels else words(part)
            return json.dumps(text, ensure_ascii=False)[1:-1]
        text = words(part)
        if not quoted:
            return text
        bare = blank.string[blank.start() - 1] != '"'
        return json.dumps(text) if bare else json.dumps(text)[1:-1]

    filled = _BLANK.sub(value, form)
    return f"[{filled}]" if "with a JSON array" in found.group() else filled


def _headings(prompt: str, words: Say, draw: Pick) -> str | None:
    found = _HEADINGS.search(prompt)
    if found is None:
        return None
    return "\n".join(f"{line}\n{words(line)}\n" for line in found.groups())


def _object(prompt: str, words: Say, draw: Pick) -> str | None:
    if found := _KEYS_BELOW.search(prompt):
        keys = [_QUOTED.findall(line)[0] for line in found.group(1).splitlines()]
    elif found := _KEYS_IN_LINE.search(prompt):
        keys = _QUOTED.findall(found.group(1))
    else:
        return None
    return json.dumps({key: words(key) for key in keys})


def _array(prompt: str, words: Say, draw: Pick) -> str | None:
    found = _STRINGS.search(prompt)
    return json.dumps([words(f"{n}") for n in range(int(found.group(1)))]) if found else None


def _lines(prompt: str, words: Say, draw: Pick) -> str | None:
    found = _QUERIES.search(prompt)
    return "\n".join(words(f"query {n}") for n in range(int(found.group(1)))) if found else None


def _steps(prompt: str, words: Say, draw: Pick) -> str | None:
    if '"The answer is:"' not in prompt:
        return None
    found = _MANY.search(prompt)
    _, _, problem = prompt.rpartition("# Problem")
    done = max(map(int, _LAST_STEP.findall(problem)), default=0)

    def solution(number: int) -> str:
        steps = [f"Step {n}: {words(f'{number} step {n}')}" for n in (done + 1, done + 2)]
        return "\n".join([*steps, f"The answer is: {draw(f'answer {number}', 3)}"])

    return "\n---\n".join(solution(n) for n in range(int(found.group(1)) if found else 1))


def _turn(prompt: str, words: Say, draw: Pick) -> str | None:
    if not prompt.rstrip().endswith(_OPEN_TURN):
        return None
    return f"{words('user')}\n[[[Assistant]]] {words('assistant')}"


def _text(prompt: str, words: Say, draw: Pick) -> str | None:
    return words("text") if _NEW_TEXT.search(prompt) else None
