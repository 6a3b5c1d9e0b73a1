"""Pictures with matplotlib (extra ``plot``): each function returns a Figure, drawn without a screen.

``figure.savefig("file.png")`` writes it. If ``axes`` is given, the picture is drawn there instead of in a new Figure.
"""

from tinynet.plot.classification import calibration, calibration_curve, confusion, confusion_matrix
from tinynet.plot.curves import history, rates
from tinynet.plot.histograms import gradients, weights
from tinynet.plot.regions import decision_regions
from tinynet.plot.run import training_png

__all__ = [
    "calibration",
    "calibration_curve",
    "confusion",
    "confusion_matrix",
    "decision_regions",
    "gradients",
    "history",
    "rates",
    "training_png",
    "weights",
]
