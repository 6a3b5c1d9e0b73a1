"""Checks of arguments: numbers of any library become Python's own, and values are shortened for one-line messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, nan
from operator import index
from typing import Any


def _is_array(value: Any) -> bool:
    """Whether ``value`` is an array with at least one axis, of any library."""
    return getattr(value, "ndim", 0) not in (0, None)


def whole(value: Any) -> int | None:
    """``value`` as int if it is an integer; None for anything else: a bool, 2.0, an array."""
    if isinstance(value, bool) or _is_array(value):
        return None
    try:
        return index(value)
    except TypeError:
        return None


def positive(name: str, value: Any) -> int:
    """``value`` as int; ValueError, which calls it ``name``, unless it is an integer of at least 1."""
    number = whole(value)
    if number is None or number < 1:
        raise ValueError(f"{name} {shown(value)} is not a positive whole number")
    return number


def real(value: Any) -> float | None:
    """``value`` as float if it is a real number, NaN and infinities included; None for anything else."""
    if _is_array(value) or type(value).__name__.startswith(("bool", "str", "bytes", "complex")):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
    except OverflowError:
        return inf if value > 0 else -inf


def number(value: Any) -> float:
    """``value`` as float; NaN, which is in no range, if it is not a real number."""
    found = real(value)
    return nan if found is None else found


def settle(owner: object, good: Callable[[float], bool], wanted: str, *names: str) -> None:
    """Make these fields of a frozen dataclass Python's own numbers; ValueError unless they are numbers, and ``good``."""
    for name in names:
        value = getattr(owner, name)
        if not good(number(value)):
            raise ValueError(f"{type(owner).__name__} {name} {shown(value)} is out of range: give {wanted}")
        own = whole(value)
        object.__setattr__(owner, name, number(value) if own is None else own)


def settle_truth(owner: object, name: str, remedy: str = "") -> None:
    """Make this field of a frozen dataclass Python's bool; TypeError unless it is one."""
    value = getattr(owner, name)
    own = truth(value)
    if own is None:
        raise TypeError(f"{type(owner).__name__} {name} {shown(value)} is neither True nor False{remedy}")
    object.__setattr__(owner, name, own)


def truth(value: Any) -> bool | None:
    """``value`` as bool if it is one; None for anything else."""
    return bool(value) if type(value).__name__ in ("bool", "bool_") else None


def shown(value: Any) -> str:
    """``repr(value)``, on one line of at most 60 characters."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python does not convert integers of thousands of digits
        return "of thousands of digits"
    return _short(text)


def listed(names: Sequence[str]) -> str:
    """Names separated by commas, for a one-line error; at most the first 20. One with outer spaces is quoted."""
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    texts = (shown(name) if name != name.strip() else _short(" ".join(name.split())) for name in names[:20])
    return ", ".join(texts) + more


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
