"""``fit`` beside that of scikit-learn's MLPClassifier: the same layers, batches, epochs and optimizer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

import tinynet as tn
from benchmarks.clock import elapsed
from benchmarks.comparison import Comparison
from benchmarks.learners import RATE, perceptron
from benchmarks.runner import Order, Runner
from benchmarks.samples import SAMPLES, Split

HIDDEN, BATCH = 100, 200
EPOCHS = {"digits": 20, "million": 1}


def ours(samples: str, backend: str) -> dict[str, Any]:
    x, y, x_held, _ = split = SAMPLES[samples]()
    net = tn.Sequential(tn.Dense(HIDDEN), tn.ReLU(), tn.Dense(int(y.max()) + 1))

    def fit(x: Any, y: Any, epochs: int) -> tn.Model:
        model = tn.Model(net, x.shape[1], backend=backend)
        model.fit((x, y), optimizer=tn.Adam(RATE), batch_size=BATCH, epochs=epochs, shuffle=True)
        return model

    first = elapsed(lambda: fit(x[: 2 * BATCH], y[: 2 * BATCH], 1))  # compiles, or finds what was compiled
    models = []
    seconds = elapsed(lambda: models.append(fit(x, y, EPOCHS[samples])))
    return _result(seconds, first, models[0].ops.to_numpy(models[0].predict_labels(x_held)), split)


def theirs(samples: str) -> dict[str, Any]:
    x, y, x_held, _ = split = SAMPLES[samples]()

    def fit(x: Any, y: Any, epochs: int) -> Any:
        return perceptron((HIDDEN,), BATCH, max_iter=epochs, n_iter_no_change=epochs + 1).fit(x, y)

    nets = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has not converged, and was not meant to
        first = elapsed(lambda: fit(x[: 2 * BATCH], y[: 2 * BATCH], 1))  # as for ours
        seconds = elapsed(lambda: nets.append(fit(x, y, EPOCHS[samples])))
    return _result(seconds, first, nets[0].predict(x_held), split)


def _result(seconds: float, first: float, labels: Any, split: Split) -> dict[str, Any]:
    return {"seconds": seconds, "notes": {"accuracy": float(np.mean(labels == split[3])), "first fit, s": first}}


def run(runner: Runner) -> Iterator[Comparison]:
    """Seconds of fit beside scikit-learn's MLPClassifier"""
    here = "benchmarks.sections.classifier:"
    for samples, epochs in EPOCHS.items():
        orders = {
            f"tinynet {backend}": Order(here + "ours", {"samples": samples, "backend": backend})
            for backend in ("numpy", "numba")
        } | {"scikit-learn": Order(here + "theirs", {"samples": samples})}
        names = runner.options.chosen(list(orders))
        yield runner.compare(f"{samples}, {epochs} epochs", {name: orders[name] for name in names})
