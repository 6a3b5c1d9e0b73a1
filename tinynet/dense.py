"""Dense layers, and the vectors that they take."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from tinynet import checks, initializers
from tinynet.initializers import Initializer, Shape, check_initializer
from tinynet.layers import Array, Backprop, Context, Layer, Param, Params, Spec, check_vectors


@dataclass(frozen=True, repr=False)
class Dense(Layer):
    """A fully connected layer, ``x @ w + b``: (n, i) -> (n, width), with w (i, width) and b (width,).

    Without ``bias`` there is no b. ``init`` and ``bias_init`` draw the initial values; the defaults are those of Keras.
    ValueError for samples that are not vectors.

    Examples
    --------
    >>> tn.Model(tn.Dense(3), n_in=2).predict([[0.0, 0.0]]).tolist()  # biases begin at 0
    [[0.0, 0.0, 0.0]]
    """

    width: int
    bias: bool = True
    init: Initializer = initializers.GlorotUniform()
    bias_init: Initializer = initializers.Constant(0.0)

    def __post_init__(self) -> None:
        checks.coerce_positive(self, "width")
        checks.coerce_bool(self, "bias", ": an activation is a layer of its own, put it after this one")
        for name in ("init", "bias_init"):
            check_initializer(f"Dense {name}", getattr(self, name))

    def build(self, shape: Shape) -> Spec:
        check_vectors(self, shape)
        params = {"w": Param((shape[0], self.width), self.init)}
        if self.bias:
            params["b"] = Param((self.width,), self.bias_init)
        return Spec((self.width,), params)

    def forward(self, params: Params, x: Array, ctx: Context) -> tuple[Array, Backprop]:
        w = params["w"]
        y = ctx.ops.affine(x, w, params.get("b"))

        def backprop(dy: Array) -> tuple[Array, dict[str, Any]]:
            dx, dw, db = ctx.ops.affine_grad(dy, x, w, self.bias, ctx.need_dx)
            return dx, {"w": dw, "b": db} if self.bias else {"w": dw}

        return y, backprop


@dataclass(frozen=True, repr=False)
class Flatten(Layer):
    """Samples of any shape as vectors, in C order: (n, a, b, …) -> (n, a * b * …).

    Examples
    --------
    >>> tn.Model(tn.Sequential(tn.Flatten(), tn.Dense(10)), n_in=(28, 28)).out_shape
    (10,)
    """

    def build(self, shape: Shape) -> Spec:
        return Spec((prod(shape),))

    def forward(self, params: Params, x: Array, ctx: Context) -> tuple[Array, Backprop]:
        reshape, shape = ctx.ops.xp.reshape, x.shape
        flat = *shape[: ctx.axes], prod(shape[ctx.axes :])
        return reshape(x, flat), lambda dy: (reshape(dy, shape), {})
