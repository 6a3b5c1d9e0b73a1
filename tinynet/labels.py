"""The labels that outputs stand for."""

from __future__ import annotations

from typing import Any

from tinynet.activations import Sigmoid
from tinynet.frozen import Frozen
from tinynet.layers import Array, Layer
from tinynet.sequential import Sequential


def last_layer(net: Layer) -> Layer:
    """The layer whose output is that of ``net``."""
    if isinstance(net, Frozen):
        return last_layer(net.layer)
    # a Residual adds its input
    if isinstance(net, Sequential) and net.layers and type(net).forward is Sequential.forward:
        return last_layer(net.layers[-1])
    return net


def boundary(net: Layer) -> float:
    """Above which a single output means class 1: 1/2 for the probabilities of a last `Sigmoid`, 0 for logits."""
    return 0.5 if isinstance(last_layer(net), Sigmoid) else 0.0


def as_labels(y: Array, xp: Any, boundary: float) -> Array:
    """Labels (n,) int64 of outputs (n, o): the index of the largest or, of one column, whether it exceeds ``boundary``."""
    return xp.astype(y[:, 0] > boundary if y.shape[-1] == 1 else xp.argmax(y, axis=-1), xp.int64)
