"""Gradients held against differences, along one random direction: two evaluations whatever the size."""

from __future__ import annotations

from itertools import count
from math import prod

from tinynet_backends import Backend

from tinynet.initializers import Shape
from tinynet.layers import Array, Backprop, Context, Layer, leaves
from tinynet.losses import Loss
from tinynet.model import Model
from tinynet.streams import Stream

STEP = 1e-5  # truncation is of order STEP**2, rounding of order 1e-16 / STEP
TOLERANCE = 1e-6


class _Draws:
    """Standard normal arrays, a new one each time."""

    def __init__(self, ops: Backend, seed: int) -> None:
        self.ops, self.numbers, self.seed = ops, count(), seed

    def __call__(self, *shape: int) -> Array:
        stream = Stream(self.seed, purpose=5, counter=(0, 0, next(self.numbers)))
        return self.ops.xp.reshape(stream.normal(range(prod(shape)), ops=self.ops), shape)


def layer_error(layer: Layer, n_in: int | Shape, ops: Backend, *, train: bool = True, seed: int = 0) -> float:
    """How far ``<v, backprop(v)>`` is from the central difference of ``<v, forward>``, over 1 + its size.

    In float64, on 6 random samples, along one direction in inputs and parameters together; the layer's parameters are
    its initial ones with noise, so that none is at a special value.

    Examples
    --------
    >>> from tinynet.gradients import layer_error
    >>> layer_error(tn.GELU(), 5, tn.get_backend("numpy")) < 1e-6
    True
    """
    xp, draw = ops.xp, _Draws(ops, seed)
    model = Model(layer, n_in, backend=ops, dtype="float64", seed=seed)
    start = model.theta + 0.3 * draw(*model.theta.shape)
    x, dx, dtheta = draw(6, *model.in_shape), draw(6, *model.in_shape), draw(*model.theta.shape)
    state = xp.asarray(model.state, copy=True)
    ctx = Context(ops, train=train, seed=seed, step=2)

    def forward(shift: float) -> tuple[Array, Backprop]:
        model.theta[...], model.state[...] = start + shift * dtheta, state
        return layer.forward(model.params, x + shift * dx, ctx)

    above, below = (xp.asarray(forward(shift)[0], copy=True) for shift in (STEP, -STEP))
    y, backprop = forward(0.0)
    v = draw(*y.shape)
    gx, gparams = backprop(v)
    flat = dict(leaves(gparams))
    g = ops.pack([flat[name] for name in model.gradient_names], ops.zeros(start.shape, start.dtype))
    return _error(ops, xp.sum(gx * dx) + xp.sum(g * dtheta), xp.sum(v * (above - below)) / (2.0 * STEP))


def loss_error(loss: Loss, target: Array, width: int, ops: Backend, *, seed: int = 0) -> float:
    """The same for the gradient of a loss in outputs (n, width), for targets of n samples on ``ops``."""
    xp, draw = ops.xp, _Draws(ops, seed)
    y, v = draw(target.shape[0], width), draw(target.shape[0], width)
    above, below = (loss(y + shift * v, target, ops)[0] for shift in (STEP, -STEP))
    return _error(ops, xp.sum(loss(y, target, ops)[1] * v), (above - below) / (2.0 * STEP))


def _error(ops: Backend, along: Array, difference: Array) -> float:
    a, b = float(ops.to_numpy(along)), float(ops.to_numpy(difference))
    return abs(a - b) / (1.0 + abs(b))
