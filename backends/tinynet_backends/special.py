"""Special functions that the array API standard lacks, written with what it has."""

from __future__ import annotations

from typing import Any

from tinynet_backends.exact import polynomial

Array = Any

# W. J. Cody, "Rational Chebyshev approximations for the error function", Math. Comp. 23 (1969), 631-637.
_A = (1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2,
      3.20937758913846947e3)  # fmt: skip
_B = (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3)
_C = (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1,
      2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
      1.23033935479799725e3)  # fmt: skip
_D = (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
      3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3)  # fmt: skip
_P = (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
      1.60837851487422766e-2, 6.58749161529837803e-4)  # fmt: skip
_Q = (1.0, 2.56852019228982242e0, 1.87295284992346725e0, 5.27905102951428412e-1, 6.05183413124413191e-2,
      2.33520497626869185e-3)  # fmt: skip
_ONE_OVER_SQRT_PI = 0.56418958354775628695


def erf(xp: Any, x: Array) -> Array:
    """Error function of ``x`` (any shape), elementwise; relative error below 7e-16 in float64. NaN stays NaN."""
    a = xp.abs(x)
    small = xp.where(a <= 0.46875, x, xp.zeros_like(x))
    square = small * small
    near = x * (polynomial(square, _A) / polynomial(square, _B))
    bounded = xp.minimum(a, 6.0)  # erf(6) rounds to 1
    middle, far = xp.minimum(xp.maximum(a, 0.46875), 4.0), xp.maximum(bounded, 4.0)
    inverse_square = 1.0 / (far * far)
    ratio = polynomial(inverse_square, _P) / polynomial(inverse_square, _Q)
    tail = (_ONE_OVER_SQRT_PI - inverse_square * ratio) / far
    tail = xp.where(a <= 4.0, polynomial(middle, _C) / polynomial(middle, _D), tail)
    one_minus = 1.0 - xp.exp(-bounded * bounded) * tail
    return xp.where(a <= 0.46875, near, xp.where(x < 0, -one_minus, one_minus))
