"""Checks of arguments: numbers of any library become Python's own, and values are cut to fit a one-line message."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, nan
from operator import index
from typing import Any


def _is_array(value: Any) -> bool:
    """Whether ``value`` is an array with at least one axis, of any library."""
    return getattr(value, "ndim", 0) not in (0, None)


def whole(value: Any) -> int | None:
    """``value`` as int if it is a whole number; None if it is anything else: a truth value, 2.0, an array of several."""
    if isinstance(value, bool) or _is_array(value):
        return None
    try:
        return index(value)
    except TypeError:
        return None


def positive(name: str, value: Any) -> int:
    """``value`` as int; ValueError, in which it is called ``name``, unless it is a whole number of at least 1."""
    number = whole(value)
    if number is None or number < 1:
        raise ValueError(f"{name} {shown(value)} is not a positive whole number")
    return number


def real(value: Any) -> float | None:
    """``value`` as float if it is a real number, NaN and infinities included; None if it is anything else."""
    if _is_array(value) or type(value).__name__.startswith(("bool", "str", "bytes", "complex")):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
    except OverflowError:
        return inf if value > 0 else -inf


def number(value: Any) -> float:
    """``value`` as float; NaN, which is in no range, if it is no number."""
    found = real(value)
    return nan if found is None else found


def truth(value: Any) -> bool | None:
    """``value`` as bool if it is a truth value; None if it is anything else."""
    return bool(value) if type(value).__name__ in ("bool", "bool_") else None


def shown(value: Any) -> str:
    """``repr(value)``, on one line of at most 60 characters."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python does not write numbers of thousands of digits
        return "of thousands of digits"
    return _short(text)


def listed(names: Sequence[str]) -> str:
    """Names with commas between them, for an error's one line; of many the first 20."""
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(_short(" ".join(name.split())) for name in names[:20]) + more


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
