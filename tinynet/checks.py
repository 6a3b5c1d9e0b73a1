"""Arguments at the boundary: numbers of any library as Python's own, and values in few words for an error's one line."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from operator import index
from typing import Any


def _is_array(value: Any) -> bool:
    """Whether it is an array of one axis or more, whatever its library."""
    return getattr(value, "ndim", 0) not in (0, None)


def whole(value: Any) -> int | None:
    """``value`` as int if it is a whole number; None if it is anything else: a truth value, 2.0, an array of several."""
    if isinstance(value, bool) or _is_array(value):
        return None
    try:
        return index(value)
    except TypeError:
        return None


def real(value: Any) -> float | None:
    """``value`` as float if it is a number, NaN and infinities among them; None if it is anything else."""
    if _is_array(value) or type(value).__name__.startswith(("bool", "str", "bytes", "complex")):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
    except OverflowError:
        return inf if value > 0 else -inf


def truth(value: Any) -> bool | None:
    """``value`` as bool if it is a truth value; None if it is anything else."""
    return bool(value) if type(value).__name__ in ("bool", "bool_") else None


def shown(value: Any) -> str:
    """``value`` as Python writes it, in one line of at most 60 letters."""
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
