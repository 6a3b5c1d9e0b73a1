"""Formulas as lists of instructions: a formula is run once on symbols, and a backend writes down what it saw.

An elementwise formula is Python code in array API terms. Run on symbols in place of arrays it leaves a `Trace`, which can
be turned into whatever loop suits a machine. What a formula does with plain numbers (rates, corrections) stays arithmetic
on Python's floats, as it is where the formula is computed at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence, Set
from functools import lru_cache, partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

_log = logging.getLogger("tinynet")

# Functions that act on each element alone; they have the same name in the array API, in NumPy and in a trace. Those of numbers,
# those of bools alone, and those that give bools of either.
ARITHMETIC = ("add", "subtract", "multiply", "divide", "negative", "abs", "sign", "floor", "maximum", "minimum", "sqrt", "exp",
              "expm1", "log", "log1p", "tanh")  # fmt: skip
LOGICAL = ("logical_and", "logical_or", "logical_not")
COMPARISONS = ("less", "less_equal", "greater", "greater_equal", "equal", "not_equal")
# Those that a formula may do with plain numbers, too, as any language writes them.
ON_NUMBERS = {"add": "{} + {}", "subtract": "{} - {}", "multiply": "{} * {}", "divide": "{} / {}", "negative": "-{}"}


class Untraceable(TypeError):
    """The formula does what a trace cannot say."""


class Ref(NamedTuple):
    """The value with this number: inputs come first, then the results of the instructions, one each."""

    number: int


class Instruction(NamedTuple):
    """``op`` on values and constants, those as text, in which 0.0 and -0.0 differ.

    The result's ``kind`` is 'array', 'bool' (an array of bools) or 'number'.
    """

    op: str
    args: tuple[Ref | str, ...]
    kind: str


class Trace(NamedTuple):
    """A formula of ``arrays`` arrays of one shape and dtype and, after them, ``numbers`` Python floats."""

    arrays: int
    numbers: int
    instructions: tuple[Instruction, ...]
    outputs: tuple[Ref, ...]

    @property
    def inputs(self) -> int:
        return self.arrays + self.numbers

    def last_uses(self) -> dict[int, int]:
        """For each value the number of the last instruction that reads it; outputs are read at the end."""
        last = {a.number: n for n, i in enumerate(self.instructions) for a in i.args if isinstance(a, Ref)}
        return last | dict.fromkeys((ref.number for ref in self.outputs), len(self.instructions))

    def assignments(
        self, spelled: dict[str, str], literal: Callable[[str], str] = str
    ) -> tuple[list[tuple[str, str, str]], list[str]]:
        """The kind, the name and the value of each instruction's result as text, and the names of the outputs.

        Names begin with a for an array, v for what is made of arrays, s for a number and m for a bool. ``spelled`` has the
        expression of each operation, with {} for each operand; ``literal`` writes a constant. A number beside arrays is
        ``real(number)``.
        """
        names = [f"{'a' if n < self.arrays else 's'}{n}" for n in range(self.inputs)]
        made = []
        for op, args, kind in self.instructions:
            values = [names[a.number] if isinstance(a, Ref) else literal(a) for a in args]
            if kind != "number":
                for n, v in enumerate(values):
                    if v[0] not in "av" and op not in LOGICAL and (op, n) != ("where", 0):
                        values[n] = f"real({v})"
            names.append(f"{ {'number': 's', 'bool': 'm', 'array': 'v'}[kind] }{len(names)}")
            made.append((kind, names[-1], spelled[op].format(*values)))
        return made, [names[ref.number] for ref in self.outputs]


def trace(formula: Callable[..., Any], arrays: int, numbers: int = 0) -> Trace:
    """What ``formula(xp, *arrays, *numbers)`` does to each element; `Untraceable` if that cannot be said."""
    recorder = _Recorder(arrays, numbers)
    kinds = ["array"] * arrays + ["number"] * numbers
    results = formula(recorder, *[Symbol(recorder, Ref(n), kind) for n, kind in enumerate(kinds)])
    outputs = results if isinstance(results, tuple) else (results,)
    if not all(isinstance(y, Symbol) and y.kind == "array" for y in outputs):
        raise Untraceable("a result that is not an array")
    return Trace(arrays, numbers, tuple(recorder.instructions), tuple(y.ref for y in outputs))


class _Recorder:
    """The array API namespace that a formula is traced with."""

    def __init__(self, arrays: int, numbers: int) -> None:
        self.inputs = arrays + numbers
        self.instructions: dict[Instruction, int] = {}  # and the number of its result: none is computed twice

    def __getattr__(self, name: str) -> Any:
        if name in ARITHMETIC or name in LOGICAL or name in COMPARISONS:
            return lambda *args: self.do(name, *args)
        raise Untraceable(f"the function {name}")

    def do(self, op: str, *args: Any) -> Symbol:
        if not all(isinstance(a, (Symbol, int, float)) for a in args):
            raise Untraceable(f"{op} of {args!r}")
        kinds = [a.kind if isinstance(a, Symbol) else "constant" for a in args]
        truths = kinds if op in LOGICAL else kinds[:1] if op == "where" else []
        if {*truths} - {"bool"}:
            raise Untraceable(f"{op} of a number")
        if {*kinds} == {"bool"} and op == "multiply":
            op = "logical_and"  # which it is in NumPy
        kind = "bool" if op in LOGICAL or op in COMPARISONS else "array"
        if {*kinds} == {"bool"} and kind == "array":
            raise Untraceable(f"{op} of bools")  # where NumPy does something else, or raises an error
        if {*kinds} - {"constant"} == {"number"}:
            if op not in ON_NUMBERS:
                raise Untraceable(f"{op} of numbers")
            kind = "number"
        refs = tuple(a.ref if isinstance(a, Symbol) else repr(float(a)) for a in args)
        instruction = Instruction(op, refs, kind)
        number = self.instructions.setdefault(instruction, self.inputs + len(self.instructions))
        return Symbol(self, Ref(number), kind)

    def where(self, condition: Symbol | bool, x: Any, y: Any) -> Any:
        if isinstance(condition, bool):  # of constants
            return x if condition else y
        return self.do("where", condition, x, y)

    def clip(self, x: Symbol, min: float | None = None, max: float | None = None) -> Symbol:
        x = x if min is None else self.do("maximum", x, min)
        return x if max is None else self.do("minimum", x, max)

    # A constant of an array's shape is the constant: it takes the shape and dtype of whatever it meets.

    def zeros_like(self, x: Symbol) -> float:
        return 0.0

    def ones_like(self, x: Symbol) -> float:
        return 1.0

    def full_like(self, x: Symbol, fill_value: float) -> float:
        return fill_value


class Symbol:
    """An array or a number that is not there yet."""

    def __init__(self, recorder: _Recorder, ref: Ref, kind: str) -> None:
        self.recorder, self.ref, self.kind = recorder, ref, kind

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise Untraceable("a branch on values")

    def __pow__(self, exponent: Any) -> Symbol:
        if not isinstance(exponent, Symbol) and exponent == 2:
            return self.recorder.do("multiply", self, self)
        raise Untraceable(f"the power {exponent!r}")


# Python's operators, by the names of their methods: those that have a reflected form, and those that need none.
REFLECTED = {"add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide"}
PLAIN = {
    "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal", "ne": "not_equal",
    "neg": "negative", "abs": "abs",
}  # fmt: skip


def set_operators(kind: type, do: Callable[..., Any], reflected: dict[str, str], plain: dict[str, str]) -> None:
    """Give symbols of a ``kind`` Python's operators: each is ``do(self, op, *operands)``."""
    for name, op in (reflected | plain).items():
        setattr(kind, f"__{name}__", lambda self, *others, op=op: do(self, op, self, *others))
    for name, op in reflected.items():
        setattr(kind, f"__r{name}__", lambda self, other, op=op: do(self, op, other, self))


_OF_BOOLS = {"and": "logical_and", "or": "logical_or", "invert": "logical_not"}
set_operators(Symbol, lambda self, *call: self.recorder.do(*call), REFLECTED, PLAIN | _OF_BOOLS)


class _Formula(tuple[Any, ...]):
    """A formula as its function, what that reads, and the class and state of its object: with all of these, it is equal."""

    call: Callable[..., Any]


_ABSENT = object()


@lru_cache(maxsize=1024)
def _names(code: CodeType) -> tuple[str, ...]:
    """The names of globals and attributes in a function, also in those that it defines."""
    return *code.co_names, *(name for inner in code.co_consts if type(inner) is CodeType for name in _names(inner))


class _Reads:
    """What a function, and those that it may call, read besides arguments and their object: globals, the variables of an
    enclosing function, defaults, attributes of the class; and of modules, classes and objects among these, the attributes.
    ``version`` is another object once any of it has been set anew; TypeError if some of it may change inside. ``names`` are
    those of all these globals and attributes.
    """

    def __init__(self, f: FunctionType, owner: type) -> None:
        self.f, self.owner = f, owner
        self._look()

    def current(self) -> object:
        if any(get(name, _ABSENT) is not value for get, name, value in self.found):
            self._look()
        return self.version

    def _look(self) -> None:
        functions, owners, found, known = [self.f], list[Any](self.owner.__mro__), list[Any](), 0
        while known < len(functions) + len(owners):  # until there is nothing new
            known = len(functions) + len(owners)
            self.names = {name for f in functions for name in _names(f.__code__)}
            reads = [(f.__globals__.get, name) for f in functions for name in _names(f.__code__)]
            reads += [(vars(owner).get, name) for owner in owners for name in self.names]
            reads += [(partial(getattr, cell), "cell_contents") for f in functions for cell in f.__closure__ or ()]
            defaults = [{**dict(enumerate(f.__defaults__ or ())), **(f.__kwdefaults__ or {})} for f in functions]
            reads += [(given.get, name) for given in defaults for name in given]
            found = [(get, name, get(name, _ABSENT)) for get, name in reads]
            found = [read for read in found if read[2] is not _ABSENT]
            for _, _, value in found:
                f, kind = _function(value), value if isinstance(value, type) else type(value)
                if f is not None:
                    functions += [f] if f not in functions else []
                elif hasattr(value, "__dict__"):
                    owners += [owner for owner in (value, *kind.__mro__) if not any(owner is o for o in owners)]
        hash(tuple([_key(value) for _, _, value in found]))
        self.found, self.version = found, object()


def _function(value: Any) -> FunctionType | None:
    """The function that is ``value``, or that is in it, a property or a method."""
    f = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
    return f if type(f) is FunctionType else None


@lru_cache(maxsize=1024)
def _reads(f: FunctionType, owner: type) -> _Reads:
    return _Reads(f, owner)  # an error is not remembered, and so no array that the function reads


def _state(thing: object, names: Set[str]) -> tuple[Any, ...]:
    """The attributes of an object, and of objects among them that have one of the ``names``; with a hash unless one of
    these may change inside."""
    held: Any = object.__getstate__(thing)
    parts = held if isinstance(held, tuple) else (held,)  # of a class with slots there are two
    inside = _key(tuple(thing)) if isinstance(thing, tuple) else ()  # a named tuple has no attributes
    found = [*inside]
    for part in parts:
        for name, value in (part or {}).items():
            found.append((name, _key(value)))
            if name in names and _plain(value):
                found += _state(value, names)
    return tuple(found)


def _plain(value: Any) -> bool:
    """Whether an object has attributes, and is equal to itself alone, whatever they are."""
    kind: Any = type(value)
    known = isinstance(value, (type, ModuleType, FunctionType))
    return not known and hasattr(value, "__dict__") and kind.__hash__ is object.__hash__


def _key(value: Any) -> Any:
    """``value`` as one that is equal only to what a formula cannot tell from it: 1, 1.0 and True are equal in Python."""
    if isinstance(value, tuple):
        return type(value), *map(_key, value)
    if isinstance(value, float):
        return type(value), repr(value)  # 0.0 and -0.0 are two constants
    # a schedule may lack a hash, which its method has
    return type(value), value.__call__ if callable(value) and value.__hash__ is None else value


@lru_cache(maxsize=1024)
def _known(formula: _Formula, arrays: int, numbers: int) -> Trace | None:
    try:
        return trace(formula.call, arrays, numbers)
    except (TypeError, AttributeError) as e:  # the latter where a symbol is asked for what only arrays have
        _log.debug("%r is computed as it stands: %s", formula.call, e)
        return None


def traced(formula: Callable[..., Any], arrays: int, numbers: int = 0) -> Trace | None:
    """`trace`, remembered; None for a formula that cannot be traced.

    What it reads, of its object or elsewhere, is a constant of the trace: with another value it is another formula.
    """
    try:
        known = _Formula(_identity(formula))
        known.call = formula
        return _known(known, arrays, numbers)
    except (TypeError, ValueError, RecursionError):  # no hash, a variable that is not set yet, objects in a circle
        return None


def _identity(formula: Any, given: Sequence[tuple[Any, Any]] = ()) -> tuple[Any, ...]:
    """What is equal for two formulas if they do the same; TypeError if something that they read may change inside.

    ``given`` are arguments of partial functions around the formula, with their names or places.
    """
    if isinstance(formula, partial):
        return _identity(formula.func, [*given, *enumerate(formula.args), *formula.keywords.items()])
    arguments = [(name, _key(value)) for name, value in given]
    if not isinstance(formula, (FunctionType, MethodType)):  # an object
        formula = formula.__call__
    owner, function = getattr(formula, "__self__", None), getattr(formula, "__func__", formula)
    if type(function) is not FunctionType:
        return function, *arguments
    kind: Any = type(owner)
    reads = _reads(function, kind)
    version = reads.current()
    inside = [_state(value, reads.names) for _, value in given if _plain(value)]
    return version, function, kind, *arguments, *inside, *_state(owner, reads.names)
