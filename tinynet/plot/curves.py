"""Curves: the course of training, and the loss over the learning rate."""

from __future__ import annotations

from math import isfinite
from typing import Any

from tinynet.history import History
from tinynet.plot.style import COLOURS, GREY, axes_or_new, new_figure, style_axes
from tinynet.rates import RateTest

_WIDE = 30.0  # ratio of the largest to the smallest loss above which the scale is logarithmic


def history(history: History) -> Any:
    """The training and validation losses of a run over its steps, and beside them each metric of the validation data.

    A dotted line marks the best epoch, if the run kept its weights. ValueError for a history without a loss.
    """
    names = [name for name in history.names if name.startswith("val_") and name != "val_loss"]
    panels = 1 + len(names)
    figure = new_figure(max(5.6, 4.6 * panels), 3.9)
    left = figure.add_subplot(1, panels, 1)
    losses(history, left)
    for number, name in enumerate(names):
        axes = figure.add_subplot(1, panels, 2 + number, sharex=left)
        _epochs(axes, history["step"], history[name], COLOURS[2], "")
        title = name.removeprefix("val_").replace("_", " ")
        style_axes(axes, title=f"Validation {title}", x="step", y=title)
        _steps(axes, history)
    return figure


def losses(history: History, axes: Any) -> None:
    """Draw the training loss of a run over its steps, and its validation loss, if there is one."""
    if not history.curve and not history.rows:
        raise ValueError("the history is empty: train before you plot it")
    if history.curve:
        x, values = map(list, zip(*history.curve, strict=True))
        alone = "o" if len(x) == 1 else ""  # a line of one point is invisible
        axes.plot(x, values, color=COLOURS[0], linewidth=1.1, marker=alone, label="training")
    else:
        x, values = history["step"], history["loss"]
        axes.plot(x, values, color=COLOURS[0], marker="o", markersize=3.5, label="training, mean of an epoch")
    if "val_loss" in history.names:
        _epochs(axes, history["step"], history["val_loss"], COLOURS[5], "validation")
        values = [*values, *history["val_loss"]]
    style_axes(axes, title="Loss", x="step", y="loss")
    finite = [value for value in values if isfinite(value)] or [0.0]
    if min(finite) > 0 and max(finite) > _WIDE * min(finite):
        axes.set_yscale("log")
    _steps(axes, history)
    axes.legend(frameon=False, fontsize=9)


def _steps(axes: Any, history: History) -> None:
    """Dress the axis of steps, and mark the best epoch."""
    if history.best_epoch:
        best = next(row["step"] for row in history.rows if row["epoch"] == history.best_epoch)
        axes.axvline(best, color=GREY, linestyle=":", linewidth=1.2, label=f"best: epoch {history.best_epoch}")
    axes.locator_params(axis="x", nbins=6, integer=True, min_n_ticks=1)
    axes.xaxis.set_major_formatter(_thousands)


def _epochs(axes: Any, steps: Any, values: Any, colour: str, label: str) -> None:
    size = 4.5 if len(steps) <= 40 else 0.0
    axes.plot(steps, values, color=colour, linewidth=1.6, marker="o", markersize=size, label=label)


def _thousands(value: float, position: int) -> str:
    """A short form of an integer: 1500 is 1.5k, 5000000 is 5M."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def rates(test: RateTest, *, axes: Any = None) -> Any:
    """The loss over the learning rate, measured and smoothed, and the suggested learning rate."""
    axes = axes_or_new(axes)
    axes.plot(test.rates, test.losses, color=COLOURS[4], linewidth=1.0, alpha=0.8, label="loss of a step")
    axes.plot(test.rates, test.smoothed, color=COLOURS[0], linewidth=2.0, label="smoothed")
    style_axes(axes, title="Learning-rate range test", x="learning rate", y="loss")
    axes.set_xscale("log")
    if test.suggestion is not None:  # limit y, or the final divergence would flatten the rest of the curve
        least = min(test.smoothed)
        most = max(test.smoothed[: test.smoothed.index(least)])
        axes.set_ylim(least - 0.3 * (most - least), most + 0.8 * (most - least))
        axes.axvline(
            test.suggestion, color=COLOURS[5], linestyle="--", linewidth=1.4, label=f"suggested: {test.suggestion:.2g}"
        )
    axes.legend(frameon=False, fontsize=9)
    return axes.figure
