"""Gradients checked against central differences along one random direction: two evaluations, whatever the size."""

from __future__ import annotations

from itertools import count
from math import prod
from typing import Any

from tinynet_backends import Backend, get_backend

from tinynet.errors import GradientError
from tinynet.initializers import Shape
from tinynet.layers import Array, Backprop, Context, Layer, checked_forward, checked_gradients
from tinynet.losses import CrossEntropy, Loss, checked_loss
from tinynet.model import Model
from tinynet.streams import Stream

# Rounding is of order 1e-16 / STEP, truncation of order STEP**2 times the third derivative, which is 1e5 in ten layers of 50
# units, because all weights move at once.
STEP = 1e-6
TOLERANCE = 1e-6


class _Draws:
    """Standard normal arrays, a new one at every call."""

    def __init__(self, ops: Backend, seed: int) -> None:
        self.ops, self.numbers, self.seed = ops, count(), seed

    def __call__(self, *shape: int) -> Array:
        stream = Stream(self.seed, purpose=5, counter=(0, 0, next(self.numbers)))
        return self.ops.xp.reshape(stream.normal(range(prod(shape)), ops=self.ops), shape)


def check_gradients(
    what: Layer | Loss,
    n_in: int | Shape = 4,
    *,
    target: Any = None,
    backend: str | Backend | None = None,
    train: bool = True,
    seed: int = 0,
) -> float:
    """Compare the gradients of a layer or a loss with central differences; return the relative error.

    A layer, or a whole network, is checked on random samples with ``n_in`` features, or of that shape: as in training or,
    with ``train=False``, as in evaluation. A loss is checked on random outputs (n, o) and ``target`` (n,) or (n, o), by
    default targets that it accepts. Everything is computed in float64, along one random direction in inputs and parameters
    together: a mistake in any gradient changes the result.

    `GradientError`, which names the wrong parts, if the error exceeds 1e-6; also for a layer that changes its inputs in
    place, or gives other outputs for the same inputs. A kink within 1e-6 of a sample, such as that of ReLU at 0, has the same
    effect: try another ``seed``.

    Examples
    --------
    >>> tn.check_gradients(tn.Sequential(tn.Dense(3), tn.Tanh()), n_in=2) < 1e-6
    True
    """
    ops = get_backend(backend)
    with ops.active():
        if isinstance(what, Layer):
            error = layer_error(what, n_in, ops, train=train, seed=seed)
            where = "" if error <= TOLERANCE else _wrong_parts(what, n_in, ops, train, seed)
        elif isinstance(what, Loss):
            t = _some_target(what, ops, seed) if target is None else ops.asarray(target)
            error, where = _checked_loss_error(what, t, ops, seed), ""
        else:
            raise TypeError(f"{what!r} is neither a layer nor a loss: give one, such as Dense(3) or CrossEntropy()")
    if error <= TOLERANCE:
        return error
    raise GradientError(
        f"the gradient of {what!r} is wrong{where}: its relative error is {error:.2g}, and {TOLERANCE:g} is allowed"
    )


def _wrong_parts(layer: Layer, n_in: int | Shape, ops: Backend, train: bool, seed: int) -> str:
    """Which gradients are wrong, in words; empty if each of them alone is right."""
    names = ["inputs", *Model(layer, n_in, backend=ops, dtype="float64").gradient_names]
    errors = {name: layer_error(layer, n_in, ops, train=train, seed=seed, part=name) for name in names}
    wrong = [name for name in names if not errors[name] <= TOLERANCE]
    return f" for {', '.join(wrong)}" if wrong else ""


def _checked_loss_error(loss: Loss, target: Array, ops: Backend, seed: int) -> float:
    """`loss_error` in float64, for as many outputs as ``target`` asks for; ValueError if the loss does not take it."""
    if not ops.xp.isdtype(target.dtype, ("bool", "numeric")) or 0 in (target.ndim, *target.shape):
        kind = str(target.dtype).rpartition(".")[2]
        raise ValueError(f"target {kind} {tuple(target.shape)} is no batch of targets: give numbers (n,) or (n, o)")
    if ops.xp.isdtype(target.dtype, "real floating"):
        target = ops.asarray(target, "float64")
    columns = target.shape[1] if target.ndim > 1 else 1
    labels = target.ndim == 1 and loss.labels
    width = int(ops.to_numpy(ops.xp.max(target))) + 1 if labels else loss.outputs(columns)
    loss.check((width,), target, ops)
    return loss_error(loss, target, width, ops, seed=seed)


def _some_target(loss: Loss, ops: Backend, seed: int) -> Array:
    """Targets of a few samples that ``loss`` accepts: labels, normal numbers, signs, or zeros and ones."""
    if loss.labels:
        k = len(loss.class_weight) if isinstance(loss, CrossEntropy) and loss.class_weight else 3
        return ops.asarray([*range(k)] * 2, "int64")
    normal = _Draws(ops, seed + 1)(6, 3)
    signs = ops.xp.where(normal > 0, ops.xp.ones_like(normal), -ops.xp.ones_like(normal))
    for target in (normal, signs, 0.5 * (signs + 1.0)):
        try:
            loss.check((loss.outputs(3),), target, ops)
        except ValueError:
            continue
        return target
    raise ValueError(f"{loss!r} takes targets of its own kind: give check_gradients(…, target=…)")


def layer_error(
    layer: Layer, n_in: int | Shape, ops: Backend, *, train: bool = True, seed: int = 0, part: str = ""
) -> float:
    """The error that `check_gradients` returns for a layer, relative to 1 plus the size of the central difference.

    In float64, on 6 random samples, along one random direction in inputs and parameters together. The parameters are the
    initial ones plus noise, so that none has a special value. With ``part``, "inputs" or the name of a parameter, the
    direction is 0 in all other parts.

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
    if part:
        named = model.weights(model.theta).items()
        moves = [xp.ones_like(p) if name == part else xp.zeros_like(p) for name, p in named]
        dtheta = dtheta * ops.pack(moves, ops.zeros(start.shape, start.dtype))
        dx = dx if part == "inputs" else xp.zeros_like(dx)
    state = xp.asarray(model.state, copy=True)
    ctx = Context(ops, train=train, seed=seed, step=2)

    def forward(shift: float) -> tuple[Array, Backprop]:
        model.theta[...], model.state[...] = start + shift * dtheta, state
        return checked_forward(layer, model.out_shape, model.params, x + shift * dx, ctx)

    above, again, below = (xp.asarray(forward(shift)[0], copy=True) for shift in (STEP, 0.0, -STEP))
    given = xp.asarray(x, copy=True)
    model.theta[...], model.state[...] = start, state
    y, backprop = checked_forward(layer, model.out_shape, model.params, given, ctx)
    if _any(ops, xp.abs(y - again) > TOLERANCE):
        raise GradientError(
            f"{layer!r} gives other outputs for the same inputs: draw by ctx.seed and ctx.step, as Dropout"
        )
    if _any(ops, given != x):
        raise GradientError(f"{layer!r} changes its inputs in place, which may be the user's data: make a new array")
    v = draw(*y.shape)
    given = xp.asarray(v, copy=True)
    gx, gparams = backprop(given)
    if _any(ops, given != v):
        raise GradientError(
            f"backprop of {layer!r} changes dy in place, which another layer may need: make a new array"
        )
    g = ops.pack(checked_gradients(model.gradient_names, gparams, model.params), ops.zeros(start.shape, start.dtype))
    return _error(ops, _along(xp, gx, dx) + _along(xp, g, dtheta), xp.sum(v * (above - below)) / (2.0 * STEP))


def _along(xp: Any, g: Array, direction: Array) -> Array:
    """The sum of ``g * direction``, in which a NaN counts only where the direction is not 0."""
    return xp.sum(xp.where(direction == 0, xp.zeros_like(g), g * direction))


def _any(ops: Backend, wrong: Array) -> bool:
    return bool(ops.to_numpy(ops.xp.any(wrong)))


def loss_error(loss: Loss, target: Array, width: int, ops: Backend, *, seed: int = 0) -> float:
    """The error that `check_gradients` returns for a loss of outputs (n, width), given targets of n samples on ``ops``."""
    xp, draw = ops.xp, _Draws(ops, seed)
    y, v = draw(target.shape[0], width), draw(target.shape[0], width)
    above, below = (checked_loss(loss, y + shift * v, target, ops)[0] for shift in (STEP, -STEP))
    return _error(ops, xp.sum(checked_loss(loss, y, target, ops)[1] * v), (above - below) / (2.0 * STEP))


def _error(ops: Backend, along: Array, difference: Array) -> float:
    a, b = float(ops.to_numpy(along)), float(ops.to_numpy(difference))
    return abs(a - b) / (1.0 + abs(b))
