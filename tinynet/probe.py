"""What every layer takes and gives for one batch, in the forward and in the backward pass."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

from tinynet_backends import Backend

from tinynet.data import Batch
from tinynet.layers import Array, Backprop, Context, Layer, Param, Params, Spec, leaves
from tinynet.losses import Loss
from tinynet.model import Model
from tinynet.parameters import on_its_device
from tinynet.sequential import is_composite


@dataclass
class Seen:
    """A layer, its place ("2.0" is the first one inside the third), and the arrays of its two passes.

    ``dx`` is None where it is not needed: at the network's first layer.
    """

    place: str
    layer: Layer
    x: Array = None
    y: Array = None
    dx: Array = None
    dy: Array = None
    gradients: Mapping[str, Array] | None = None  # by the full names of the parameters


@dataclass(frozen=True, repr=False)
class _Watched(Layer):
    """A layer that records its passes."""

    seen: Seen

    def __repr__(self) -> str:
        return repr(self.seen.layer)

    def build(self, shape: tuple[int, ...]) -> Spec:
        return self.seen.layer.build(shape)

    def forward(self, params: Params, x: Array, ctx: Context) -> tuple[Array, Backprop]:
        seen = self.seen
        seen.x = x
        seen.y, backprop = seen.layer.forward(params, x, ctx)

        def recording(dy: Array) -> tuple[Array, dict[str, Any]]:
            seen.dy = dy
            seen.dx, dparams = backprop(dy)
            seen.gradients = dict(leaves(dparams, f"{seen.place}." if seen.place else ""))
            return seen.dx, dparams

        return seen.y, recording


@on_its_device
def probe(model: Model, batch: Batch, loss: Loss, *, step: int = 0) -> tuple[float, list[Seen]]:
    """The loss of ``batch`` and what every layer saw, in order, as in training step ``step``.

    The model does not change: the passes work on copies of its layer state, such as running means.
    """
    ops, seen = model.ops, list[Seen]()
    net = _watched(model.net, "", seen)
    params = _with_copies(model.params, model.spec.state, ops)
    ctx = Context(ops, train=True, seed=model.seed, step=step, need_dx=False)

    def run(batch: Batch) -> Array:
        y, backprop = net.forward(params, batch.x, ctx)
        value, dy = loss(y, batch.y, ops, batch.weight)
        backprop(dy)
        return value

    # A step that is compiled anew at each call is never captured; overflow raises no warning within it.
    return float(ops.to_numpy(ops.compile(run)(batch))), seen


def _watched(layer: Layer, place: str, seen: list[Seen]) -> Layer:
    if is_composite(layer):
        outer = copy(layer)
        inner = (f"{place}.{number}" if place else str(number) for number in range(len(layer.layers)))
        outer.layers = tuple(_watched(one, name, seen) for one, name in zip(layer.layers, inner, strict=True))
        return outer
    seen.append(Seen(place, layer))
    return _Watched(seen[-1])


def _with_copies(params: Params, state: Mapping[str, Any], ops: Backend) -> dict[str, Any]:
    """``params``, with copies of the arrays that ``state`` names."""
    new = dict(params)
    for name, spec in state.items():
        own = params[name]
        new[name] = ops.xp.asarray(own, copy=True) if isinstance(spec, Param) else _with_copies(own, spec, ops)
    return new
