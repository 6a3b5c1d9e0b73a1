"""The decision regions of a classifier of two features."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinynet.data import as_dataset
from tinynet.labels import as_labels, boundary
from tinynet.model import Model
from tinynet.plot.labels import class_names, labels, spaced_batch
from tinynet.plot.style import COLOURS, axes_or_new, check_finite, check_positive, escaped, style_axes


def decision_regions(model: Model, data: Any, *, axes: Any = None, points: int = 1500, grid: int = 300) -> Any:
    """The predicted class at each point of the plane, and up to ``points`` samples of ``data`` in the colours of their classes.

    The model predicts on a grid of ``grid`` times ``grid`` points. ValueError unless samples have two features and there are
    at most eight classes.
    """
    check_positive(points=points, grid=grid)
    data = as_dataset(data, model.ops, model.columns)
    k = max(2, data.classes or 0, model.out_shape[-1])
    if tuple(data.shape) != (2,) or k > len(COLOURS):
        raise ValueError(
            f"decision regions are a picture of two features and at most {len(COLOURS)} classes: "
            f"these samples have shape {tuple(data.shape)} and {k} classes"
        )
    batch = spaced_batch(model, data, points)
    x, true = model.ops.to_numpy(batch.x), labels(model.ops.to_numpy(batch.y), model)
    sides = [np.linspace(a, b, grid) for a, b in _bounds(x)]
    plane = np.stack(np.meshgrid(*sides), axis=-1).reshape(-1, 2)
    y = check_finite(model.ops.to_numpy(model.predict(plane)))
    predicted = as_labels(y, np, boundary(model.net)).reshape(grid, grid)
    names = class_names(model, k)
    features = list(map(escaped, model.columns.features)) if model.columns else ["x₁", "x₂"]

    from matplotlib.colors import ListedColormap

    axes = axes_or_new(axes, square=True)
    span = {"vmin": -0.5, "vmax": k - 0.5, "cmap": ListedColormap(COLOURS[:k])}
    axes.pcolormesh(*sides, predicted, alpha=0.25, shading="nearest", rasterized=True, linewidth=0, **span)
    if predicted.min() < predicted.max():
        for c in np.unique(predicted):  # between all pairs of classes, not only neighbouring labels
            axes.contour(*sides, predicted == c, levels=[0.5], colors="white", linewidths=0.9)
    for c in range(k):
        own = true == c
        axes.scatter(x[own, 0], x[own, 1], color=COLOURS[c], s=9, linewidths=0, label=names[c])
    style_axes(axes, title="Decision regions", x=features[0], y=features[1], grid=False)
    spans = [side[-1] - side[0] for side in sides]
    if max(spans) < 4 * min(spans):  # otherwise the picture would be a sliver
        axes.set_aspect("equal", adjustable="box")
    axes.locator_params(nbins=6)
    axes.legend(title="class", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9, markerscale=2)
    return axes.figure


def _bounds(x: Any) -> list[tuple[float, float]]:
    low, high = x.min(axis=0), x.max(axis=0)
    margin = np.where(high > low, 0.05 * (high - low), np.maximum(np.abs(low), 1.0))  # a width even for a single point
    return list(zip(low - margin, high + margin, strict=True))
