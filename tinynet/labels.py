"""The labels that outputs stand for."""

from __future__ import annotations

from typing import Any

from tinynet.activations import Sigmoid
from tinynet.frozen import Frozen
from tinynet.layers import Array, Layer, last_layer


def boundary(net: Layer) -> float:
    """Above which a single output means class 1: 1/2 for the probabilities of a last `Sigmoid`, 0 for logits."""
    last = last_layer(net)
    if isinstance(last, Frozen):
        return boundary(last.layer)
    return 0.5 if isinstance(last, Sigmoid) else 0.0


def as_labels(y: Array, xp: Any, boundary: float = 0.0) -> Array:
    """Labels (n,) int64 of outputs (n, o): the index of the largest or, of one column, whether it exceeds ``boundary``."""
    return xp.astype(y[:, 0] > boundary if y.shape[-1] == 1 else xp.argmax(y, axis=-1), xp.int64)
