"""That networks which train together stay apart, whatever layers and optimizers of the user's own do with the axes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tinynet_backends import Backend

from tinynet.ensemble import Ensemble
from tinynet.frozen import Frozen
from tinynet.layers import Array, Context, checked_forward, checked_gradients
from tinynet.optim import Optimizer
from tinynet.sequential import simple_layers

_AXES = (
    "in fit_many every array has an axis of networks in front: count axes from the end, name them in every sum, write .mT for "
    ".T, and s[..., None, :] for a parameter s that is a vector"
)


def check_apart(ensemble: Ensemble, optimizer: Optimizer) -> None:
    """An error for a layer or an optimizer of the user's own that takes the axis of the networks, the first, for another.

    It would mix the networks in silence if its shapes are right all the same: those of ``x - mean(x, axis=0)`` always are,
    others with as many networks as samples in a batch. So what the last network gets must not change with the numbers of
    the others, and there are not as many networks as samples here.
    """
    if any(map(_is_own, (layer for _, layer, _ in simple_layers(ensemble.net, ensemble.in_shape)))):
        for train in (False, True):
            _check(ensemble.net, partial(_last_outputs, ensemble, train), ensemble.ops)
    if _is_own(optimizer):
        _check(optimizer, partial(_last_step, ensemble, optimizer), ensemble.ops)


def _is_own(thing: Any) -> bool:
    """Whether it is the user's own, or may have such a layer inside; what the library has keeps networks apart."""
    return isinstance(thing, Frozen) or not type(thing).__module__.startswith("tinynet.")


def _check(what: Any, last: Callable[[float], Array], ops: Backend) -> None:
    """ValueError if ``last(others)``, what the last network gets, changes with the numbers of the ``others``."""

    def same(a: Array, b: Array) -> bool:  # except for rounding, which in some libraries depends on where arrays lie
        return bool(ops.xp.max(ops.xp.abs(a - b)) <= 1e-3 * ops.xp.max(ops.xp.abs(a)))

    try:
        one, two = last(1.0), last(2.0)
        mixed = not same(one, two) and same(one, last(1.0))  # else a layer has noise of its own
    except Exception as e:
        e.add_note(_AXES)
        raise
    if mixed:
        raise ValueError(f"{what!r} mixes networks: what one gets changes with the numbers of others; {_AXES}")


def _last_outputs(ensemble: Ensemble, train: bool, others: float) -> Array:
    """Outputs and gradients of the last network, one after the other, whose inputs are 1; those of the others are ``others``."""
    ops, params, n = ensemble.ops, ensemble.params, len(ensemble)
    state = ops.xp.asarray(ensemble.state, copy=True)
    x = ops.empty((n, 2 if n != 2 else 3, *ensemble.in_shape), ops.dtype(ensemble.dtype))
    x[...] = others
    x[n - 1, ...] = 1.0
    ctx = Context(ops, train, seed=ensemble.seed)
    y, backprop = checked_forward(ensemble.net, ensemble.out_shape, params, x, ctx)
    gradients = checked_gradients(ensemble.gradient_names, backprop(y)[1], params)
    ensemble.state[...] = state
    return ops.xp.concat([ops.xp.reshape(a[n - 1, ...], (-1,)) for a in (y, *gradients)])


def _last_step(ensemble: Ensemble, optimizer: Optimizer, others: float) -> Array:
    """The last network after a step along a gradient of 1; that of the others is ``others``, and so is their scale."""
    ops, n = ensemble.ops, len(ensemble)
    theta, gradient = (ops.xp.asarray(ensemble.theta, copy=True) for _ in range(2))
    theta[: n - 1, ...] *= others
    gradient[: n - 1, ...] = others
    gradient[n - 1, ...] = 1.0
    slots = optimizer.init(theta, ops)
    _, *numbers = optimizer.numbers(slots, 0)
    optimizer.apply(theta, gradient, slots, (1.0, *numbers), ops)
    return theta[n - 1, ...]
