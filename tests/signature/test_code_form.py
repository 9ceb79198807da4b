"""What of a code object counts: what it does, never how it was typed."""

from __future__ import annotations

import textwrap
from types import CodeType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdistil.signature.bytecode import code_form


def compiled(source: str) -> CodeType:
    module = compile(textwrap.dedent(source), "<source>", "exec")
    return next(c for c in module.co_consts if isinstance(c, CodeType) and c.co_name == "f")


def digest(source: str) -> bytes:
    return code_form(compiled(source)).digest


LINES = [
    "def f(a, b=1, *args, c=2, **kwargs):",
    "    total = 0",
    "    try:",
    "        for item in a:",
    "            if item > b and item not in (1, 2, 3):",
    "                total += item",
    "            else:",
    "                pass",
    "            with c as d:",
    "                total = d(total, key=lambda x: x[0])",
    "    except ValueError as error:",
    "        raise KeyError(str(error)) from error",
    "    finally:",
    "        class Local:",
    "            size = total",
    "            def g(self):",
    "                return size, Local",
    "    while total:",
    "        total -= 1",
    "    return [x for x in args if x] or {k: v for k, v in kwargs.items()}",
]


@given(
    st.lists(
        st.sampled_from(["", "# a comment", "\n\n", "   ", "    # an indented comment"]),
        min_size=len(LINES),
        max_size=len(LINES),
    ),
    st.sampled_from(["", "    '''Described.'''"]),
)
def test_layout_and_docstrings_never_count(noise: list[str], docstring: str) -> None:
    lines = [LINES[0], docstring]
    for line, added in zip(LINES[1:], noise, strict=False):
        lines += [added, line]
    assert digest("\n".join(lines)) == digest("\n".join(LINES))


def test_statements_on_one_line_or_on_several_are_the_same() -> None:
    assert digest("def f(x):\n    if x: pass\n    return 1\n") == digest(
        "def f(x):\n    if x:\n\n        pass\n\n    return 1\n"
    )
    assert digest("def f():\n    a = 1; return a\n") == digest(
        "def f():\n    a = 1\n    return a\n"
    )
    assert digest("def f(g):\n    return g(1, 2)\n") == digest(
        "def f(g):\n    return g(\n        1,\n        2,\n    )\n"
    )
    described = "def f():\n    class C:\n        '''x'''\n        a = 1\n    return C\n"
    assert digest(described) == digest(described.replace("        '''x'''\n", "\n\n"))


DIFFERENT: list[tuple[str, str]] = [
    ("def f(g):\n    return g(key=1)\n", "def f(g):\n    return g(word=1)\n"),
    ("def f(a):\n    return a.x\n", "def f(a):\n    return a.y\n"),
    ("def f(a):\n    return 1\n", "def f(a):\n    return 1.0\n"),
    ("def f(a):\n    return 1\n", "def f(a):\n    return True\n"),
    ("def f(a):\n    return 0.0\n", "def f(a):\n    return -0.0\n"),
    ("def f(a):\n    return (1, ...)\n", "def f(a):\n    return (1, None)\n"),
    ("def f(a):\n    return a in {1, 2}\n", "def f(a):\n    return a in {1, 3}\n"),
    ("def f(a):\n    return a < 1\n", "def f(a):\n    return a <= 1\n"),
    ("def f(a, b):\n    return a - b\n", "def f(b, a):\n    return a - b\n"),
    ("def f(a, b):\n    pass\n", "def f(a, *, b):\n    pass\n"),
    ("def f(a, b):\n    pass\n", "def f(a, /, b):\n    pass\n"),
    ("def f(a):\n    return 1\n", "def f(*a):\n    return 1\n"),
    ("def f():\n    return 1\n", "async def f():\n    return 1\n"),
    ("def f(a):\n    return lambda: 1\n", "def f(a):\n    return lambda: 2\n"),
    # Only the range of the handler tells these apart.
    (
        "def f(a, b):\n    a()\n    try:\n        b()\n    except E:\n        pass\n",
        "def f(a, b):\n    try:\n        a()\n        b()\n    except E:\n        pass\n",
    ),
    ("def f(a):\n    while a:\n        a()\n", "def f(a):\n    if a:\n        a()\n"),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_a_difference_in_behaviour_counts(one: str, other: str) -> None:
    assert digest(one) != digest(other)


def test_names_are_followed_as_far_as_they_are_read() -> None:
    form = code_form(
        compiled(
            """
            def f(x):
                class C:
                    own = 1
                    a = own + outer.value
                def g():
                    return pack.tools.run(x), C
                return g, helper(x).attribute
            """
        )
    )
    chains = set(form.globals)
    assert {("outer", "value"), ("pack", "tools", "run"), ("helper",)} <= chains
    assert not any(chain[0] in ("own", "C", "x") for chain in chains)


def imports(body: str) -> list[tuple[Any, ...]]:
    source = "def f():\n" + textwrap.indent(textwrap.dedent(body), "    ")
    return [tuple(statement) for statement in code_form(compiled(source)).imports]


def test_imports_are_followed_by_what_is_used_of_them() -> None:
    assert imports("import a\na.b.c()\n") == [("a", 0, "a", (("b", "c"),))]
    assert imports("import a.b\na.b.c()\n") == [("a.b", 0, "a", (("b", "c"),))]
    assert imports("import a.b as x\nx.c()\n") == [("a.b", 0, "a.b", (("c",),))]
    assert imports("import a.b.c as x\nx.d()\n") == [("a.b.c", 0, "a.b.c", (("d",),))]
    assert imports("from a import b, c as d\nb.e(); d()\n") == [("a", 0, "a", (("b", "e"), ("c",)))]
    assert imports("from ..a import b\n") == [("a", 2, "a", (("b",),))]
    assert imports("import a\n") == [("a", 0, "a", ((),))]
    assert imports("import a\ng(a, a.x)\n")[0][3] == ((), ("x",))
    assert imports("import a\ng(a, a)\n")[0][3] == ((),)
    assert imports("import a\ndef g():\n    return a.x\n")[0][3] == ((),)
    assert imports("class C:\n    import a\n    b = a.x\n")[0][3] == ((),)


def test_a_code_object_is_forgotten_with_its_function() -> None:
    from asyncdistil.signature import bytecode

    code = compiled("def f():\n    return 'kept only as long as it lives'\n")
    key = id(code)
    assert code_form(code) is code_form(code)
    assert key in bytecode._forms
    del code
    assert key not in bytecode._forms
