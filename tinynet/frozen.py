"""Layers whose weights training leaves as they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tinynet.initializers import Shape
from tinynet.layers import Array, Backprop, Context, Layer, Params, Spec, checked_build, checked_pass, merge


@dataclass(frozen=True, repr=False)
class Frozen(Layer):
    """``layer`` with weights that training does not change, always in evaluation mode: for a network trained before.

    Its parameters become layer state under the same names. Dropout is off, and batch norm uses its running statistics
    without updating them. Gradients still reach the layers before it. `fit_many` draws the weights anew for each seed.

    Examples
    --------
    >>> base = tn.Model(tn.Sequential(tn.Dense(8), tn.ReLU(), tn.Dense(3)), n_in=2)
    >>> model = tn.Model(tn.Sequential(tn.Frozen(base.net.layers[0]), tn.ReLU(), tn.Dense(5)), n_in=2)
    >>> for name in ("0.w", "0.b"):
    ...     model.weights()[name][...] = base.weights()[name]
    >>> model
    Model(Sequential(Frozen(layer=Dense(width=8)), ReLU(), Dense(width=5)), 2 -> 5, 45 parameters, float32 on numpy)
    """

    layer: Layer

    def __post_init__(self) -> None:
        if not isinstance(self.layer, Layer):
            raise TypeError(f"Frozen takes a layer, not {self.layer!r}: give one, such as Frozen(Dense(8))")

    def build(self, shape: Shape) -> Spec:
        spec = checked_build(self.layer, shape)
        return Spec(spec.shape, {}, merge(dict(spec.params), dict(spec.state)))

    def forward(self, params: Params, x: Array, ctx: Context) -> tuple[Array, Backprop]:
        y, inner = checked_pass(self.layer, params, x, replace(ctx, train=False))

        def backprop(dy: Array) -> tuple[Array, dict[str, Any]]:
            return inner(dy)[0] if ctx.need_dx else None, {}

        return y, backprop
