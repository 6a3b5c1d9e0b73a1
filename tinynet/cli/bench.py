"""``tinynet bench``: the speed of training on this machine, on every backend that ``auto`` considers.

A few networks with Adam on data in memory. Backends take turns, so that other load affects them alike; the median and
the extremes of all turns are shown, without compilation and first steps.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterator
from itertools import islice
from math import isfinite
from statistics import median
from time import perf_counter
from typing import NamedTuple

from tinynet_backends import get_backend
from tinynet_backends.switch import CHOICES, usable_backends

from tinynet import __version__
from tinynet.activations import ReLU
from tinynet.cli.common import Commands, command, suggest
from tinynet.data import Arrays, Blobs, Loader
from tinynet.dense import Dense
from tinynet.grouping import CHECK_EVERY
from tinynet.losses import CrossEntropy
from tinynet.model import Model
from tinynet.optim import Adam
from tinynet.sequential import Sequential
from tinynet.training import train

EXAMPLES = """
tinynet bench                              about ten seconds per backend
tinynet bench --backend numpy --seconds 10
"""
ROUNDS = 5
_FOREVER = 2**40  # steps


class Task(NamedTuple):
    """The widths of a network's layers, and the batch size."""

    widths: tuple[int, ...]
    batch_size: int


BACKENDS = CHOICES["auto"]
TASKS = (Task((20, 32, 2), 32), Task((784, 256, 128, 10), 128), Task((512, 512, 512, 10), 1024))


def add(commands: Commands) -> None:
    parser = command(commands, "bench", "measure training steps per second on this machine", run, EXAMPLES)
    action = parser.add_argument(
        "--backend",
        action="append",
        metavar="NAME",
        help=f"may be given again (default: those of {', '.join(BACKENDS)} that are available)",
    )
    suggest(action, BACKENDS)
    parser.add_argument("--seconds", type=float, default=3.0, help="per network and backend (default 3)")


def run(args: argparse.Namespace) -> int:
    if not (isfinite(args.seconds) and args.seconds > 0):
        raise ValueError(f"seconds {args.seconds!r} is out of range: give a positive number")
    names = args.backend or usable_backends(BACKENDS)
    versions = [f"  {name}: {get_backend(name).versions()}" for name in names]
    print(f"tinynet {__version__} · Python {platform.python_version()} · {platform.machine()}, {os.cpu_count()} cores")
    print("\n".join(versions))
    print(f"steps per second with Adam, float32: median (least – most) of {ROUNDS} turns")
    for task in TASKS:
        print(f"{' - '.join(map(str, task.widths))}, {task.batch_size} samples per step", flush=True)
        for name, rates in measure(task, names, args.seconds).items():
            rate, extremes = median(rates), f"({min(rates):,.0f} – {max(rates):,.0f})"
            print(f"  {name:<8}{rate:>10,.0f} {extremes:<23}{rate * task.batch_size:>14,.0f} samples/s", flush=True)
    return 0


def measure(task: Task, names: list[str], seconds: float) -> dict[str, list[float]]:
    """Steps per second in each turn, by backend."""
    turn = seconds / ROUNDS
    runs = {name: _steps(task, name, turn) for name in names}
    for steps in runs.values():
        sum(islice(steps, 4))  # compiles, captures and fills the buffers
    rates: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(ROUNDS):
        for name, steps in runs.items():
            start, done = perf_counter(), 0
            while (elapsed := perf_counter() - start) < turn or not done:
                done += next(steps)
            rates[name].append(done / elapsed)
    return rates


def _steps(task: Task, backend: str, turn: float) -> Iterator[int]:
    """Train; each item is a number of finished steps: `CHECK_EVERY`, or fewer that took ``turn`` seconds."""
    features, *hidden, classes = task.widths
    layers = [layer for width in hidden for layer in (Dense(width), ReLU())]
    model = Model(Sequential(*layers, Dense(classes)), features, backend=backend)
    n = 64 * task.batch_size
    batch = Blobs(n, n_classes=classes, n_features=features).batch(range(n), get_backend("numpy"), "float32")
    loader = Loader(Arrays(batch.x, batch.y), task.batch_size, shuffle=True)
    start, done = perf_counter(), 0
    for _ in train(model, loader, CrossEntropy(), Adam(1e-4), steps=_FOREVER):
        done += 1
        if done == CHECK_EVERY or perf_counter() - start > turn:
            model.ops.synchronize()
            yield done
            start, done = perf_counter(), 0
