"""Inputs scaled to mean 0 and variance 1, from moments of the training data taken in one pass."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from tinynet_backends import Backend, get_backend

from tinynet import checks
from tinynet.data.columns import Columns
from tinynet.data.dataset import Dataset
from tinynet.frozen import Frozen
from tinynet.initializers import Constant, Shape
from tinynet.layers import Array, Backprop, Context, Layer, Param, Spec
from tinynet.pieces import split_range
from tinynet.sequential import Sequential

_log = logging.getLogger("tinynet")
_PIECE = 2**20  # numbers that are read at a time
ROUNDED = (
    "varies so little around its mean that float32 rounds most of that away: subtract the mean from it before, or compute "
    "in float64"
)


@dataclass(frozen=True, repr=False)
class Standardize(Layer):
    """``(x - mean) * scale``, usually the first layer: mean and 1 / standard deviation of each input feature.

    Both are layer state, in the shape of a sample, so they are saved and exported with the model. They begin as 0 and 1.
    If the layer is the first, `fit` sets them from the training data before the first step, unless they have been set;
    `Model.adapt` does the same. Elsewhere set them yourself, through `Model.weights`: `fit` raises ValueError if that
    was forgotten. The scale of a constant feature is 1.
    """

    def build(self, shape: Shape) -> Spec:
        return Spec(shape, {}, {"mean": Param(shape, Constant(0.0)), "scale": Param(shape, Constant(1.0))})

    def forward(self, params: Mapping[str, Any], x: Array, ctx: Context) -> tuple[Array, Backprop]:
        ops, reshape, axes = ctx.ops, ctx.ops.xp.reshape, ctx.axes
        mean, scale = (reshape(a, (*a.shape[: axes - 1], -1)) for a in (params["mean"], params["scale"]))
        y = ops.standardize(reshape(x, (*x.shape[:axes], -1)), mean, scale)

        def backprop(dy: Array) -> tuple[Array, dict[str, Any]]:
            return dy * ops.xp.expand_dims(params["scale"], axis=axes - 1) if ctx.need_dx else None, {}

        return reshape(y, x.shape), backprop


def standardizer(net: Layer, params: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Mean and scale of the `Standardize` that ``net`` begins with, if it does."""
    while isinstance(net, Sequential) and net.layers:
        net, params = net.layers[0], params.get("0", {})
    return params if isinstance(net, Standardize) else None


def unset(layer: Mapping[str, Any], ops: Backend) -> bool:
    """Whether the mean and scale of a `Standardize`, of one network or of many, are those that it began with."""
    return bool(ops.to_numpy(ops.xp.all(layer["mean"] == 0) & ops.xp.all(layer["scale"] == 1)))


def check_others(net: Layer, params: Mapping[str, Any], ops: Backend) -> None:
    """ValueError for a `Standardize` that has not been set and is not the one that `fit` sets.

    The last layer may be one: it undoes a scaling of targets, perhaps by 1.
    """
    first = standardizer(net, params)
    last = str(len(net.layers) - 1) if isinstance(net, Sequential) else ""

    def walk(layer: Layer, own: Mapping[str, Any], place: str, frozen: bool) -> None:
        if isinstance(layer, Frozen):
            walk(layer.layer, own, place, frozen=True)
        elif isinstance(layer, Sequential):
            for number, inner in enumerate(layer.layers):
                walk(inner, own.get(str(number), {}), f"{place}.{number}" if place else str(number), frozen)
        elif isinstance(layer, Standardize) and own is not first and place != last and unset(own, ops):
            why, remedy = ("frozen", "put it before Frozen") if frozen else ("not the first", "put it first")
            raise ValueError(
                f"layer {place}, Standardize(), is {why}, and nothing sets it: "
                f"{remedy}, or set its mean and scale in model.weights()"
            )

    walk(net, params, "", frozen=False)


def mean_and_scale(data: Dataset, dtype: str, ops: Backend, samples: int | None) -> list[Array]:
    """Mean of each feature and 1 / standard deviation, 1 for a constant feature, in the shape of a sample, for a model on ``ops``.

    ValueError if a feature varies too much or too little for ``dtype``. If float32 rounds most of one away, the log warns.
    """
    precise = ops.generator if ops.generator.has_float64 else get_backend("numpy")
    mean, deviation = moments(data, precise, samples)
    varies, rounded = varying(mean, deviation, precise)
    scale = 1.0 / precise.xp.where(varies, deviation, 1.0)
    new = [ops.asarray(a, dtype) for a in (mean, scale)]
    usable = ops.to_numpy(ops.xp.isfinite(new[1]) & (new[1] > 0))
    if name := _first_feature(~usable, data.columns):
        raise ValueError(f"feature {name} varies too much or too little to be standardized in {dtype}: scale it before")
    if dtype == "float32" and (name := _first_feature(precise.to_numpy(rounded), data.columns)):
        _log.warning("feature %s %s", name, ROUNDED)
    return new


def varying(mean: Array, deviation: Array, ops: Backend) -> tuple[Array, Array]:
    """Which features, or targets, vary at all, going by their moments, and which of those are `ROUNDED`."""
    size, eps = ops.xp.abs(mean), ops.xp.finfo(mean.dtype).eps
    varies = deviation > 8.0 * eps * size  # the mean is rounded, so a constant may come out with a deviation above 0
    gap = 2.0**-23 * size  # between float32 numbers near the mean, or half of that
    return varies, varies & (deviation < 8.0 * gap)


def _first_feature(marked: Any, columns: Columns | None) -> str | None:
    """The first feature that is ``marked``, bools on the host in the shape of a sample, by name or index; None if none is."""
    if not marked.any():
        return None
    first, *rest = (int(index[0]) for index in marked.nonzero())
    return repr(columns.features[first]) if columns else str((first, *rest) if rest else first)


def moments(
    data: Dataset, ops: Backend, samples: int | None = None, *, of_targets: bool = False
) -> tuple[Array, Array]:
    """Mean and standard deviation (divisor n) of each feature, in the shape of a sample, float64, on ``ops``.

    With ``of_targets`` they are those of each column of numeric targets, (o,). Sample weights count: a weight of k is k
    samples. One pass over the first ``samples`` (by default all), in pieces whose moments are combined as in T. F. Chan,
    G. H. Golub, R. J. LeVeque (1979), *Updating formulae and a pairwise algorithm for computing sample variances*.
    """
    if samples is not None and not 0 < (checks.as_int(samples) or 0) <= data.n:
        raise ValueError(f"samples {checks.short_repr(samples)} is out of range: there are {data.n}")
    xp, n = ops.xp, data.n if samples is None else samples
    count: Any = 0
    mean: Array = None
    squares: Array = None
    for rows in split_range(range(n), max(1, _PIECE // prod(data.shape))):
        x, y, weight = data.rows(rows, ops, "float64")
        more, its_mean, its_squares = _moments(xp.reshape(y, (y.shape[0], -1)) if of_targets else x, weight, ops)
        if not more:
            continue
        if mean is None:
            mean, squares = its_mean, its_squares
        else:
            gap = its_mean - mean
            mean = mean + gap * (more / (count + more))
            squares = squares + its_squares + gap * gap * (count * more / (count + more))
        count += more
    if not count:
        raise ValueError(f"all {n} samples have weight 0: give at least one a positive weight")
    return mean, xp.sqrt(squares / count)


def _moments(x: Array, weight: Array | None, ops: Backend) -> tuple[float, Array, Array]:
    """The sum of the weights of a piece, its mean, and the weighted sum of squared distances from that."""
    xp = ops.xp
    total: float = x.shape[0]
    if weight is not None:
        total = float(ops.to_numpy(xp.sum(weight)))
        if not total:
            return 0.0, None, None
        weight = xp.reshape(weight, (-1, *(1 for _ in x.shape[1:])))

    def summed(a: Array) -> Array:
        return xp.sum(a if weight is None else weight * a, axis=0)

    mean = summed(x) / total
    mean = mean + summed(x - mean) / total  # the error of one sum grows with its terms: constants would seem to vary
    return total, mean, summed((x - mean) ** 2)
