"""Recording a step while it runs: its calls on arrays, without the Python between them.

Stand-ins take the place of a step's arrays and numbers. Every call that meets one is executed on the real array and
recorded on a tape; results keep their place in memory, so that the tape can be replayed with other inputs. Shapes and
values are real ones, since the step does run. What a tape cannot hold, a branch on values or a crossing to Python, breaks
it: the step still ends as it should, and `Tape.broken` says why.
"""

from __future__ import annotations

import math
import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import starmap
from typing import Any

import numpy as np

Array = Any
Call = tuple[Callable[..., Any], tuple[Any, ...]]
_REMEDY = "call ops.as_written('why') in that step, first"
_KEPT = f"an array of a captured step was kept: {_REMEDY}"


def run(calls: Iterable[Sequence[Any]]) -> None:
    """Call ``(f, *args)`` one after another, in a loop in C.

    Python handles signals between its own instructions: as long as the functions are in C too, Ctrl-C waits.
    """
    deque(starmap(operator.call, calls), 0)


class Tape:
    """Calls in the order in which a step made them: functions and their arguments, among them stand-ins."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.broken = ""
        self.wrote = False  # to an array from before the step, which therefore cannot be run again
        self.given: list[Any] = []  # arrays and numbers from outside of the step, which a replay takes for constants
        self.ended = False

    def stop(self, reason: str, wrote: bool = False) -> None:
        """Break the tape: the step does something that it cannot hold, and which perhaps ``wrote``."""
        self._check_running()
        self.wrote |= wrote
        self.broken = self.broken or reason

    def do(self, f: Callable[..., Any], *args: Any) -> None:
        """``f(*args)`` now and at every replay. What it returns is dropped: results go to arguments."""
        self._check(args)
        f(*[real(a) for a in args])
        self.calls.append((f, args))

    def do_all(self, calls: Sequence[Call]) -> None:
        """The same for several calls, with no signal between them."""
        for _, args in calls:
            self._check(args)
        run([(f, *map(real, args)) for f, args in calls])
        self.calls.extend(calls)

    def give(self, *values: Any) -> None:
        """Note which of the ``values`` in an expression of the step come from elsewhere."""
        found = [*leaves(values)]
        self._check(found)
        for value in found:
            if isinstance(value, (np.ndarray, np.generic, float)) and not isinstance(value, Number):
                a = np.asarray(value)
                self.given.append((a.dtype, a.shape, a.tobytes()))  # the next step may have other numbers in this array

    def _check(self, values: Iterable[Any]) -> None:
        """TypeError if there is a stand-in of another step among ``values``."""
        for value in values:
            if isinstance(value, StandIn) and value.tape is not self:
                raise TypeError(_KEPT)
        self._check_running()

    def _check_running(self) -> None:
        if self.ended:
            raise TypeError(_KEPT)

    def has_input_in_list(self) -> bool:
        """Whether an input is within a list that is an argument of a call, where no replay puts the next one."""
        lists = (a for _, args in self.calls for a in args if isinstance(a, (list, tuple)))
        return any(is_input(a) for tree in lists for a in leaves(tree))

    def array(self, value: Any) -> StandIn:
        """A stand-in for ``value``, an array that keeps its place in memory or one of NumPy's scalars."""
        return StandIn(self, np.asarray(value), None, isinstance(value, np.generic))

    def arrays(self, tree: Any) -> Any:
        """``tree`` with stand-ins for its arrays."""
        return tree_map(lambda value: self.array(value) if isinstance(value, np.ndarray) else value, tree)


class Source:
    """An argument that may be another array or number at every call; an array's ``value`` is in C order."""

    def __init__(self, number: int, value: Any) -> None:
        self.number, self.value = number, value


class Number:
    """Stands for a number that changes from call to call: it can be passed on, and nothing else."""

    def __init__(self, tape: Tape, source: Source) -> None:
        self.tape, self.value, self.source = tape, source.value, source

    # isinstance(n, int) is what it is of the number. Checkers of types miss the setter, which nobody needs.
    @property  # type: ignore[misc]
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]
        return type(self.value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        self.tape.stop("an array made of a number")
        return np.array(self.value, dtype)


class StandIn(np.lib.mixins.NDArrayOperatorsMixin):
    """Stands for an array of the step.

    ``source`` is the argument that it is or is a view of; None for an array that keeps its place in memory. If ``scalar``, it
    stands for one of NumPy's scalars, which nothing changes (``s += 1`` makes another), and the value is in a () array.
    """

    __slots__ = ("scalar", "source", "tape", "value")

    def __init__(self, tape: Tape, value: Array, source: Any, scalar: bool = False) -> None:
        self.tape, self.value, self.source, self.scalar = tape, value, source, scalar

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{self.shape} {self.dtype} of a captured step>"

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator[StandIn]:
        return (self[n] for n in range(len(self)))

    def __getattr__(self, name: str) -> Any:
        if name in _PLAIN:
            return getattr(self.value, name)
        if name in ("T", "mT", "real", "imag"):
            return self._wrap(getattr(self.value, name))
        if name in _METHODS:
            return partial(self._method, name)
        if name.startswith("__"):
            raise AttributeError(name)  # protocols that somebody asks for: __array__ is there
        self.tape.stop(f"the attribute {name!r} of an array")
        return getattr(self.value, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__slots__:
            object.__setattr__(self, name, value)
            return
        self.tape.stop(f"an attribute that is set, {name!r}")
        setattr(self.value, name, real(value))

    def _method(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._function(getattr(np.generic if self.scalar else np.ndarray, name), (self, *args), kwargs)

    def __getitem__(self, key: Any) -> Any:
        if self.scalar:
            return self._function(operator.getitem, (self, key), {})
        names = [key] if not isinstance(key, tuple) else list(key)
        if not all(type(k) in _BASIC for k in names):
            if any(isinstance(k, StandIn) and k.dtype == bool for k in names):
                self.tape.stop("elements selected by a mask")
            return self._function(lambda x, k: x[k], (self, key), {})
        view = self._wrap(self.value[key if ... in names else (*names, ...)])
        if view.shape or ... in names:
            return view
        element = self.tape.array(view.value[()])  # a scalar, as NumPy's, which no later write changes
        self.tape.do(np.copyto, element, view)
        return element

    def __setitem__(self, key: Any, value: Any) -> None:
        part = self.value[key] if not isinstance(key, tuple) or not any(isinstance(k, StandIn) for k in key) else None
        if self.source is not None or part is None or not np.may_share_memory(part, self.value):
            self.tape.stop("a write to selected elements", wrote=True)
            self.value[real(key)] = real(value)
            return
        self.tape.wrote = True
        self.tape.give(value)
        self.tape.do(partial(np.copyto, part, casting="unsafe"), value)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        tape, out = self.tape, options.pop("out", None)
        tape.give(*inputs, *options.values())
        # of other functions, ints are sizes and axes
        tape.given += [value for value in inputs if type(value) in (int, bool)]
        if any(isinstance(value, StandIn) for value in options.values()):  # where=
            tape.stop("a mask among the options of a call")
            options = {name: real(value) for name, value in options.items()}
        f = ufunc if method == "__call__" else getattr(ufunc, method)
        f = partial(f, **options) if options else f
        if out is None or (isinstance(out[0], StandIn) and out[0].scalar):
            if ufunc.nout != 1 or method in ("at", "reduceat"):
                tape.stop(f"{ufunc.__name__}.{method}", wrote=method == "at")
                return f(*[real(a) for a in inputs])
            return self._into(f, inputs)
        (target,) = out
        if not isinstance(target, StandIn) or target.source is not None or method == "at":
            tape.stop("a result written to an array that the step does not own", wrote=True)
            return f(*[real(a) for a in inputs], out=real(target))
        tape.wrote = True
        tape.do(f if method == "__call__" else partial(_out, f), *inputs, target)
        return target

    def _into(self, f: Callable[..., Any], inputs: Sequence[Any]) -> StandIn:
        """``f(*inputs)``, a ufunc or a method of one, in an array of its own."""
        result = self.tape.array(f(*[real(a) for a in inputs]))
        self.tape.calls.append((partial(_out, f), (*inputs, result)))
        return result

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        name = function.__name__
        if name in _OF_SHAPES:
            return function(*real(args), **real(kwargs))
        if name in _OF_UNKNOWN_SHAPE or name.startswith("unique") or (name == "where" and len(args) == 1):
            self.tape.stop(f"the function {name}")
            return function(*real(args), **real(kwargs))
        return self._function(function, args, kwargs)

    def _function(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Any function: a view of an argument stays one; other results are copied to arrays of their own.

        A function that returns one of its arguments has written to it: as ``out``, given by position, or as ``copy=False`` asks.
        """
        self.tape.give(*args, *kwargs.values())
        stand_ins = [a for a in leaves((args, kwargs)) if isinstance(a, _STAND_INS)]
        value = function(*tree_map(_given, args), **tree_map(_given, kwargs))
        values = [*leaves(value)]
        if not all(isinstance(v, (np.ndarray, np.generic)) for v in values):
            self.tape.stop(f"the function {function.__name__}", wrote=value is None)
            return value
        arrays = [a for a in stand_ins if isinstance(a, StandIn)]
        owners = [[a for a in arrays if np.may_share_memory(v, a.value)] for v in values]
        itself = function.__name__ not in _PASSING_ON and any(v is a.value for v in values for a in arrays)
        if kwargs.get("out") is not None or itself or (any(owners) and not all(owners)):
            self.tape.stop(f"the function {function.__name__}, which may write to an argument", wrote=True)
            return value
        if any(len({id(a.source) for a in own}) > 1 for own in owners):
            self.tape.stop("a view of one of two arguments that are one array")
        if any(owners) and any(isinstance(a, Number) or a.scalar for a in stand_ins):
            self.tape.stop("a number that says which part of an array is meant")
        if all(owners):
            results = [own[0]._wrap(v) for v, own in zip(values, owners, strict=True)]
        else:
            # one of no elements may be a broadcast one, which is read-only
            results = [self.tape.array(v if v.flags.writeable else v.copy()) for v in values]
            again = _filling([r.value for r in results], function, args, kwargs)
            self.tape.calls.append((again, tuple(stand_ins)))
        rest = iter(results)
        return tree_map(lambda _: next(rest), value)

    def _wrap(self, view: Array) -> StandIn:
        return StandIn(self.tape, view, self.source, self.scalar)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        self.tape.stop("an array made of one (asarray)")
        return np.array(self.value, dtype, copy=copy)

    def __reduce_ex__(self, protocol: Any) -> Any:
        self.tape.stop("a copy by one of the modules copy and pickle")
        return self.value.__reduce_ex__(protocol)


_STAND_INS = StandIn, Number
_OF_SHAPES = {"shape", "ndim", "size", "result_type", "isdtype", "can_cast"}
_OF_UNKNOWN_SHAPE = {"nonzero", "flatnonzero", "argwhere", "extract", "compress", "trim_zeros", "union1d", "intersect1d",
                     "setdiff1d", "setxor1d", "bincount", "repeat", "delete"}  # fmt: skip
_BASIC = {int, slice, type(None), type(...)}  # what an array is indexed by for a view

# Functions that return an argument itself where there is nothing to do.
_PASSING_ON = {"astype", "broadcast_arrays", "atleast_1d", "atleast_2d", "atleast_3d", "real", "squeeze"}

# Attributes that are the same at every call, and methods that change nothing.
_PLAIN = {"shape", "ndim", "dtype", "size", "itemsize", "nbytes", "strides", "flags", "device"}
_METHODS = {"reshape", "ravel", "transpose", "squeeze", "swapaxes", "sum", "mean", "max", "min", "prod", "std", "var",
            "any", "all", "argmax", "argmin", "take", "cumsum", "clip", "round", "repeat", "diagonal", "dot",
            "copy", "astype", "flatten", "view"}  # fmt: skip


def _crossing(name: str, f: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Any, *args: Any) -> Any:
        if any(isinstance(a, StandIn) for a in args):
            return NotImplemented  # left to the array
        self.tape.stop(f"a value needed by Python ({name})")
        value = self.value[()] if isinstance(self, StandIn) else self.value  # a scalar has more methods than a () array
        return f(value, *[real(a) for a in args])

    return method


# What Python does with an array of one number and with a number, with a number alone, and with two numbers.
_Functions = dict[str, Callable[..., Any]]
_OF_BOTH: _Functions = {f.__name__: f for f in (bool, int, float, complex, operator.index, round, str, format)}
_OF_NUMBERS: _Functions = {f.__name__: f for f in (hash, abs, math.trunc, math.floor, math.ceil)} | {
    name: getattr(operator, f"__{name}__") for name in ("pos", "neg", "invert", "lt", "le", "gt", "ge", "eq", "ne")
}
_OF_TWO: _Functions = {"divmod": divmod} | {
    name: getattr(operator, f"__{name}__")
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift")
}
for _name, _f in _OF_BOTH.items():
    setattr(StandIn, f"__{_name}__", _crossing(_name, _f))
for _name, _f in (_OF_BOTH | _OF_NUMBERS | _OF_TWO).items():
    setattr(Number, f"__{_name}__", _crossing(_name, _f))
for _name, _f in _OF_TWO.items():
    setattr(Number, f"__r{_name}__", _crossing(_name, lambda x, y, f=_f: f(y, x)))


def _out(f: Callable[..., Any], *args: Any) -> None:
    f(*args[:-1], out=args[-1])


def _filling(places: Sequence[Array], function: Callable[..., Any], args: Any, kwargs: Any) -> Callable[..., None]:
    """``function(*args, **kwargs)``, given what their stand-ins stand for, with its results copied to ``places``."""
    changing = [n for n, a in enumerate(args) if isinstance(a, _STAND_INS)]
    given = [a for a in leaves((args, kwargs)) if isinstance(a, _STAND_INS)]
    scalars = {n for n, a in enumerate(given) if isinstance(a, StandIn) and a.scalar}

    def again(*found: Any) -> Any:
        if len(changing) == len(found):  # as usual: a walk through all would take longer than many functions
            now = [*args]
            for n, value in zip(changing, found, strict=True):
                now[n] = value
            return function(*now, **kwargs)
        rest = iter(found)
        now, options = tree_map(lambda a: next(rest) if isinstance(a, _STAND_INS) else a, ([*args], kwargs))
        return function(*now, **options)

    def call(*found: Any) -> None:
        if scalars:
            found = tuple([a[()] if n in scalars else a for n, a in enumerate(found)])
        for place, v in zip(places, leaves(again(*found)), strict=True):
            if place.shape != v.shape:
                raise ValueError(
                    f"{function.__name__} gave {place.shape} in a captured step, and now {v.shape}: {_REMEDY}"
                )
            np.copyto(place, v)

    return call


def real(tree: Any) -> Any:
    """``tree`` with the real arrays and numbers in place of its stand-ins."""
    return tree if type(tree) is int else tree_map(_value, tree)  # most of a kernel's arguments are


def _value(a: Any) -> Any:
    return a.value if isinstance(a, _STAND_INS) else a


def _given(a: Any) -> Any:
    """The same for a function: of one of NumPy's scalars it makes an array, where it would return a view of a () array."""
    return a.value[()] if isinstance(a, StandIn) and a.scalar else _value(a)


def is_input(value: Any) -> bool:
    """Whether ``value`` is an argument of the step that may be another at every call, or a view of one."""
    return isinstance(value, _STAND_INS) and value.source is not None


def tree_map(f: Callable[[Any], Any], tree: Any) -> Any:
    """``tree``, made of dicts, lists and tuples, with ``f(value)`` in place of each value in it, each of its kind."""
    if isinstance(tree, dict):
        return type(tree)((name, tree_map(f, value)) for name, value in tree.items())
    if isinstance(tree, (tuple, list)):
        values = [tree_map(f, value) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)
    return f(tree)


def leaves(tree: Any) -> Iterator[Any]:
    """The values in a tree, in the order of `tree_map`."""
    if isinstance(tree, (dict, tuple, list)):
        for branch in tree.values() if isinstance(tree, dict) else tree:
            yield from leaves(branch)
    else:
        yield tree
