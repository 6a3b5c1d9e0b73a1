"""Checks of arguments: numbers of any library become Python's own, and values are shortened for one-line messages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from math import inf, isfinite, nan
from operator import index
from typing import Any, NamedTuple

from tinynet_backends import Backend

DTYPES = {"float32": 4, "float64": 8}  # those of networks and samples, with the bytes of a number


def _is_array(value: Any) -> bool:
    """Whether ``value`` is an array with at least one axis, of any library."""
    return getattr(value, "ndim", 0) not in (0, None)


def as_int(value: Any) -> int | None:
    """``value`` as int if it is an integer; None for anything else: a bool, 2.0, an array."""
    if isinstance(value, bool) or _is_array(value):
        return None
    try:
        return index(value)
    except TypeError:
        return None


def positive(name: str, value: Any) -> int:
    """``value`` as int; ValueError, which calls it ``name``, unless it is an integer of at least 1."""
    number = as_int(value)
    if number is None or number < 1:
        raise ValueError(f"{name} {short_repr(value)} is not a positive whole number")
    return number


def as_float(value: Any) -> float | None:
    """``value`` as float if it is a real number, NaN and infinities included; None for anything else."""
    if _is_array(value) or type(value).__name__.startswith(("bool", "str", "bytes", "complex")):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
    except OverflowError:
        return inf if value > 0 else -inf


def float_or_nan(value: Any) -> float:
    """``value`` as float; NaN, which is in no range, if it is not a real number."""
    found = as_float(value)
    return nan if found is None else found


def plain(value: Any) -> Any:
    """A number of any library as Python's own; anything else unchanged."""
    whole = as_int(value)
    number = as_float(value) if whole is None else whole
    return value if number is None else number


class Range(NamedTuple):
    """The numbers for which ``holds`` is true, and ``text``, which says what they are."""

    holds: Callable[[float], bool]
    text: str


FINITE = Range(isfinite, "a finite number")
NOT_NEGATIVE = Range(lambda number: 0 <= number < inf, "a finite number of at least 0")
POSITIVE = Range(lambda number: 0 < number < inf, "a positive number")
FRACTION = Range(lambda number: 0 <= number < 1, "a number in [0, 1)")


def at_least(least: int) -> Range:
    """All numbers from ``least`` on, infinity included."""
    return Range(lambda number: number >= least, f"at least {least}")


def set_fields(owner: object, **values: Any) -> None:
    """Set fields of a frozen dataclass, which forbids it to all but its own ``__post_init__``."""
    for name, value in values.items():
        object.__setattr__(owner, name, value)


def coerce_positive(owner: object, name: str) -> None:
    """Make this field of a frozen dataclass an int; ValueError unless it is an integer of at least 1."""
    set_fields(owner, **{name: positive(f"{type(owner).__name__} {name}", getattr(owner, name))})


def coerce_numbers(owner: object, within: Range, *names: str) -> None:
    """Make these fields of a frozen dataclass Python's own numbers; ValueError unless they are numbers ``within`` a range."""
    for name in names:
        value = getattr(owner, name)
        if not within.holds(float_or_nan(value)):
            raise ValueError(f"{type(owner).__name__} {name} {short_repr(value)} is out of range: give {within.text}")
        own = as_int(value)
        set_fields(owner, **{name: float_or_nan(value) if own is None else own})


def coerce_bool(owner: object, name: str, remedy: str = "") -> None:
    """Make this field of a frozen dataclass Python's bool; TypeError unless it is one."""
    value = getattr(owner, name)
    own = as_bool(value)
    if own is None:
        raise TypeError(f"{type(owner).__name__} {name} {short_repr(value)} is neither True nor False{remedy}")
    set_fields(owner, **{name: own})


def as_bool(value: Any) -> bool | None:
    """``value`` as bool if it is one; None for anything else."""
    return bool(value) if type(value).__name__ in ("bool", "bool_") else None


def first_false_row(good: Any, ops: Backend) -> int | None:
    """The first row of ``good``, an array of bools on ``ops``, with one that is False; None if there is none."""
    xp = ops.xp
    if bool(ops.to_numpy(xp.all(good))):
        return None
    rows = xp.min(xp.astype(xp.reshape(good, (good.shape[0], -1)), xp.int8), axis=1)
    return int(ops.to_numpy(xp.argmin(rows)))


def short_repr(value: Any) -> str:
    """``repr(value)``, on one line of at most 60 characters."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python does not convert integers of thousands of digits
        return "of thousands of digits"
    return _short(text)


def written_shape(shape: tuple[int, ...]) -> str:
    """The shape of a sample in a message: 3, or (28, 28)."""
    return str(shape[0]) if len(shape) == 1 else str(shape)


def batch_shape(shape: tuple[int, ...]) -> str:
    """The shape of any number of such samples in a message: (n, 28, 28)."""
    return str(("n", *shape)).replace("'", "")


def pair(result: Any, owner: object, method: str, wanted: str) -> Any:
    """``result``, from a method that a user may have written; TypeError unless it is a pair, described by ``wanted``."""
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise TypeError(f"{type(owner).__name__}.{method} does not give two results: return {wanted}")
    return result


def attributes(thing: object, known: Collection[str] = ()) -> list[str]:
    """``name=value`` for the attributes that are numbers or text and are not ``known``; checkpoints compare such texts."""
    plain = ((name, value) for name, value in vars(thing).items() if isinstance(value, (bool, int, float, str)))
    return [f"{name}={value!r}" for name, value in plain if name not in known]


def repeated(names: Sequence[str]) -> str | None:
    """The first of ``names`` that is there twice; None if each is there once."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def listed(names: Sequence[str]) -> str:
    """Names separated by commas, for a one-line error; at most the first 20. One with outer spaces is quoted."""
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    texts = (short_repr(name) if name != name.strip() else _short(" ".join(name.split())) for name in names[:20])
    return ", ".join(texts) + more


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
