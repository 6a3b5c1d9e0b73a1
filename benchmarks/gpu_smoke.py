"""Whether every kind of kernel launches on a device, and agrees with NumPy there: what to know first of a new device.

The part ``smoke`` of `benchmarks.gpu_report` runs these checks one by one, in a new process after one that failed: after a kernel
that reads a wrong address, its process can no longer use the device. ``python -m benchmarks.gpu_smoke [CHECK …]`` runs some or all.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from tinynet_backends import overrides
from tinynet_backends.backend import DenseLayer

import tinynet as tn
from benchmarks.gpu_report import PRECISIONS, Wrong, backend, error, held, layers_of, same_bits
from benchmarks.tasks import Task
from tinynet import verify

FUSED = Task((20, 64, 64, 2), 1001)  # layers that fit into a block
TAIL = Task((100, 300, 300, 10), 200)  # layers of which only the last do
ONE_BLOCK = Task((5, 8, 3), 8)  # a step of one launch
STEPS = 6
SMALL = tn.Sequential(tn.Dense(16), tn.ReLU(), tn.Dropout(0.2), tn.Dense(12), tn.Tanh(), tn.Dense(3))
WIDE = tn.Sequential(tn.Dense(512), tn.ReLU(), tn.Dense(512), tn.ReLU(), tn.Dense(3))  # whose layers are products


def checks() -> dict[str, Callable[[], str]]:
    """All checks by name. Each returns what it found, or raises."""
    ops = backend("float32")
    found: dict[str, Callable[[], str]] = {}
    for precision, limit in PRECISIONS.items():
        try:
            one = backend(precision)
        except tn.BackendUnavailable as e:
            found[f"{precision}, left out"] = partial(str, e)
            continue
        for task in (FUSED, TAIL):
            found[f"{precision}, layers {task.label}"] = partial(every_way, one, task, "float32", allowed(limit))
        found[f"{precision}, captured"] = partial(same_bits, one, FUSED, STEPS)
        found[f"{precision}, a step in one launch"] = partial(one_launch, one)
    for task in (FUSED, TAIL):
        found[f"float64, layers {task.label}"] = partial(every_way, ops, task, "float64", 1e-11)
    found["steps in one launch"] = partial(together, ops, SMALL, 5, 32)
    found["networks as one"] = partial(networks, ops)
    if "bf16, captured" in found:
        found["bf16, weights rounded by their update"] = partial(together, backend("bf16"), WIDE, 64, 128)
    return found | {name: partial(operation, ops, name) for name in overrides(ops)}


def allowed(limit: float) -> float:
    """How far layers may be off, from the error of a product: where rounding changes a sign, ReLU's gradient is another.

    That happens to a share of the gradients that is of the error's size, and the norm of so many is its square root.
    """
    return 10 * limit if limit < 1e-4 else limit**0.5


def names() -> list[str]:
    return [*checks()]


def check(name: str) -> str:
    """What the check of this name finds, and what the library logs meanwhile: a fallback, for instance."""
    log, said = logging.getLogger("tinynet"), _Messages()
    level = log.level
    log.addHandler(said)
    log.setLevel(logging.INFO)
    try:
        return "; ".join([checks()[name](), *said.messages])
    finally:
        log.setLevel(level)
        log.removeHandler(said)


class _Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def every_way(ops: Any, task: Task, dtype: str, limit: float) -> str:
    """A task's layers, forward and back, by every strategy that there is, against products in float64 on the host."""
    from tinynet_backends.cuda import fused, strategies

    found, failed = [], 0
    with ops.active():
        layers, x = layers_of(ops, task, dtype)
        dy = ops.asarray(np.random.default_rng(1).standard_normal((task.batch, task.widths[-1])), dtype)
        exact = [
            DenseLayer(*(None if a is None else _exact(ops, a) for a in (w, b)), f, df)  # type: ignore[arg-type]
            for w, b, f, df in layers
        ]
        wanted = _ran(strategies.OneByOne(tn.get_backend("numpy"), exact, True), _exact(ops, x), _exact(ops, dy))
        work = fused.Work.of(x, layers, ops._products.precision, True)
        for strategy in strategies._candidates(ops, work, x, layers):  # type: ignore[arg-type]
            try:
                with ops.outside_step():
                    got = _ran(strategy.of(ops, work, x, layers), x, dy)  # type: ignore[arg-type]
                worst = max(error(_exact(ops, a), b) for a, b in zip(got, wanted, strict=True))
                found.append(held(f"{tuple(strategy)}", worst, limit))
            except (RuntimeError, Wrong) as e:
                failed += 1
                found.append(f"FAILED {tuple(strategy)}: {e}")
    if failed:
        raise Wrong("; ".join(found))
    return "; ".join(found)


def _exact(ops: Any, a: Any) -> Any:
    return ops.to_numpy(a).astype("float64")


def _ran(run: Any, x: Any, dy: Any) -> list[Any]:
    """The output and all gradients."""
    y = run.forward(x)
    if y is None:
        raise RuntimeError("cublasLt has no algorithm for one of the layers")
    if hasattr(run.ops, "add_up"):
        dx, gradients = run.backward(dy)
    else:
        dx, gradients = run.back(dy, [])
    return [y, dx, *(a for pair in gradients for a in pair if a is not None)]


def one_launch(ops: Any) -> str:
    """A training of a network so small that the launches of a step are joined."""
    kernels, run = [], ops._run

    def listen(source: Any, kernel: str, *args: Any, **options: Any) -> None:
        kernels.append(kernel)
        run(source, kernel, *args, **options)

    ops._run = listen
    try:
        found = same_bits(ops, ONE_BLOCK, STEPS)
    finally:
        del ops._run
    if "joined" not in kernels:
        raise Wrong(f"launches are not joined: {', '.join(dict.fromkeys(kernels))}")
    return found


def together(ops: Any, net: tn.Sequential, features: int, batch: int) -> str:
    """A training with steps launched together, and one by one, on batches made on the device."""
    found = []
    for several in (False, True):
        model = tn.Model(net, features, backend=ops, seed=2)
        loader = tn.Loader(tn.data.Blobs(10_000, n_features=features, n_classes=3, seed=1), batch)
        reports = [*tn.train(model, loader, tn.CrossEntropy(), tn.NAdam(), steps=40, clip=1.0, together=several)]
        found.append((ops.to_numpy(model.theta).tobytes(), [a for report in reports for a in report.recent]))
    if found[0] != found[1]:
        raise Wrong("weights or losses differ from those of single steps")
    if not np.isfinite(found[0][1]).all():
        raise Wrong("losses are not finite")
    return "the bits of single steps"


def networks(ops: Any) -> str:
    """Two networks trained as one, beside each by itself."""
    rates, options = [0.01, 0.001], {"batch_size": 32, "clip": 0.5, "optimizer": tn.NAdam()}
    data, model = tn.data.Blobs(2000, n_features=5, n_classes=3, seed=1), tn.Model(SMALL, 5, backend=ops, seed=2)
    both, worst = ops.to_numpy(tn.fit_many(model, data, lr=rates, **options).theta), 0.0
    for rate, theta in zip(rates, both, strict=True):
        alone = tn.Model(SMALL, 5, backend=ops, seed=2)
        alone.fit(data, **options | {"optimizer": tn.NAdam(rate)})
        worst = max(worst, error(theta, ops.to_numpy(alone.theta)))
    return held("weights", worst, 1e-3)


def operation(ops: Any, name: str) -> str:
    """One operation that the backend replaces, against the portable one."""
    if failures := [*verify._replacements(ops, name)]:
        raise Wrong("; ".join(failures))
    return "as the portable operation"


def main(chosen: list[str]) -> None:
    for name in chosen or names():
        print(f"{name}: {check(name)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
