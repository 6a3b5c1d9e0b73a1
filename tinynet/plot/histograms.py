"""Histograms of weights and gradients, one per array."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

import numpy as np

from tinynet.data import as_dataset
from tinynet.losses import Loss
from tinynet.matching import check_fit
from tinynet.model import Model
from tinynet.plot.labels import spaced_batch
from tinynet.plot.style import COLOURS, GREY, check_positive, new_figure, style_axes
from tinynet.probe import probe


def weights(model: Model, *, bins: int = 60) -> Any:
    """A histogram of each array of the model's parameters."""
    check_positive(bins=bins)
    parameters = {name: model.ops.to_numpy(a) for name, a in model.weights(model.theta).items()}
    return _histograms("Weights", parameters, bins, COLOURS[0])


def gradients(model: Model, data: Any, *, loss: Loss | None = None, samples: int = 512, bins: int = 60) -> Any:
    """A histogram, for each array of parameters, of the gradient of the loss on ``samples`` samples, spread over the data.

    ``loss`` is by default that of the last fit. The model is not changed.
    """
    check_positive(samples=samples, bins=bins)
    loss = loss or model.loss
    if loss is None:
        raise ValueError("the model has no loss yet: fit it, or give gradients(loss=…)")
    data = as_dataset(data, model.ops, model.columns)
    check_fit(model, data, loss)
    batch = spaced_batch(model, data, samples)
    _, seen = probe(model, batch, loss)
    found = {name: model.ops.to_numpy(g) for one in seen for name, g in (one.gradients or {}).items()}
    return _histograms(f"Gradients, {batch.x.shape[0]:,} samples", found, bins, COLOURS[5])


def _histograms(title: str, arrays: Mapping[str, Any], bins: int, colour: str) -> Any:
    if not arrays:
        raise ValueError("the model has no parameters: there is nothing to draw")
    columns = min(4, len(arrays))
    rows = ceil(len(arrays) / columns)
    figure = new_figure(max(4.6, 2.9 * columns), 0.5 + 2.2 * rows)
    for number, (name, a) in enumerate(arrays.items()):
        axes = figure.add_subplot(rows, columns, number + 1)
        flat = a.astype(np.float64).reshape(-1)
        finite = flat[np.isfinite(flat)]
        if finite.size:
            few = max(10, round(2.0 * finite.size ** (1.0 / 3.0)))  # Rice's rule: more bins would show mere chance
            low, high = float(finite.min()), float(finite.max())
            largest = max(abs(low), abs(high))
            margin = 0.0 if high - low > 1e-9 * largest else 0.5 * (largest or 1.0)  # a width even for a single value
            axes.hist(finite, bins=min(bins, few), range=(low - margin, high + margin), color=colour)
        axes.axvline(0.0, color=GREY, linewidth=0.7)
        lost = f"\n{flat.size - finite.size:,} not finite" if finite.size < flat.size else ""
        rms = float(np.sqrt(np.mean(finite**2))) if finite.size else float("nan")
        style_axes(axes, title=name, grid=False)
        axes.set_title(f"{' × '.join(map(str, a.shape))}, rms {rms:.2g}{lost}", loc="right", fontsize=8, color=GREY)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", nbins=4)
        axes.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4), useMathText=True)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure
