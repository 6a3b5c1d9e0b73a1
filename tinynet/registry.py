"""Layers, initializers, losses and metrics as plain data and back, by a fixed table: no name in a file is ever imported."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from tinynet import (
    activations,
    checks,
    dense,
    frozen,
    initializers,
    losses,
    metrics,
    regularization,
    sequential,
    standardize,
)
from tinynet.layers import Layer

_KINDS: tuple[type, ...] = (
    dense.Dense, dense.Flatten, sequential.Sequential, sequential.Residual,
    activations.Identity, activations.Sigmoid, activations.Tanh, activations.ReLU, activations.LeakyReLU,
    activations.ELU, activations.GELU, activations.SiLU, activations.Softplus, activations.Softmax,
    regularization.Dropout, regularization.LayerNorm, regularization.BatchNorm, standardize.Standardize, frozen.Frozen,
    initializers.Constant, initializers.Uniform, initializers.GlorotNormal, initializers.GlorotUniform,
    initializers.HeNormal, initializers.HeUniform, initializers.LeCunNormal, initializers.LeCunUniform,
    initializers.Orthogonal,
    losses.SumSquaredError, losses.MeanSquaredError, losses.MeanAbsoluteError, losses.Huber, losses.Quantile,
    losses.Poisson, losses.Hinge, losses.BinaryCrossEntropy, losses.CrossEntropy,
    *map(type, metrics.METRICS.values()),
)  # fmt: skip
# Add layers, initializers, losses and metrics of your own here, before a model with them is saved or loaded: frozen
# dataclasses, or a `Sequential` that is made by (*layers, name=value, …).
TABLE: dict[str, type] = {kind.__name__: kind for kind in _KINDS}
DEEPEST = 32


def describe(thing: Any) -> Any:
    """``thing`` as JSON data: ``{"kind": "Dense", "width": 64, …}``; numbers, strings and None as they are.

    TypeError for anything that `rebuild` would not take back.
    """
    data = _described(thing, 0)
    try:
        rebuild(data)
    except ValueError as e:
        raise TypeError(
            f"cannot be saved, because it could not be made again: {e}: let its constructor take what the layer has, inner "
            "layers one by one and all else by name"
        ) from None
    return data


def _described(thing: Any, depth: int) -> Any:
    if depth > DEEPEST:
        raise TypeError(f"layers nested so deep cannot be saved: {DEEPEST // 2} of them may be inside one another")
    if isinstance(thing, sequential.Sequential):
        return {"kind": _kind(thing), **{name: _described(value, depth + 1) for name, value in vars(thing).items()}}
    if is_dataclass(thing):
        return {"kind": _kind(thing), **{f.name: _described(getattr(thing, f.name), depth + 1) for f in fields(thing)}}
    if isinstance(thing, (list, tuple)):
        return [_described(part, depth + 1) for part in thing]
    if thing is None or isinstance(thing, (bool, int, float, str)):
        return thing
    remedy = (
        "make its class a frozen dataclass"
        if isinstance(thing, (Layer, losses.Loss))
        else "hyperparameters are Python's numbers, text, layers, or lists of these"
    )
    raise TypeError(f"{checks.short_repr(thing)} cannot be saved: {remedy}")


def _kind(thing: Any) -> str:
    name = type(thing).__name__
    known = TABLE.get(name)
    if known is type(thing):
        return name
    if known is not None:  # a cell that was run twice makes another class
        raise TypeError(
            f"the table of layers and losses has another {name} than this, which cannot be saved: if the class was defined "
            f"again, set tinynet.registry.TABLE[{name!r}] to the type of this one; else rename it"
        )
    raise TypeError(
        f"{name} is not in the table of layers and losses and cannot be saved: tinynet.registry.TABLE[{name!r}] = {name} "
        "adds it"
    )


class NotInTable(ValueError):
    """A name that may be that of a layer or loss of the user's own."""


def rebuild(data: Any, depth: int = 0) -> Any:
    """The inverse of `describe`; ValueError for anything that it does not write, NotInTable for a name that `TABLE` lacks."""
    if depth > DEEPEST:
        raise ValueError(f"layers nest deeper than {DEEPEST}")
    if isinstance(data, list):
        return tuple(rebuild(part, depth + 1) for part in data)
    if not isinstance(data, dict):
        return data
    values = dict(data)
    name = values.pop("kind", None)
    kind = TABLE.get(name) if isinstance(name, str) else None
    if kind is None and isinstance(name, str) and name.isidentifier():
        raise NotInTable(
            f"{name} is not in the table of layers and losses: if it is your own, tinynet.registry.TABLE[{name!r}] = {name} "
            "adds it"
        )
    if kind is None:
        raise ValueError(f"unknown kind {name!r}")
    values = {key: rebuild(value, depth + 1) for key, value in values.items()}
    try:
        if issubclass(kind, sequential.Sequential):
            return kind(*values.pop("layers"), **values)
        return kind(**values)
    except (TypeError, KeyError) as e:
        raise ValueError(f"{name}: {e}") from None
