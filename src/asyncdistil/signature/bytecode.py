"""A code object without what does not change its behaviour.

Left out: line and column positions, file name, docstrings, ``NOP`` (it only marks a line), inline
caches, the numbering of names and constants, and the flags that record ``__future__`` imports.
Kept: every instruction with its resolved argument, jump targets and exception ranges counted in
kept instructions, argument names, and nested code objects in the same form.

Source: instruction set, CPython ``Doc/library/dis.rst``; exception ranges,
``Objects/exception_handling_notes.txt``.
"""

from __future__ import annotations

import dis
import inspect
import weakref
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from types import CodeType
from typing import Any, NamedTuple

from xxhash import xxh3_128_digest

from asyncdistil.codec import canonical_bytes

_SKIPPED = frozenset({"NOP", "EXTENDED_ARG", "CACHE"})
# From Python 3.13 on the compiler joins two instructions if they stand on one line.
_JOINED = {
    "LOAD_FAST_LOAD_FAST": ("LOAD_FAST", "LOAD_FAST"),
    "LOAD_FAST_BORROW_LOAD_FAST_BORROW": ("LOAD_FAST", "LOAD_FAST"),
    "STORE_FAST_LOAD_FAST": ("STORE_FAST", "LOAD_FAST"),
    "STORE_FAST_STORE_FAST": ("STORE_FAST", "STORE_FAST"),
}
# Python 3.14 loads without counting the reference where it can, which a joined load can't.
_BORROWED = {"LOAD_FAST_BORROW": "LOAD_FAST"}
_CONSTANT_LOADS = frozenset({"LOAD_CONST", "LOAD_SMALL_INT"})
_GLOBAL_LOADS = frozenset({"LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"})
_ATTRIBUTE_LOADS = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
# Names that the compiler stores into every class body. ``__static_attributes__`` comes from a set,
# so its order changes with the hash seed.
_COMPILER_NAMES = frozenset({"__doc__", "__qualname__", "__firstlineno__", "__static_attributes__"})
_FLAGS = (
    inspect.CO_VARARGS
    | inspect.CO_VARKEYWORDS
    | inspect.CO_GENERATOR
    | inspect.CO_COROUTINE
    | inspect.CO_ITERABLE_COROUTINE
    | inspect.CO_ASYNC_GENERATOR
)


class Import(NamedTuple):
    """An import statement inside a function.

    Attributes:
        module: Name as written, without leading dots.
        level: Number of leading dots.
        bound: Module that the chains start from: ``import a.b`` runs a.b and binds a.
        chains: What is used of it: attribute chains from the module; an empty one is the module
            itself.
    """

    module: str
    level: int
    bound: str
    chains: tuple[tuple[str, ...], ...]


class CodeForm(NamedTuple):
    """What a code object, nested ones included, does and what it refers to.

    Attributes:
        digest: XXH3-128 of the normalised form.
        globals: Chains of a global name and the attributes read from it at once, in order of
            appearance, each once.
        imports: Import statements, in order of appearance.
    """

    digest: bytes
    globals: tuple[tuple[str, ...], ...]
    imports: tuple[Import, ...]


_forms: dict[int, tuple[weakref.ref[CodeType], CodeForm]] = {}


def code_form(code: CodeType) -> CodeForm:
    """Normalise a code object; the answer is kept as long as the code object lives."""
    known = _forms.get(id(code))
    if known is not None and known[0]() is code:
        return known[1]
    form = _read(code)
    key = id(code)
    _forms[key] = (weakref.ref(code, lambda _: _forms.pop(key, None)), form)
    return form


def _read(code: CodeType) -> CodeForm:
    reading = dis.Bytecode(code)
    kept = _kept(reading)
    nested = [code_form(i.argval) for i in kept if isinstance(i.argval, CodeType)]
    offsets = [i.offset for i in kept]
    shape = [
        code.co_name,
        code.co_posonlyargcount,
        code.co_argcount,
        list(code.co_varnames[: _argument_count(code)]),
        code.co_kwonlyargcount,
        code.co_flags & _FLAGS,
        list(code.co_freevars),
        [part for i in kept for part in (i.opname, _argument(i, offsets, code))],
        _ranges(reading, offsets),
    ]
    chains = dict.fromkeys(_global_chains(kept))
    imports = list(_imports(kept, code))
    for form in nested:
        chains.update(dict.fromkeys(form.globals))
        imports += form.imports
    digest = xxh3_128_digest(canonical_bytes("asyncdistil/bytecode/1", shape))
    return CodeForm(digest, tuple(chains), tuple(imports))


def _argument_count(code: CodeType) -> int:
    named = code.co_argcount + code.co_kwonlyargcount
    stars = code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)
    return named + stars.bit_count()


def _kept(reading: dis.Bytecode) -> list[dis.Instruction]:
    kept: list[dis.Instruction] = []
    for instruction in reading:
        if instruction.opname in _SKIPPED:
            continue
        if (
            instruction.opname == "STORE_NAME"
            and instruction.argval in _COMPILER_NAMES
            and kept
            and kept[-1].opname in _CONSTANT_LOADS
        ):
            kept.pop()
            continue
        kept += _apart(instruction)
    return kept


def _apart(instruction: dis.Instruction) -> list[dis.Instruction]:
    names = _JOINED.get(instruction.opname)
    if names is None:
        name = _BORROWED.get(instruction.opname, instruction.opname)
        return [instruction._replace(opname=name)]
    return [  # pragma: no cover - Python joins them from 3.13 on
        instruction._replace(opname=name, argval=variable, argrepr=variable)
        for name, variable in zip(names, instruction.argval, strict=True)
    ]


def _argument(instruction: dis.Instruction, offsets: Sequence[int], code: CodeType) -> Any:
    opcode = instruction.opcode
    if instruction.opname == "IMPORT_NAME":
        # What the name leads to counts, not where it lies; see `CodeForm.imports`.
        return None
    if opcode in _CONSTANT_OPCODES and instruction.arg is not None:
        # Not ``argval``: Python 3.11 doesn't resolve that of KW_NAMES.
        return _constant(code.co_consts[instruction.arg])
    if opcode in _JUMP_OPCODES:
        return bisect_left(offsets, instruction.argval)
    if opcode in _NAME_OPCODES:
        # The printed form also tells "NULL + f" from "f".
        return instruction.argrepr
    if opcode in _LOCAL_OPCODES:
        return instruction.argrepr
    return instruction.arg


_CONSTANT_OPCODES = frozenset(dis.hasconst)
_JUMP_OPCODES = frozenset([*dis.hasjrel, *dis.hasjabs])
_NAME_OPCODES = frozenset(dis.hasname)
_LOCAL_OPCODES = frozenset([*dis.haslocal, *dis.hasfree])


def _constant(value: Any) -> Any:
    if isinstance(value, CodeType):
        return ["code", code_form(value).digest]
    if isinstance(value, tuple):
        return ["tuple", *map(_constant, value)]
    if isinstance(value, frozenset):
        items = [_constant(item) for item in value]
        return ["frozenset", *sorted(items, key=lambda item: canonical_bytes("", item))]
    if isinstance(value, slice):  # pragma: no cover - a constant from Python 3.14 on
        return ["slice", *map(_constant, (value.start, value.stop, value.step))]
    if value is ...:
        return ["ellipsis"]
    return value


def _ranges(reading: dis.Bytecode, offsets: Sequence[int]) -> list[list[int]]:
    """Exception ranges, counted in kept instructions."""
    ranges = [
        [*(bisect_left(offsets, at) for at in (e.start, e.end, e.target)), e.depth, int(e.lasti)]
        for e in reading.exception_entries  # type: ignore[attr-defined]
    ]
    # A range that held only skipped instructions is empty.
    return [entry for entry in ranges if entry[0] < entry[1]]


def _global_chains(kept: Sequence[dis.Instruction]) -> Iterator[tuple[str, ...]]:
    stored: set[str] = set()
    for position, instruction in enumerate(kept):
        if instruction.opname == "STORE_NAME":
            stored.add(instruction.argval)
        elif instruction.opname in _GLOBAL_LOADS or (
            # In a class body, where a name is the body's own once it has been stored.
            instruction.opname == "LOAD_NAME" and instruction.argval not in stored
        ):
            yield (instruction.argval, *_attributes(kept, position + 1))


def _attributes(kept: Sequence[dis.Instruction], position: int) -> Iterator[str]:
    while position < len(kept) and kept[position].opname in _ATTRIBUTE_LOADS:
        yield kept[position].argval
        position += 1


def _imports(kept: Sequence[dis.Instruction], code: CodeType) -> Iterator[Import]:
    for position, instruction in enumerate(kept):
        if instruction.opname != "IMPORT_NAME":
            continue
        level, names = kept[position - 2].argval, kept[position - 1].argval
        module = bound = instruction.argval
        chains: list[tuple[str, ...]] = []
        if names:
            step = position + 1
            for name in names:
                # Each name is IMPORT_FROM and a store.
                uses = _uses(kept, step + 1, code)
                chains += [(name, *use) for use in uses]
                step += 2
        elif kept[position + 1].opname == "IMPORT_FROM":
            # ``import a.b as c`` walks down to b before it stores.
            store = position + 1
            while not kept[store].opname.startswith("STORE_"):
                store += 1
            chains += _uses(kept, store, code)
        else:
            bound = module.partition(".")[0]
            chains += _uses(kept, position + 1, code)
        yield Import(module, level, bound, tuple(dict.fromkeys(chains)))


def _uses(kept: Sequence[dis.Instruction], store: int, code: CodeType) -> list[tuple[str, ...]]:
    """Attribute chains read from the variable stored at ``store``; an empty one is a bare use."""
    name = kept[store].argval
    if name in code.co_cellvars or not kept[store].opname.startswith("STORE_FAST"):
        return [()]
    uses = [
        tuple(_attributes(kept, position + 1))
        for position, instruction in enumerate(kept)
        if instruction.opname.startswith("LOAD_FAST") and instruction.argval == name
    ]
    # Imported and never named again: for what importing it does.
    return uses or [()]
