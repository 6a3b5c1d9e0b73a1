"""Random streams by purpose: what draws from one never moves another.

A stream is Philox4x64-10 (Salmon et al. 2011) under the key (seed, purpose); its counter says which sample, step or
layer a number belongs to. Nothing else in the library is random.
"""

from __future__ import annotations

WEIGHTS, DATA, ORDER, MASKS = 1, 2, 3, 4

Key = tuple[int, int]
Counter = tuple[int, int, int]


def check_seed(seed: int) -> int:
    """``seed`` as int; ValueError unless it is a whole number in [0, 2**64)."""
    try:
        value = seed.__index__()
    except AttributeError:
        raise TypeError(f"seed {seed!r} is not a whole number: give one in [0, 2**64)") from None
    if not 0 <= value < 2**64:
        raise ValueError(f"seed {value} is out of range: give one in [0, 2**64)")
    return value


def key(seed: int, purpose: int) -> Key:
    """The Philox key of a purpose under ``seed``."""
    return check_seed(seed), purpose
