"""Shared by all pictures: colours, sizes, plain axes. matplotlib's global state is not touched."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np

from tinynet import checks

# Okabe, Ito 2008: distinguishable for the colour-blind too
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
GREY = "#606060"


def new_figure(width: float, height: float, *, square: bool = False) -> Any:
    """A Figure of ``width`` times ``height`` inches whose parts do not overlap; ``square``: its axes keep their aspect.

    ImportError without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as e:
        raise ImportError("pictures need matplotlib: install the extra plot") from e
    figure: Any = Figure(figsize=(width, height), dpi=120, layout="compressed" if square else "constrained")
    figure.get_layout_engine().set(w_pad=0.09, h_pad=0.09, wspace=0.03)
    return figure


def axes_or_new(axes: Any, width: float = 5.6, height: float = 4.6, *, square: bool = False) -> Any:
    """``axes``, or those of a new Figure."""
    return new_figure(width, height, square=square).add_subplot() if axes is None else axes


def style_axes(axes: Any, *, title: str = "", x: str = "", y: str = "", grid: bool = True) -> None:
    """Set the title at the left, labels, a faint grid below the data, no box."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(color=GREY, labelsize=9)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(color="#E5E5E5", linewidth=0.8)


def escaped(name: object, most: int = 24) -> str:
    """A name taken literally: a dollar sign begins no formula. Beyond ``most`` characters its middle is left out."""
    text = str(name)
    if len(text) > most:
        text = f"{text[: most // 2]}…{text[len(text) - most + most // 2 + 1 :]}"
    return text.replace("$", r"\$")


def check_positive(**numbers: Any) -> None:
    """ValueError unless each of the named numbers is a positive integer."""
    for name, value in numbers.items():
        checks.positive(name, value)


def check_finite(y: Any) -> Any:
    """Outputs of a model unchanged; ValueError if one is NaN or infinite, which predicts nothing."""
    if not np.isfinite(y).all():
        raise ValueError("the model gives outputs that are NaN or infinite: look at plot.weights(model)")
    return y


def png(figure: Any) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box is drawn instead
        figure.savefig(out, format="png")
    return out.getvalue()
