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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import tinynet as tn
from benchmarks.clock import elapsed
from benchmarks.feeding import STRETCH, Foreign, Source, Turns, first_of, take_turns

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
        how = f"{some.shape[0]} features; ten times the seconds of a tenth"
        print(f"{kind.__name__.lower():<22}{'no namesake':>14}{text}  ({how})", flush=True)


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


def overhead(rounds: int = 61) -> None:
    """(step with data - step on a fixed batch) / step, for a 64-64 network at batch 4096."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((N, FEATURES)).astype(np.float32), rng.integers(0, 3, N)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "x.npy", x)
        virtual = {
            "spirals (2 features)": D.Spirals(N),
            "checkerboard (20, uniform)": D.Checkerboard(N, n_features=FEATURES),
            "blobs (20, normal)": D.Blobs(N, n_features=FEATURES),
        }
        arrays = tn.Arrays(x, y)
        stored = {"arrays (20)": arrays, "memmap (20)": tn.Arrays(np.load(folder / "x.npy", mmap_mode="r"), y)}
        if importlib.util.find_spec("pyarrow"):
            D.write(arrays, folder / "d.parquet")
            stored["Parquet (20)"] = D.read(folder / "d.parquet")
        loaders: dict[str, Callable[[], Source | Foreign]] = {
            name: partial(Source, data, BATCH) for name, data in (virtual | stored).items()
        }
        if importlib.util.find_spec("torch"):
            loaders |= _of_pytorch(x, y, first_of(tn.Loader(arrays, BATCH)))
        print(
            f"\nA step of a 64-64 network at batch {BATCH}; shuffled but for virtual sets. One run, in turns of {STRETCH} steps"
        )
        print(
            "fixed: ms of a step on one batch, a call of its own; loader: us a step until the next batch is there; overhead:"
        )
        print(
            "what data add to that step, as a part of it, where steps are run as by fit (numba runs those of a chunk at once),"
        )
        print(f"by rounds: median of {rounds}, and between which half of them lie")
        columns = "".join(f"{name + ': fixed':>14}{'loader':>8}{'overhead':>10}{'half':>18}" for name in BACKENDS)
        print(f"{'data':<34}{columns}")
        for label, loader in loaders.items():
            text = f"{label:<34}"
            for name in BACKENDS:
                with tn.use_backend(name):
                    turns, waited = _overhead(loader(), rounds)
                low, share, high = turns.share()
                half = f"{low:.1%} to {high:.1%}"
                text += f"{1e3 * statistics.median(turns.fixed):>14.2f}{1e6 * waited:>8.0f}{share:>10.1%}{half:>18}"
            print(text, flush=True)


def _overhead(source: Source | Foreign, rounds: int) -> tuple[Turns, float]:
    net = tn.Sequential(tn.Dense(64), tn.ReLU(), tn.Dense(64), tn.ReLU(), tn.Dense(3))
    model = tn.Model(net, source.data.shape[0])
    reports = tn.train(model, source, tn.CrossEntropy(), tn.Adam(1e-3), steps=2**40, together=True)
    return take_turns(reports, source, rounds)


def _of_pytorch(x: Any, y: Any, fixed: tn.data.Batch) -> dict[str, Callable[[], Source | Foreign]]:
    """PyTorch's ways to the same batches."""
    from torch import from_numpy
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

    data = TensorDataset(from_numpy(x), from_numpy(y))

    def whole() -> object:
        return DataLoader(data, batch_size=None, sampler=BatchSampler(RandomSampler(data), BATCH, drop_last=True))

    def single(workers: int) -> object:
        return DataLoader(data, BATCH, shuffle=True, num_workers=workers, drop_last=True)

    return {
        "PyTorch's DataLoader, 0 workers": lambda: Foreign(D.Batches(single(0)), fixed),
        "PyTorch's DataLoader, 2 workers": lambda: Foreign(D.Batches(single(2)), fixed),
        "PyTorch's, whole batches by index": lambda: Foreign(D.Batches(whole()), fixed),
    }


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
