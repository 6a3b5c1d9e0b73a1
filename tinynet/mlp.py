"""Multilayer perceptrons, and the names by which configurations and estimators choose their parts."""

from __future__ import annotations

from collections.abc import Iterable

from tinynet import activations, optim, regularization
from tinynet.dense import Dense, Flatten
from tinynet.layers import Layer
from tinynet.sequential import Sequential
from tinynet.standardize import Standardize

ACTIVATIONS: dict[str, Layer] = {
    "sigmoid": activations.Sigmoid(),
    "tanh": activations.Tanh(),
    "relu": activations.ReLU(),
    "leaky_relu": activations.LeakyReLU(),
    "elu": activations.ELU(),
    "gelu": activations.GELU(),
    "silu": activations.SiLU(),
    "softplus": activations.Softplus(),
}
NORMS: dict[str, Layer] = {"layer": regularization.LayerNorm(), "batch": regularization.BatchNorm()}
OPTIMIZERS: dict[str, type[optim.Optimizer]] = {
    "sgd": optim.SGD,
    "adagrad": optim.Adagrad,
    "rmsprop": optim.RMSprop,
    "adam": optim.Adam,
    "adamw": optim.AdamW,
    "nadam": optim.NAdam,
    "lion": optim.Lion,
}


def mlp(
    hidden: Iterable[int],
    outputs: int,
    *,
    activation: Layer,
    norm: Layer | None = None,
    dropout: float = 0.0,
    standardize: bool = False,
    flatten: bool = False,
) -> Sequential:
    """Dense layers of the widths ``hidden``, then one of ``outputs``.

    Each hidden layer is followed by ``norm``, ``activation`` and the dropout of a fraction in [0, 1);
    ``standardize`` puts a `Standardize` first, and ``flatten`` a `Flatten` before the first dense layer, for images.
    """
    layers: list[Layer] = [*([Standardize()] if standardize else []), *([Flatten()] if flatten else [])]
    for width in hidden:
        layers += [Dense(width), *([norm] if norm else []), activation]
        if dropout:
            layers.append(regularization.Dropout(dropout))
    return Sequential(*layers, Dense(outputs))
