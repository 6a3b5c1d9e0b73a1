"""What all pictures share: colours, sizes, quiet axes. Nothing of matplotlib's global state is touched."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np

from tinynet import checks

# Okabe, Ito 2008: told apart by colour-blind eyes too
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
GREY = "#606060"


def figure(width: float, height: float, *, square: bool = False) -> Any:
    """A Figure of so many inches whose parts keep out of each other's way; ``square``: its axes have an aspect to keep.

    ImportError without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as e:
        raise ImportError("pictures need matplotlib: install the extra plot") from e
    sheet: Any = Figure(figsize=(width, height), dpi=120, layout="compressed" if square else "constrained")
    sheet.get_layout_engine().set(w_pad=0.09, h_pad=0.09, wspace=0.03)
    return sheet


def place(axes: Any, width: float = 5.6, height: float = 4.6, *, square: bool = False) -> Any:
    """``axes``, or those of a new Figure."""
    return figure(width, height, square=square).add_subplot() if axes is None else axes


def dress(axes: Any, *, title: str = "", x: str = "", y: str = "", grid: bool = True) -> None:
    """Title at the left, labels, a faint grid below the data, no box."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(color=GREY, labelsize=9)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(color="#E5E5E5", linewidth=0.8)


def plain(name: object) -> str:
    """A name as it is written: a dollar begins no formula."""
    return str(name).replace("$", r"\$")


def positive(**numbers: Any) -> None:
    """ValueError unless each of the named numbers is a positive whole one."""
    for name, value in numbers.items():
        if (checks.whole(value) or 0) < 1:
            raise ValueError(f"{name} {checks.shown(value)} is not a positive whole number")


def finite(y: Any) -> Any:
    """Outputs of a model as they are; ValueError if one is NaN or infinite: what is said then is nothing."""
    if not np.isfinite(y).all():
        raise ValueError("the model gives outputs that are NaN or infinite: look at plot.weights(model)")
    return y


def png(figure: Any) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box stands for it
        figure.savefig(out, format="png")
    return out.getvalue()
