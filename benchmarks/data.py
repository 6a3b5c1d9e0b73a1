"""What data cost: making a virtual set, a loader around a training step, and memory. ``python -m benchmarks data``.

Contenders take turns in one process, so that a busy machine is busy for both; ratios are medians of paired rounds. No
peer is needed for our own figures; ratios want scikit-learn and PyTorch.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import tinynet as tn
from benchmarks.clock import elapsed

D = tn.data
N, FEATURES, BATCH = 10**6, 20, 4096
BACKENDS = ["numpy", *(["numba"] if importlib.util.find_spec("numba") else [])]

# our set, and the namesake's function and arguments; those without n_features have a fixed number
NAMESAKES: dict[str, tuple[tn.Dataset, dict[str, object]]] = {
    "make_blobs": (D.Blobs(N, n_features=FEATURES), {"n_features": FEATURES, "centers": 3}),
    "make_gaussian_quantiles": (D.GaussianQuantiles(N, n_features=FEATURES), {"n_features": FEATURES, "n_classes": 3}),
    "make_regression": (
        D.Linear(N, n_features=FEATURES, n_informative=10), {"n_features": FEATURES, "n_informative": 10}),
    "make_friedman1": (D.Friedman1(N, n_features=FEATURES), {"n_features": FEATURES}),
    "make_sparse_uncorrelated": (D.SparseUncorrelated(N, n_features=FEATURES), {"n_features": FEATURES}),
    "make_moons": (D.Moons(N, noise=0.1), {"noise": 0.1}),
    "make_circles": (D.Circles(N, noise=0.1), {"noise": 0.1}),
    "make_friedman2": (D.Friedman2(N), {}),
    "make_friedman3": (D.Friedman3(N), {}),
}  # fmt: skip


def generators(rounds: int = 5) -> None:
    """Throughput of each virtual set, beside scikit-learn's generator of the same name."""
    theirs = importlib.import_module("sklearn.datasets") if importlib.util.find_spec("sklearn") else None
    print(f"\n{N:,} samples of {FEATURES} features (or as many as the set has), float32; seconds, best of {rounds}")
    print("ratio: scikit-learn's seconds / ours, median of rounds")
    print(f"{'set':<22}{'scikit-learn':>14}" + "".join(f"{name:>10}{'ratio':>7}" for name in BACKENDS))
    for name, (data, options) in NAMESAKES.items():

        def peer(name: str = name, options: dict[str, object] = options) -> object:
            return getattr(theirs, name)(n_samples=N, random_state=0, **options)

        other: list[float] = []

        def between(other: list[float] = other, peer: Callable[[], object] = peer) -> None:
            if theirs:
                other.append(elapsed(peer))

        mine = made(data, rounds, between)
        text = f"{min(other):>14.3f}" if other else f"{'':>14}"
        for seconds in mine:
            ratios = [b / a for a, b in zip(seconds, other, strict=False)]
            text += f"{min(seconds):>10.3f}" + (f"{statistics.median(ratios):>7.1f}" if other else f"{'':>7}")
        print(f"{name.removeprefix('make_'):<22}{text}", flush=True)
    rest = [kind for kind in D.DATASETS.values() if kind not in {type(d) for d, _ in NAMESAKES.values()}]
    for kind in rest:
        some = kind(N // 10)
        text = "".join(f"{10 * min(seconds):>10.3f}{'':>7}" for seconds in made(some, rounds, lambda: None))
        print(f"{kind.__name__.lower():<22}{'no namesake':>14}{text}  ({some.shape[0]} features)", flush=True)


def made(data: tn.Dataset, rounds: int, between: Callable[[], object]) -> list[list[float]]:
    """For each backend the seconds of making all of a set, in rounds, with ``between`` called in each."""
    found: list[list[float]] = [[] for _ in BACKENDS]
    for name in BACKENDS:
        data.batch(range(min(data.n, 1000)), tn.get_backend(name), "float32")  # compiled, if it has to be
    for _ in range(rounds):
        for name, seconds in zip(BACKENDS, found, strict=True):
            ops = tn.get_backend(name)
            seconds.append(elapsed(lambda ops=ops: data.batch(range(data.n), ops, "float32")))  # type: ignore[misc]
        between()
    return found


class Fixed:
    """A loader that hands out one batch again and again."""

    def __init__(self, loader: tn.Loader) -> None:
        self.data, self.batch_size, self.steps_per_epoch = loader.data, loader.batch_size, 2**40
        self.one = loader.batch(0, tn.get_backend(), "float32")

    def batch(self, step: int, ops: tn.Backend, dtype: str) -> D.Batch:
        return self.one


def steps(loader: object, features: int) -> Iterator[tn.Report]:
    net = tn.Sequential(tn.Dense(64), tn.ReLU(), tn.Dense(64), tn.ReLU(), tn.Dense(3))
    return tn.train(tn.Model(net, features), loader, tn.CrossEntropy(), tn.Adam(1e-3), steps=2**40)  # type: ignore[arg-type]


def overhead(rounds: int = 61) -> None:
    """(step with data - step on a fixed batch) / step, for a 64-64 network at batch 4096."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((N, FEATURES)).astype(np.float32), rng.integers(0, 3, N)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "x.npy", x)
        virtual = {"spirals": D.Spirals(N), "blobs of 20 features": D.Blobs(N, n_features=FEATURES)}
        arrays = tn.Arrays(x, y)
        stored = {"arrays": arrays, "memmap": tn.Arrays(np.load(folder / "x.npy", mmap_mode="r"), y)}
        if importlib.util.find_spec("pyarrow"):
            D.write(arrays, folder / "d.parquet")
            stored["Parquet"] = D.read(folder / "d.parquet")
        loaders: dict[str, Callable[[], object]] = {
            name: partial(tn.Loader, data, BATCH) for name, data in (virtual | stored).items()
        }
        if importlib.util.find_spec("torch"):
            loaders |= _of_pytorch(x, y)
        print(f"\nA step of a 64-64 network at batch {BATCH}, ms; shuffled but for virtual sets")
        print(f"overhead: data / step, paired in {rounds} rounds: median, and between which half of the rounds lie")
        columns = "".join(f"{name + ': fixed':>14}{'overhead':>10}{'half':>20}" for name in BACKENDS)
        print(f"{'data':<38}{columns}")
        for label, loader in loaders.items():
            text = f"{label:<38}"
            for name in BACKENDS:
                with tn.use_backend(name):
                    fixed, (low, share, high) = _overhead(loader(), tn.Loader(arrays, BATCH), rounds)
                text += f"{1e3 * fixed:>14.2f}{share:>10.1%}{f'{low:.1%} to {high:.1%}':>20}"
            print(text, flush=True)


def _of_pytorch(x: Any, y: Any) -> dict[str, Callable[[], object]]:
    """PyTorch's ways to the same batches."""
    from torch import from_numpy
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

    data = TensorDataset(from_numpy(x), from_numpy(y))

    def whole() -> object:
        return DataLoader(data, batch_size=None, sampler=BatchSampler(RandomSampler(data), BATCH, drop_last=True))

    def single(workers: int) -> object:
        return DataLoader(data, BATCH, shuffle=True, num_workers=workers, drop_last=True)

    return {
        "PyTorch's DataLoader, 0 workers": lambda: D.Batches(single(0)),
        "PyTorch's DataLoader, 2 workers": lambda: D.Batches(single(2)),
        "PyTorch's, whole batches by index": lambda: D.Batches(whole()),
    }


STRETCH = 16  # steps of either kind before the other's turn: as many batches are made at once


def _overhead(loader: object, arrays: object, rounds: int) -> tuple[float, list[float]]:
    """Seconds of a step on a fixed batch, and the quartiles of what one with data takes more, as a part of that.

    Both take turns, a stretch of batches each, so that what slows the machine for longer than a few hundredths of a
    second slows both.
    """
    like = loader if isinstance(loader, tn.Loader) else arrays
    features = loader.data.shape[0]  # type: ignore[attr-defined]
    runs = steps(Fixed(like), features), steps(loader, features)  # type: ignore[arg-type]
    for run in runs:
        for _ in range(8 * STRETCH):
            next(run)
    times: list[list[float]] = [[], []]
    for turn in range(rounds):
        for which in (turn % 2, 1 - turn % 2):
            times[which].append(elapsed(lambda run=runs[which]: [next(run) for _ in range(STRETCH)]) / STRETCH)  # type: ignore[misc]
    shares = [b / a - 1 for a, b in zip(*times, strict=True)]
    return statistics.median(times[0]), statistics.quantiles(shares, n=4)


MEMORY = """
import sys; sys.path[:0] = {path!r}
import tinynet as tn
from benchmarks.machine import peak_mb
loader = tn.Loader(tn.data.Spirals(int(sys.argv[1])), 4096, shuffle=True)
model = tn.Model(tn.Sequential(tn.Dense(64), tn.ReLU(), tn.Dense(3)), 2)
for _ in tn.train(model, loader, tn.CrossEntropy(), tn.Adam(1e-3), steps=60):
    pass
print(peak_mb())
"""


def memory() -> None:
    """Resident memory of a shuffled run, over the number of samples."""
    if not Path("/proc/self/status").exists():
        return
    print("\nPeak resident memory of 60 shuffled steps, MB")
    for power in (4, 6, 8, 10, 12):
        code = MEMORY.format(path=sys.path)
        command = [sys.executable, "-c", code, str(10**power)]
        peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"  10^{power:<4}{peak:>8.0f}", flush=True)


def main() -> None:
    print(f"Python {platform.python_version()}, NumPy {np.__version__}, {os.cpu_count()} cores")
    generators()
    overhead()
    memory()
