"""The picture of a run of the command."""

from __future__ import annotations

from tinynet.data import Dataset
from tinynet.history import History
from tinynet.model import Model
from tinynet.plot.curves import history as draw
from tinynet.plot.curves import losses
from tinynet.plot.regions import decision_regions
from tinynet.plot.style import COLOURS, escaped, new_figure, png


def training_png(model: Model, data: Dataset, history: History, title: str) -> bytes:
    """The losses of a run and, for two features and at most eight classes, the decision regions, else the metrics: a PNG.

    ``data`` are the points drawn over the regions. ImportError without matplotlib.
    """
    if tuple(data.shape) == (2,) and data.classes is not None and data.classes <= len(COLOURS):
        figure = new_figure(11, 4.8)
        losses(history, figure.add_subplot(1, 2, 1))
        decision_regions(model, data, axes=figure.add_subplot(1, 2, 2))
    else:
        figure = draw(history)
    figure.suptitle(escaped(title, 60))
    return png(figure)
