"""Conditions on stored rows, as text: ``score > 3 and "cat" in text``.

Python's own grammar, read by `ast` and never run: what is not on the list below is refused with
its position. There are columns by name, numbers, texts, lists, ``True``, ``False`` and ``None``;
``== != < <= > >= in not in is``, ``and or not``, ``+ - * / // %`` of numbers, ``x[key]`` and
``x.key`` of objects and lists, ``len() abs() str()``, and the methods ``contains startswith
endswith lower upper strip`` of texts. Three names are not columns: ``failed``, ``failure`` (with
``kind``, ``message``, ``attempts`` and ``detail``) and ``row``, so that ``row["failed"]`` is a
column of that name.

Truth has three values, as in SQL: what a missing value is compared with by size is unknown, and a
row meets a condition only if it is true.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, NoReturn

from asyncdistil.batch import Failure, Row
from asyncdistil.errors import ConditionError

LONGEST = 2_000
"""Characters of a condition."""

_Value = Callable[[Mapping[str, Any]], Any]


class _Unknown:
    """What can't be said of a row."""


UNKNOWN = _Unknown()

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda item, whole: item in whole,
    ast.NotIn: lambda item, whole: item not in whole,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {"len": len, "abs": abs, "str": str}
_METHODS: dict[str, tuple[int, Callable[..., Any]]] = {
    "contains": (1, lambda text, part: part in text),
    "startswith": (1, str.startswith),
    "endswith": (1, str.endswith),
    "lower": (0, str.lower),
    "upper": (0, str.upper),
    "strip": (0, str.strip),
}
_RESERVED = ("failed", "failure", "row")
_FAILURE_FIELDS = ("kind", "message", "attempts", "detail")
_UNFIT = (TypeError, AttributeError, KeyError, IndexError, ZeroDivisionError, OverflowError)


class Condition:
    """A condition that was understood.

    Args:
        text: What a user wrote.

    Attributes:
        text: The same.
        columns: Columns that it names.

    Raises:
        ConditionError: It can't be read, or has something that no condition may have.
    """

    def __init__(self, text: str) -> None:
        self.text = text = text.strip()
        self.columns: set[str] = set()
        self._seen: set[str] = set()
        if len(text) > LONGEST:
            raise ConditionError(text[:40], 0, f"it is longer than {LONGEST:,} characters")
        try:
            tree = ast.parse(text, mode="eval")
            self._test = self._read(tree.body)
        except ConditionError:
            raise
        except SyntaxError as error:
            # No place means that it ends too early.
            place = error.offset - 1 if error.offset else len(text)
            raise ConditionError(text, place, error.msg) from None
        except (ValueError, RecursionError, MemoryError) as error:
            raise ConditionError(text, 0, str(error) or "it is nested too deep") from None

    def __call__(self, row: Row, failure: Failure | None = None) -> bool:
        """Whether a row meets it.

        Args:
            row: The row.
            failure: Why it failed, if it did.
        """
        about = None
        if failure is not None:
            about = {name: getattr(failure, name) for name in _FAILURE_FIELDS}
        self._seen.update(self.columns.intersection(row))
        surroundings = {**row, "row": row, "failure": about, "failed": failure is not None}
        return _truth(self._test(surroundings)) is True

    def check_columns(self, known: Iterable[str]) -> None:
        """Refuse a column that no row had so far.

        Args:
            known: Columns that there are.

        Raises:
            ConditionError: It names another one, probably by mistake.
        """
        for name in sorted(self.columns - self._seen):
            columns = sorted(map(str, known))
            close = get_close_matches(name, columns, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(columns)}"
            place = max(self.text.find(name), 0)
            raise ConditionError(self.text, place, f"no row has a column {name!r}: {hint}")

    # --- reading -----------------------------------------------------------------------------

    def _read(self, node: ast.expr) -> _Value:
        match node:
            case ast.Constant(value=str() | int() | float() | None as value):
                return lambda _: value
            case ast.Name(id=name):
                if name not in _RESERVED:
                    self.columns.add(name)
                return lambda row: row.get(name)
            case ast.BoolOp(op=kind, values=values):
                return _both(kind, [self._read(each) for each in values])
            case ast.UnaryOp(op=ast.Not(), operand=inner):
                return _not(self._read(inner))
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                return _applied(operator.neg, [self._read(inner)], numbers=True)
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _ARITHMETIC:
                sides = [self._read(left), self._read(right)]
                return _applied(_ARITHMETIC[type(sign)], sides, numbers=True)
            case ast.Compare(left=left, ops=signs, comparators=others):
                return _compared([self._read(each) for each in (left, *others)], signs)
            case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
                parts = [self._read(each) for each in items]
                return lambda row: [part(row) for part in parts]
            case ast.Subscript(value=whole, slice=key) if not isinstance(key, ast.Slice):
                return _applied(_item, [self._read(whole), self._read(key)])
            case ast.Attribute(value=whole, attr=name):
                self._check_field(node, whole, name)
                return _applied(_item, [self._read(whole), lambda _: name])
            case ast.Call():
                return self._call(node)
        return self._refuse(node, f"{type(node).__name__} can't be used here")

    def _call(self, node: ast.Call) -> _Value:
        arguments = node.args
        if node.keywords:
            self._refuse(node, "arguments have no names here")
        match node.func:
            case ast.Name(id=name) if name in _FUNCTIONS and len(arguments) == 1:
                return _applied(_FUNCTIONS[name], [self._read(arguments[0])])
            case ast.Attribute(value=whole, attr=name) if name in _METHODS:
                wanted, method = _METHODS[name]
                if len(arguments) == wanted:
                    parts = [self._read(each) for each in (whole, *arguments)]
                    return _applied(method, parts, texts=True)
        known = ", ".join((*_FUNCTIONS, *(f"text.{name}" for name in _METHODS)))
        return self._refuse(node, f"it calls something else than {known}")

    def _check_field(self, node: ast.expr, whole: ast.expr, name: str) -> None:
        if isinstance(whole, ast.Name) and whole.id == "failure" and name not in _FAILURE_FIELDS:
            self._refuse(node, f"a failure has {', '.join(_FAILURE_FIELDS)}, no {name!r}")

    def _refuse(self, node: ast.expr, reason: str) -> NoReturn:
        # `ast` counts bytes of UTF-8.
        line = self.text.encode().splitlines()[node.lineno - 1]
        raise ConditionError(self.text, len(line[: node.col_offset].decode()), reason)


def _truth(value: Any) -> bool | _Unknown:
    if isinstance(value, _Unknown):
        return value
    try:
        return bool(value)
    except Exception:
        # An array of more than one number is neither.
        return UNKNOWN


def _both(kind: ast.boolop, parts: list[_Value]) -> _Value:
    decides = isinstance(kind, ast.Or)

    def test(row: Mapping[str, Any]) -> Any:
        found: bool | _Unknown = not decides
        for part in parts:
            value = _truth(part(row))
            if value is decides:
                return decides
            if value is UNKNOWN:
                found = UNKNOWN
        return found

    return test


def _not(part: _Value) -> _Value:
    def test(row: Mapping[str, Any]) -> Any:
        value = _truth(part(row))
        return value if value is UNKNOWN else not value

    return test


def _compared(parts: list[_Value], signs: list[ast.cmpop]) -> _Value:
    def test(row: Mapping[str, Any]) -> Any:
        values = [part(row) for part in parts]
        if any(value is UNKNOWN for value in values):
            return UNKNOWN
        found: bool | _Unknown = True
        for left, sign, right in zip(values, signs, values[1:], strict=False):
            try:
                one = _truth(_COMPARISONS[type(sign)](left, right))
            except _UNFIT:
                one = UNKNOWN
            if one is False:
                return False
            found = one if one is UNKNOWN else found
        return found

    return test


def _applied(
    function: Callable[..., Any],
    parts: list[_Value],
    *,
    numbers: bool = False,
    texts: bool = False,
) -> _Value:
    """A call that is unknown where it makes no sense."""
    kinds = int | float if numbers else str

    def value(row: Mapping[str, Any]) -> Any:
        values = [part(row) for part in parts]
        if any(each is UNKNOWN for each in values):
            return UNKNOWN
        if (numbers or texts) and not all(isinstance(each, kinds) for each in values):
            return UNKNOWN
        try:
            return function(*values)
        except _UNFIT:
            return UNKNOWN

    return value


def _item(whole: Any, key: Any) -> Any:
    if not isinstance(whole, Mapping | list | tuple | str):
        raise TypeError
    return whole[key]
