"""How close runs with one seed stay on different backends and in different precisions.

``python -m benchmarks.tolerance [BACKEND …]``: weights and losses beside those of NumPy in float64, over a thousand steps
of a 20-64-64-3 network on batches of 256; by default on all backends that can run.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

import tinynet as tn

MARKS = (1, 10, 100, 1000)
HERE = (("numpy", "float32"), ("numba", "float64"), ("numba", "float32"))
DEVICE = (("cupy", "float64"), *((name, "float32") for name in ("cupy", "cupy:bf16x3", "cupy:tf32", "cupy:bf16")))
Array = Any


def run(backend: str, dtype: str, steps: int) -> tuple[list[float], dict[int, Array]]:
    """The loss of every step, and the weights after those of `MARKS`, in float64."""
    net = tn.Sequential(tn.Dense(64), tn.ReLU(), tn.Dense(64), tn.ReLU(), tn.Dense(3))
    model = tn.Model(net, 20, backend=backend, dtype=dtype)
    loader = tn.Loader(tn.data.GaussianQuantiles(10**6, n_features=20), 256)
    losses: list[float] = []
    weights: dict[int, Array] = {}
    for report in tn.train(model, loader, tn.CrossEntropy(), tn.Adam(1e-3), steps=steps):
        losses.append(float(report.loss))
        if report.step in MARKS:
            weights[report.step] = model.ops.to_numpy(model.theta).astype("float64")
    return losses, weights


def lines(runs: Iterable[tuple[str, str]], steps: int = MARKS[-1]) -> Iterator[str]:
    """For each run, at each mark: the relative difference of the weights in norm, and the largest of a loss so far."""
    reference, exact = run("numpy", "float64", steps)
    for backend, dtype in runs:
        try:
            losses, weights = run(backend, dtype, steps)
        except tn.BackendUnavailable:
            continue
        apart = np.abs(np.subtract(losses, reference)) / reference
        marks = [
            f"{step}: {np.linalg.norm(theta - exact[step]) / np.linalg.norm(exact[step]):.1e}, {apart[:step].max():.1e}"
            for step, theta in weights.items()
        ]
        yield f"{backend}, {dtype}: weights and losses after step {'; '.join(marks)}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tolerance", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("backend", nargs="*", help="by default all that can run")
    chosen = [(name, "float32") for name in parser.parse_args(argv).backend]
    for line in lines(chosen or HERE + DEVICE):
        print(line, flush=True)


if __name__ == "__main__":
    main()
