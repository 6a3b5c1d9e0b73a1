"""Activations: each an elementwise formula beside its derivative, in array API terms.

``f(xp, x)`` gives y. ``df(xp, dy, x, y)`` gives dx; it gets the input and the output and uses whichever is cheaper.
The results are right for any |x|, also where an exponential on the way to them is infinite; NaN stays NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt
from typing import Any

from tinynet_backends.special import erf

from tinynet import checks
from tinynet.layers import Array, Backprop, Context, Formula, Layer, Params


class Activation(Layer):
    """The base class of elementwise layers without parameters: a subclass overrides `f` and `df`.

    Both use functions of the array API, from ``xp``, so that a backend can compile them.
    """

    def f(self, xp: Any, x: Array) -> Array:
        """The output y, in the shape of x."""
        raise NotImplementedError(f"{type(self).__name__} has no f: write one")

    def df(self, xp: Any, dy: Array, x: Array, y: Array) -> Array:
        """The gradient dx: ``dy`` times the derivative, given the input x and the output y of `f`."""
        raise NotImplementedError(f"{type(self).__name__} has no df, the derivative: write one")

    @property
    def formulas(self) -> tuple[Formula, Formula] | None:
        return (self.f, self.df) if type(self).forward is Activation.forward else None

    def forward(self, params: Params, x: Array, ctx: Context) -> tuple[Array, Backprop]:
        y = ctx.ops.elementwise(self.f, x)
        return y, lambda dy: (ctx.ops.elementwise(self.df, dy, x, y), {})


def _sigmoid(xp: Any, x: Array) -> Array:
    return 1.0 / (1.0 + xp.exp(-x))


@dataclass(frozen=True, repr=False)
class Identity(Activation):
    """``x``, unchanged."""

    def forward(self, params: Params, x: Array, ctx: Context) -> tuple[Array, Backprop]:
        return x, lambda dy: (dy, {})


@dataclass(frozen=True, repr=False)
class Sigmoid(Activation):
    """The logistic function, ``1 / (1 + exp(-x))``."""

    def f(self, xp: Any, x: Array) -> Array:
        return _sigmoid(xp, x)

    def df(self, xp: Any, dy: Array, x: Array, y: Array) -> Array:
        return dy * (y * (1.0 - y))


@dataclass(frozen=True, repr=False)
class Tanh(Activation):
    """The hyperbolic tangent, ``tanh(x)``."""

    def f(self, xp: Any, x: Array) -> Array:
        return xp.tanh(x)

    def df(self, xp: Any, dy: Array, x: Array, y: Array) -> Array:
        return dy * (1.0 - y * y)


@dataclass(frozen=True, repr=False)
class ReLU(Activation):
    """``max(x, 0)``; its derivative at 0 is 0."""

    def f(self, xp: Any, x: Array) -> Array:
        return xp.maximum(x, 0.0)

    def df(self, xp: Any, dy: Array, x: Array, y: Array) -> Array:
        return xp.where(y > 0, dy, xp.zeros_like(dy))


@dataclass(frozen=True, repr=False)
class LeakyReLU(Activation):
    """``x`` where it is positive, else ``slope * x`` (Maas et al. 2013); its derivative at 0 is ``slope``."""

    slope: float = 0.01

    def __post_init__(self) -> None:
        checks.coerce_numbers(self, checks.FINITE, "slope")

    def f(self, xp: Any, x: Array) -> Array:
        return xp.where(x > 0, x, self.slope * x)

    def df(self, xp: Any, dy: Array, x: Array, y: Array) -> Array:
        return xp.where(x > 0, dy, self.slope * dy)


@dataclass(frozen=True, repr=False)
class ELU(Activation):
    """``x`` where it is positive, else ``alpha * (exp(x) - 1)`` (Clevert et al. 2016); its derivative at 0 is ``alpha``."""

    alpha: float = 1.0

    def __post_init__(self) -> None:
        checks.coerce_numbers(self, checks.FINITE, "alpha")

    def f(self, xp: Any, x: Array) -> Array:
        return xp.where(x > 0, x, self.alpha * xp.expm1(xp.minimum(x, 0.0)))

    def df(self, xp: Any, dy: Array, x: Array, y: Array) -> Array:
        return xp.where(x > 0, dy, dy * (y + self.alpha))


@dataclass(frozen=True, repr=False)
class GELU(Activation):
    """``x * Phi(x)``, where Phi is the distribution function of the standard normal (Hendrycks, Gimpel 2016).

    With ``approximate``, their approximation ``x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))``.
    """

    approximate: bool = False

    def __post_init__(self) -> None:
        checks.coerce_bool(self, "approximate", ": True is the tanh form")

    def f(self, xp: Any, x: Array) -> Array:
        if self.approximate:
            return 0.5 * x * (1.0 + xp.tanh(self._inner(x)))
        return 0.5 * x * (1.0 + erf(xp, x * sqrt(0.5)))

    def df(self, xp: Any, dy: Array, x: Array, y: Array) -> Array:
        if self.approximate:
            t = xp.tanh(self._inner(x))
            # x**2 is bounded where tanh has long been 1: it may be infinite, and 0 * inf is NaN
            slope = sqrt(2.0 / pi) * (1.0 + 3.0 * 0.044715 * xp.minimum(x * x, 1e4))
            return dy * (0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope)
        density = xp.exp(-0.5 * x * x) * (1.0 / sqrt(2.0 * pi))
        return dy * (0.5 * (1.0 + erf(xp, x * sqrt(0.5))) + x * density)

    def _inner(self, x: Array) -> Array:
        return sqrt(2.0 / pi) * (x + 0.044715 * x * x * x)


@dataclass(frozen=True, repr=False)
class SiLU(Activation):
    """``x * sigmoid(x)``, also called swish (Elfwing et al. 2018; Ramachandran et al. 2017)."""

    def f(self, xp: Any, x: Array) -> Array:
        return x * _sigmoid(xp, x)

    def df(self, xp: Any, dy: Array, x: Array, y: Array) -> Array:
        s = _sigmoid(xp, x)
        return dy * (s * (1.0 + x * (1.0 - s)))


@dataclass(frozen=True, repr=False)
class Softplus(Activation):
    """``log(1 + exp(x))``, without overflow. PyTorch returns ``x`` above 20, which differs by less than 3e-9."""

    def f(self, xp: Any, x: Array) -> Array:
        return xp.maximum(x, 0.0) + xp.log1p(xp.exp(-xp.abs(x)))

    def df(self, xp: Any, dy: Array, x: Array, y: Array) -> Array:
        return dy * _sigmoid(xp, x)


@dataclass(frozen=True, repr=False)
class Softmax(Layer):
    """``exp(x_k) / sum_j exp(x_j)`` over the last axis: (n, k) -> (n, k).

    Do not put it before `CrossEntropy`, which takes logits and applies the softmax itself.
    """

    def forward(self, params: Params, x: Array, ctx: Context) -> tuple[Array, Backprop]:
        y = ctx.ops.softmax(x)
        return y, lambda dy: (ctx.ops.softmax_grad(dy, y), {})
