"""Arrays to learn from, float32 features and labels: (x, y) to train on and (x, y) held out."""

from __future__ import annotations

import numpy as np

import tinynet as tn

Array = np.ndarray
Split = tuple[Array, Array, Array, Array]


def digits() -> Split:
    """scikit-learn's 1797 images of 8 × 8; every fourth is held out."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, held = (x / 16.0).astype("float32"), np.arange(len(x)) % 4 == 0
    return x[~held], y[~held], x[held], y[held]


def _drawn(data: tn.Dataset, held_out: int) -> Split:
    """The last ``held_out`` samples of a virtual set are held out."""
    x, y, _ = data.batch(range(data.n), tn.get_backend("numpy"), "float32")
    return x[:-held_out], y[:-held_out], x[-held_out:], y[-held_out:]


def spirals() -> Split:
    return _drawn(tn.data.Spirals(25_000), 5_000)


def million() -> Split:
    """A million samples of 20 features: three shells around the origin."""
    return _drawn(tn.data.GaussianQuantiles(1_050_000, n_features=20, n_classes=3), 50_000)


SAMPLES = {"digits": digits, "spirals": spirals, "million": million}
