"""`tinynet.sklearn` beside scikit-learn's own MLPs, both with default parameters, on unscaled data."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.clock import elapsed
from benchmarks.comparison import Comparison
from benchmarks.runner import Order, Runner

SETS = {**dict.fromkeys(("digits", "breast_cancer", "wine"), "MLPClassifier"), "diabetes": "MLPRegressor"}
FITS = 5  # with different weights and orders


def fit(samples: str, module: str, backend: str | None = None) -> dict[str, Any]:
    """In the child: seconds of a fit until the estimator stops, and its score on every fourth sample, which is held out."""
    from sklearn import datasets

    x, y = getattr(datasets, f"load_{samples}")(return_X_y=True)
    held = np.arange(len(x)) % 4 == 0
    options = {} if backend is None else {"backend": backend}

    def made(seed: int, **more: Any) -> Any:
        return getattr(import_module(module), SETS[samples])(random_state=seed, **options, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 200 epochs, the default, were not enough
        first = elapsed(lambda: made(0, max_iter=3).fit(x[~held], y[~held]))  # compiles, or finds what was compiled
        estimators = [made(seed) for seed in range(FITS)]
        seconds = elapsed(lambda: [estimator.fit(x[~held], y[~held]) for estimator in estimators]) / FITS
    score = float(np.mean([estimator.score(x[held], y[held]) for estimator in estimators]))
    epochs = float(np.mean([estimator.n_iter_ for estimator in estimators]))
    return {"seconds": seconds, "notes": {"score": score, "epochs": epochs, "first fit, s": first}}


def run(runner: Runner) -> Iterator[Comparison]:
    """Seconds of fit of estimators with default parameters"""
    for samples, kind in SETS.items():
        orders = {
            f"tinynet {backend}": {"module": "tinynet.sklearn", "backend": backend} for backend in ("numpy", "numba")
        } | {"scikit-learn": {"module": "sklearn.neural_network"}}
        names = runner.options.chosen(list(orders))
        target = "benchmarks.sections.estimators:fit"
        yield runner.compare(
            f"{samples}, {kind}", {name: Order(target, {"samples": samples} | orders[name]) for name in names}
        )
