"""`fit_many` beside as many runs of `fit`, one after another: the same networks, batches, epochs and rates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tinynet as tn
from benchmarks.clock import elapsed
from benchmarks.comparison import Comparison
from benchmarks.runner import Order, Runner

NETWORKS, FEATURES, SAMPLES = 64, 20, 2000
# Batch size, and epochs: in a short run much of the time goes to its beginning
RUNS = ((8, 10), (32, 1), (32, 10), (128, 10))
RATE = 1e-3


def _data(ops: tn.Backend) -> tuple[Any, Any]:
    with tn.use_backend(ops):
        x, y, _ = tn.data.Blobs(SAMPLES, n_features=FEATURES, n_classes=2, seed=0)[:]
    return x, y


def _model(ops: tn.Backend, seed: int) -> tn.Model:
    net = tn.Sequential(tn.Dense(64), tn.ReLU(), tn.Dense(64), tn.ReLU(), tn.Dense(2))
    return tn.Model(net, FEATURES, seed=seed, backend=ops)


def together(backend: str, batch: int, epochs: int, rates: bool) -> dict[str, Any]:
    """In the child: seconds of `fit_many`; with ``rates`` each network has a rate of its own."""
    ops = tn.get_backend(backend)
    data, model = _data(ops), _model(ops, 0)
    lr = [RATE * (1 + n / NETWORKS) if rates else RATE for n in range(NETWORKS)]

    def fit(times: int) -> tn.Ensemble:
        return tn.fit_many(model, data, seeds=range(NETWORKS), lr=lr, batch_size=batch, epochs=times)

    first = elapsed(lambda: fit(1))  # compiles, or finds what was compiled
    found: list[tn.Ensemble] = []
    seconds = elapsed(lambda: found.append(fit(epochs)))
    losses = [] if rates else [history[0]["loss"] for history in found[0].histories]
    return {"seconds": seconds, "losses": losses, "notes": {"first run, s": first}}


def one_by_one(backend: str, batch: int, epochs: int) -> dict[str, Any]:
    """In the child: seconds of as many models, each made and fitted."""
    ops = tn.get_backend(backend)
    data = _data(ops)

    def fit(seed: int, times: int) -> float:
        model = _model(ops, seed)
        loss: float = model.fit(data, optimizer=tn.Adam(RATE), batch_size=batch, epochs=times)[0]["loss"]
        return loss

    first = elapsed(lambda: fit(0, 1))
    losses: list[float] = []
    seconds = elapsed(lambda: losses.extend(fit(seed, epochs) for seed in range(NETWORKS)))
    return {"seconds": seconds, "losses": losses, "notes": {"first run, s": first}}


def run(runner: Runner) -> Iterator[Comparison]:
    """Seconds of 64 networks 20-64-64-2, as one and one after another"""
    here = "benchmarks.sections.many:"
    for batch, epochs in RUNS:
        orders = {}
        for backend in ("numpy", "numba"):
            where = {"backend": backend, "batch": batch, "epochs": epochs}
            orders[f"tinynet {backend}"] = Order(here + "one_by_one", where)
            orders[f"tinynet {backend} many"] = Order(here + "together", where | {"rates": False})
            orders[f"tinynet {backend} rates"] = Order(here + "together", where | {"rates": True})
        names = runner.options.chosen(list(orders))
        found = runner.compare(
            f"batch {batch}, {epochs} epoch{'s' * (epochs > 1)}", {name: orders[name] for name in names}
        )
        for name in list(found.times):
            single = " ".join(name.split()[:2])
            if name != single and single in found.times:
                found.notes[name]["times faster"] = found.ratio(single, name)
        yield found
