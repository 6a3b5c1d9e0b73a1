"""Pictures, with matplotlib (extra ``plot``), drawn without a screen."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from tinynet.data import Dataset
from tinynet.model import Model

# Okabe, Ito 2008: told apart by colour-blind eyes too
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")


def training_png(model: Model, data: Dataset, curve: list[tuple[int, float]], title: str) -> bytes:
    """The loss curve and, for two features and at most eight classes, the decision regions: a PNG.

    ``curve`` is (step, loss); ``data`` gives the points that are drawn over the regions. ImportError without
    matplotlib.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    regions = data.shape == (2,) and data.classes is not None and data.classes <= len(COLOURS)
    figure = Figure(figsize=(11, 4.8) if regions else (6, 4.8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left = figure.add_subplot(1, 2 if regions else 1, 1)
    steps, losses = zip(*curve, strict=True)
    left.plot(steps, losses, color=COLOURS[0], linewidth=1.2)
    left.set(xlabel="step", ylabel="training loss", title="Loss")
    left.grid(alpha=0.3)
    if regions:
        decision_regions(figure.add_subplot(1, 2, 2), model, data)
    figure.suptitle(title)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def decision_regions(axes: Any, model: Model, data: Dataset, *, points: int = 1500, grid: int = 300) -> None:
    """Draw on matplotlib ``axes`` which class the model says where, and ``points`` samples in their true classes."""
    from matplotlib.colors import ListedColormap

    batch = data.batch(range(min(points, data.n)), model.ops, model.dtype)
    x, labels = model.ops.to_numpy(batch.x), model.ops.to_numpy(batch.y)
    low, high = x.min(axis=0), x.max(axis=0)
    margin = 0.05 * (high - low)
    sides = [np.linspace(a, b, grid) for a, b in zip(low - margin, high + margin, strict=True)]
    places = np.stack(np.meshgrid(*sides), axis=-1).reshape(-1, 2)
    said = model.ops.to_numpy(model.predict_labels(places)).reshape(grid, grid)
    colours = ListedColormap(COLOURS[: data.classes])
    span = {"vmin": -0.5, "vmax": (data.classes or 1) - 0.5, "cmap": colours}
    axes.pcolormesh(*sides, said, alpha=0.35, shading="nearest", rasterized=True, linewidth=0, **span)
    axes.scatter(x[:, 0], x[:, 1], c=labels, s=6, linewidths=0, **span)
    axes.set(xlabel="x₁", ylabel="x₂", title="Decision regions")
    axes.set_aspect("equal", adjustable="box")
