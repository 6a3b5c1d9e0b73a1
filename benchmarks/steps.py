"""One training step, ours and PyTorch's eager one, on the same shapes: softmax cross-entropy, ReLU, Adam, float32."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

import tinynet as tn

SHAPES = (((20, 64, 64, 2), 32), ((64, 128, 128, 10), 128), ((784, 256, 128, 10), 128), ((784, 1024, 1024, 10), 512))

Step = Callable[[], float]


def _data(widths: tuple[int, ...], batch: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((batch, widths[0])).astype("float32"), rng.integers(0, widths[-1], batch)


def model(widths: tuple[int, ...], backend: str = "numpy") -> tn.Model:
    parts: list[tn.Layer] = []
    for width in widths[1:-1]:
        parts += [tn.Dense(width), tn.ReLU()]
    return tn.Model(tn.Sequential(*parts, tn.Dense(widths[-1])), widths[0], backend=backend)


def ours(widths: tuple[int, ...], batch: int, backend: str = "numpy") -> Step:
    """A function that does one step of `tinynet.train` and returns its loss."""
    net = model(widths, backend)
    loader = tn.Loader(_data(widths, batch), batch, shuffle=False)
    reports = tn.train(net, loader, tn.CrossEntropy(), tn.Adam(1e-3), steps=2**40)
    return lambda: float(next(reports).loss)


def torch(widths: tuple[int, ...], batch: int) -> Step:
    """The same in eager PyTorch, from the same initial weights."""
    import torch

    start = model(widths).weights()
    parts: list[torch.nn.Module] = []
    for n, (i, o) in enumerate(pairwise(widths)):
        dense = torch.nn.Linear(i, o)
        with torch.no_grad():
            dense.weight.copy_(torch.tensor(start[f"{2 * n}.w"].T))
            dense.bias.copy_(torch.tensor(start[f"{2 * n}.b"]))
        parts += [dense, torch.nn.ReLU()]
    net = torch.nn.Sequential(*parts[:-1])
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    x, y = map(torch.tensor, _data(widths, batch))

    def step() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


CONTENDERS: dict[str, Callable[[tuple[int, ...], int], Step]] = {"tinynet": ours, "torch": torch}
