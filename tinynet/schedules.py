"""Learning-rate schedules: functions from the number of finished steps to the rate, in order of complexity.

Any ``step -> rate`` function will do for an optimizer; these are the usual ones. Wrap one in `Warmup` to start gently.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, inf, pi, sqrt

from tinynet import checks

Schedule = Callable[[int], float]


def _coerce(owner: object, rates: tuple[str, ...], positive: tuple[str, ...] = ()) -> None:
    checks.coerce_numbers(owner, checks.NOT_NEGATIVE, *rates)
    checks.coerce_numbers(owner, checks.POSITIVE, *positive)


@dataclass(frozen=True)
class Constant:
    """The learning rate ``rate`` at every step."""

    rate: float

    def __post_init__(self) -> None:
        _coerce(self, ("rate",))

    def __call__(self, step: int) -> float:
        return self.rate


@dataclass(frozen=True)
class Step:
    """``rate * factor**(step // every)``: multiplied by ``factor`` every ``every`` steps.

    Examples
    --------
    >>> rate = tn.schedules.Step(1.0, every=10, factor=0.5)
    >>> rate(0), rate(9), rate(10), rate(25)
    (1.0, 1.0, 0.5, 0.25)
    """

    rate: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        _coerce(self, ("rate",), ("every", "factor"))

    def __call__(self, step: int) -> float:
        return self.rate * self.factor ** (step // self.every)


@dataclass(frozen=True)
class Exponential:
    """``rate * factor**step``: multiplied by ``factor`` at every step."""

    rate: float
    factor: float

    def __post_init__(self) -> None:
        _coerce(self, ("rate",), ("factor",))

    def __call__(self, step: int) -> float:
        return float(self.rate * self.factor**step)


@dataclass(frozen=True)
class InverseSquareRoot:
    """``rate * sqrt(scale / (scale + step))``; ``scale`` is in steps."""

    rate: float
    scale: float = 1000.0

    def __post_init__(self) -> None:
        _coerce(self, ("rate",), ("scale",))

    def __call__(self, step: int) -> float:
        return self.rate * sqrt(self.scale / (self.scale + step))


@dataclass(frozen=True)
class Cosine:
    """From ``rate`` to ``final`` along half a cosine in ``steps`` steps, then constant: cosine annealing.

    I. Loshchilov, F. Hutter (2017), *SGDR: stochastic gradient descent with warm restarts*, equation 5.

    Examples
    --------
    >>> rate = tn.schedules.Cosine(0.1, steps=100)
    >>> [round(rate(step), 3) for step in (0, 50, 100, 1000)]
    [0.1, 0.05, 0.0, 0.0]
    """

    rate: float
    steps: int
    final: float = 0.0

    def __post_init__(self) -> None:
        _coerce(self, ("rate", "final"), ("steps",))

    def __call__(self, step: int) -> float:
        return _half_cosine(self.rate, self.final, min(step / self.steps, 1.0))


@dataclass(frozen=True)
class Warmup:
    """A linear warm-up: in ``steps`` equal increments to the first rate of ``then``, and from there on ``then`` itself.

    ``then`` is a number or a schedule, whose steps are counted from the end of the warm-up.

    Examples
    --------
    >>> rate = tn.schedules.Warmup(4, 0.1)
    >>> [round(rate(step), 3) for step in range(6)]
    [0.025, 0.05, 0.075, 0.1, 0.1, 0.1]
    """

    steps: int
    then: float | Schedule

    def __post_init__(self) -> None:
        _coerce(self, () if callable(self.then) else ("then",), ("steps",))

    def __call__(self, step: int) -> float:
        if step < self.steps:
            return rate_at(self.then, 0) * (step + 1) / self.steps
        return rate_at(self.then, step - self.steps)


@dataclass(frozen=True)
class OneCycle:
    """Up from ``rate / start`` to ``rate``, then down to ``rate / start / end``, along half cosines (Smith, Topin 2018).

    The rate rises during the fraction ``rise`` of ``steps`` and is constant after the last of them. This is PyTorch's
    ``OneCycleLR`` with its default, cosine annealing in two phases, except that the momentum does not change.
    """

    rate: float
    steps: int
    rise: float = 0.3
    start: float = 25.0
    end: float = 1e4

    def __post_init__(self) -> None:
        _coerce(self, ("rate",), ("steps", "start", "end"))
        checks.coerce_numbers(self, checks.Range(lambda rise: 0 < rise < 1, "a fraction in (0, 1)"), "rise")

    def __call__(self, step: int) -> float:
        low = self.rate / self.start
        step = min(step, self.steps - 1)
        top = self.rise * self.steps - 1.0
        if step <= top:
            return _half_cosine(low, self.rate, step / top if top > 0 else 1.0)
        return _half_cosine(self.rate, low / self.end, (step - top) / (self.steps - 1 - top))


def _half_cosine(a: float, b: float, done: float) -> float:
    """From ``a`` at ``done`` 0 to ``b`` at 1."""
    return b + 0.5 * (a - b) * (1.0 + cos(pi * done))


def rate_at(rate: float | Schedule, step: int) -> float:
    """The rate at ``step``, of a number or of a schedule; ValueError if a schedule gives anything else than a rate."""
    if not callable(rate):
        return float(rate)
    try:
        value = rate(step)
    except OverflowError:  # a power that is beyond all floats
        value = inf
    now = value if type(value) is float else checks.float_or_nan(value)
    if not checks.NOT_NEGATIVE.holds(now):
        text, wanted = checks.short_repr(value), checks.NOT_NEGATIVE.text
        raise ValueError(f"lr {text} at step {step} is out of range: a schedule gives {wanted}")
    return now
