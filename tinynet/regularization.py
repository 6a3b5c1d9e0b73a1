"""Dropout, layer norm and batch norm: layers that act differently in training, or across features or samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tinynet import checks
from tinynet.initializers import Constant, Shape
from tinynet.layers import Array, Backprop, Context, Layer, Param, Params, Spec, check_vectors


@dataclass(frozen=True, repr=False)
class Dropout(Layer):
    """In training each element becomes 0 with probability ``rate``, else ``x / (1 - rate)`` (Srivastava et al. 2014).

    ``rate`` in [0, 1) is the fraction dropped. In evaluation the layer is the identity. The mask is a pure function of the
    seed, the step, the position of the layer and, if a batch is computed in parts, the number of the part.

    Examples
    --------
    >>> model = tn.Model(tn.Dropout(0.5), n_in=2)
    >>> model.predict([[1.0, 2.0]]).tolist()
    [[1.0, 2.0]]
    """

    rate: float = 0.5

    def __post_init__(self) -> None:
        checks.coerce_numbers(self, checks.FRACTION._replace(text="the fraction dropped, in [0, 1)"), "rate")

    def forward(self, params: Params, x: Array, ctx: Context) -> tuple[Array, Backprop]:
        if not ctx.train or self.rate == 0.0:
            return x, lambda dy: (dy, {})
        ops = ctx.ops
        if ctx.axes == 1:
            y, keep = ops.dropout(x, self.rate, *ctx.masks)
        else:
            masks = [one.masks for one in ctx.each()]
            y, keep = ops.dropouts(x, self.rate, [key for key, _ in masks], masks[0][1])
        return y, lambda dy: (ops.dropout_grad(dy, keep, self.rate), {})


@dataclass(frozen=True, repr=False)
class LayerNorm(Layer):
    """Each sample normalized to mean 0 and variance 1 over its features, then scaled and shifted (Ba et al. 2016).

    ``gamma * (x - mean) / sqrt(var + epsilon) + beta``: (n, i) -> (n, i), with parameters gamma (i,), initially 1, and beta
    (i,), initially 0. ``var`` is the biased variance, as in PyTorch. ValueError for samples that are not vectors.
    """

    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        checks.coerce_numbers(self, checks.NOT_NEGATIVE, "epsilon")

    def build(self, shape: Shape) -> Spec:
        check_vectors(self, shape)
        return Spec(shape, {"gamma": Param(shape, Constant(1.0)), "beta": Param(shape, Constant(0.0))})

    def forward(self, params: Params, x: Array, ctx: Context) -> tuple[Array, Backprop]:
        gamma = params["gamma"]
        y, normed, rstd, _, _ = ctx.ops.normalize(x, gamma, params["beta"], -1, self.epsilon)

        def backprop(dy: Array) -> tuple[Array, dict[str, Any]]:
            dx, dgamma, dbeta = ctx.ops.normalize_grad(dy, normed, rstd, gamma, -1)
            return dx, {"gamma": dgamma, "beta": dbeta}

        return y, backprop


@dataclass(frozen=True, repr=False)
class BatchNorm(Layer):
    """Each feature normalized to mean 0 and variance 1 over the batch, then scaled and shifted (Ioffe, Szegedy 2015).

    ``gamma * (x - mean) / sqrt(var + epsilon) + beta``: (n, i) -> (n, i), with parameters gamma (i,), initially 1, and beta
    (i,), initially 0. In training, mean and (biased) variance are those of the batch. In evaluation they are running
    averages, kept as layer state, which each training step updates in place: ``running += momentum * (batch - running)``,
    with the unbiased variance, as in PyTorch. A batch of one sample leaves them as they are; PyTorch raises an error.
    ValueError for samples that are not vectors.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        weight = checks.Range(lambda momentum: 0 <= momentum <= 1, "the weight of the new, in [0, 1]")
        checks.coerce_numbers(self, weight, "momentum")
        checks.coerce_numbers(self, checks.NOT_NEGATIVE, "epsilon")

    def build(self, shape: Shape) -> Spec:
        check_vectors(self, shape)
        one, zero = Param(shape, Constant(1.0)), Param(shape, Constant(0.0))
        return Spec(shape, {"gamma": one, "beta": zero}, {"mean": zero, "var": one})

    def forward(self, params: Params, x: Array, ctx: Context) -> tuple[Array, Backprop]:
        return (self._train if ctx.train else self._evaluate)(params, x, ctx)

    def _train(self, params: Params, x: Array, ctx: Context) -> tuple[Array, Backprop]:
        ops, gamma, n = ctx.ops, params["gamma"], x.shape[-2]
        y, normed, rstd, mean, var = ops.normalize(x, gamma, params["beta"], -2, self.epsilon)
        if n > 1:
            running = (params["mean"], params["var"])
            batch = (ops.xp.reshape(mean, gamma.shape), ops.xp.reshape(var, gamma.shape))
            ops.update(_running, running, batch, self.momentum, n / (n - 1))

        def backprop(dy: Array) -> tuple[Array, dict[str, Any]]:
            dx, dgamma, dbeta = ops.normalize_grad(dy, normed, rstd, gamma, -2)
            return dx, {"gamma": dgamma, "beta": dbeta}

        return y, backprop

    def _evaluate(self, params: Params, x: Array, ctx: Context) -> tuple[Array, Backprop]:
        xp = ctx.ops.xp
        gamma, beta, mean, var = (params[name][..., None, :] for name in ("gamma", "beta", "mean", "var"))
        rstd = 1.0 / xp.sqrt(var + self.epsilon)
        normed = (x - mean) * rstd

        def backprop(dy: Array) -> tuple[Array, dict[str, Any]]:
            return dy * (gamma * rstd), {"gamma": xp.sum(dy * normed, axis=-2), "beta": xp.sum(dy, axis=-2)}

        return normed * gamma + beta, backprop


def _running(
    xp: Any, mean: Array, var: Array, batch_mean: Array, batch_var: Array, momentum: float, unbias: float
) -> tuple[Array, Array]:
    return mean + momentum * (batch_mean - mean), var + momentum * (unbias * batch_var - var)
