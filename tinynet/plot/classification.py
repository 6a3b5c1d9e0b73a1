"""The errors of a classifier: the confusion matrix and its calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
from tinynet_backends import get_backend

from tinynet.activations import Sigmoid, Softmax
from tinynet.data import as_dataset
from tinynet.labels import as_labels, boundary, last_layer
from tinynet.losses import BinaryCrossEntropy, CrossEntropy
from tinynet.model import Model
from tinynet.pieces import split_range
from tinynet.plot.labels import class_names, labels
from tinynet.plot.style import COLOURS, GREY, axes_or_new, check_finite, check_positive, escaped, new_figure, style_axes

_PIECE = 65536  # samples at a time
_MOST_COUNTS = 20  # the largest number of classes for which cells show their counts


def confusion_matrix(model: Model, data: Any) -> Any:
    """Counts of true and predicted classes, (k, k) int64: the row is the true class, the column the predicted one.

    This is scikit-learn's ``confusion_matrix``. ValueError for targets that are not labels.
    """
    predicted, true, k = _labels(model, data)
    return np.bincount(true * k + predicted, minlength=k * k).reshape(k, k)


def confusion(model: Model, data: Any, *, names: Any = None, axes: Any = None) -> Any:
    """A picture of the `confusion_matrix`, coloured by the fraction of each true class.

    ``names`` of the classes are by default those of the table that the model was fitted to, else their numbers.
    """
    counts = confusion_matrix(model, data)
    k = len(counts)
    names = class_names(model, k) if names is None else list(map(escaped, names))
    if len(names) != k:
        raise ValueError(f"{len(names)} names do not fit {k} classes: give one each")
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    longest = max(map(len, names))
    rotated = longest > 4
    side = min(max(4.2, 2.0 + 0.55 * k) + 0.07 * longest * rotated, 11.0)
    axes = axes_or_new(axes, side + 0.8, side, square=True)
    image = axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
    if k <= _MOST_COUNTS:
        size = 9 if k <= 10 else 7.5
        for i, j in np.argwhere(counts > 0):
            colour = "white" if share[i, j] > 0.6 else "black"
            part = f"\n{share[i, j]:.1%}" if k <= 10 else ""
            axes.text(j, i, f"{counts[i, j]:,}{part}", ha="center", va="center", color=colour, fontsize=size)
    right = np.trace(counts) / max(counts.sum(), 1)
    style_axes(axes, title=f"Confusion matrix, accuracy {right:.4f}", x="predicted class", y="true class", grid=False)
    ticks = range(0, k, max(1, -(-k // 25)))
    axes.set_xticks(ticks, [names[t] for t in ticks], **({"rotation": 45, "ha": "right"} if rotated else {}))
    axes.set_yticks(ticks, [names[t] for t in ticks])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, format="{x:.0%}")
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    return axes.figure


def calibration_curve(model: Model, data: Any, *, bins: int = 10) -> tuple[Any, Any, Any]:
    """Mean predicted probability, observed frequency and number of samples, for each bin that is not empty: three arrays.

    The probability is that of the predicted class or, with a single output, that of class 1. It is the output of a last
    `Softmax` or `Sigmoid`, else what the model's loss (a cross-entropy if it has none yet) makes of the output: TypeError if
    that is no probability. ``bins`` is the number of bins, which divide [0, 1] evenly, as in scikit-learn's
    ``calibration_curve`` with ``strategy="uniform"``.
    """
    check_positive(bins=bins)
    p, hit = _confidence(model, data)
    edges = np.linspace(0.0, 1.0, bins + 1)
    which = np.searchsorted(edges[1:-1], p)
    count = np.bincount(which, minlength=bins)
    filled = count > 0
    probability, frequency = (np.bincount(which, weights=w, minlength=bins)[filled] / count[filled] for w in (p, hit))
    return probability, frequency, count[filled]


def calibration(model: Model, data: Any, *, bins: int = 10) -> Any:
    """A reliability diagram, and below it the histogram of the predicted probabilities.

    Bars below the diagonal show overconfidence. The title has the expected calibration error, the mean distance from
    the diagonal over the samples (C. Guo et al. 2017, *On calibration of modern neural networks*, eq. 5).
    """
    p, hit, count = calibration_curve(model, data, bins=bins)
    error = float(np.sum(count * np.abs(p - hit)) / count.sum())
    figure = new_figure(5.2, 5.6)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.0, label="perfect")
    top.vlines(p, np.minimum(p, hit), np.maximum(p, hit), color=COLOURS[5], alpha=0.45, linewidth=5, label="gap")
    top.plot(p, hit, color=COLOURS[0], marker="o", markersize=5, linewidth=1.4, label="model")
    binary = model.out_shape[-1] == 1
    fraction = "fraction of class 1" if binary else "fraction that is right"
    style_axes(top, title=f"Calibration, expected error {error:.4f}", y=fraction)
    top.legend(frameon=False, fontsize=9, loc="upper left")
    top.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    edges = np.linspace(0.0, 1.0, bins + 1)
    bottom.bar(edges[np.searchsorted(edges[1:-1], p)], count, width=0.94 / bins, align="edge", color=COLOURS[4])
    style_axes(bottom, x=f"probability of {'class 1' if binary else 'the predicted class'}", y="samples")
    bottom.margins(y=0.1)
    return figure


def _pieces(model: Model, data: Any) -> Any:
    """Outputs (n, o) and labels (n,), piece by piece, on the host."""
    data = as_dataset(data, model.ops, model.columns)
    for rows in split_range(range(data.n), _PIECE):
        batch = data.batch(rows, model.ops, model.dtype)
        yield check_finite(model.ops.to_numpy(model.predict(batch.x))), labels(model.ops.to_numpy(batch.y), model)


def _labels(model: Model, data: Any) -> tuple[Any, Any, int]:
    """Predicted and true labels (n,), and the number of classes."""
    edge = boundary(model.net)
    pieces = [(as_labels(y, np, edge), true) for y, true in _pieces(model, data)]
    predicted, true = (np.concatenate(a).astype(np.int64) for a in zip(*pieces, strict=True))
    return predicted, true, max(2, model.out_shape[-1])


def _confidence(model: Model, data: Any) -> tuple[Any, Any]:
    """Probabilities (n,), and whether their event occurred, as 0 and 1."""
    host, single, p, hit = get_backend("numpy"), model.out_shape[-1] == 1, [], []
    loss = model.loss or (BinaryCrossEntropy() if single else CrossEntropy())
    are_probabilities = isinstance(last_layer(model.net), (Sigmoid, Softmax))
    for y, true in _pieces(model, data):
        y = y.astype(np.float64)
        if not are_probabilities:
            y = loss.probabilities(y, host)
        p.append(y[:, -1] if single else y.max(axis=1))
        hit.append(true == (1 if single else y.argmax(axis=1)))
    return np.concatenate(p), np.concatenate(hit).astype(np.float64)
