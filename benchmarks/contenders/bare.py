"""What NumPy itself can do: the step written by hand, in preallocated memory, with Adam in blocks that fit the cache."""

from __future__ import annotations

from math import sqrt

import numpy as np

from benchmarks.contenders import Step
from benchmarks.tasks import ADAM, Array, Task

BLOCK = 16384  # elements: the four vectors of Adam and two temporaries fit a second-level cache


class Adam:
    """In place over one flat vector."""

    def __init__(self, theta: Array) -> None:
        self.theta, self.m, self.v = theta, np.zeros_like(theta), np.zeros_like(theta)
        self.a, self.b = np.empty_like(theta[:BLOCK]), np.empty_like(theta[:BLOCK])
        self.t = 0

    def step(self, g: Array) -> None:
        lr, beta1, beta2, epsilon = ADAM.values()
        self.t += 1
        rate, root = lr / (1 - beta1**self.t), sqrt(1 - beta2**self.t)
        for start in range(0, self.theta.size, BLOCK):
            theta, m, v, d = (a[start : start + BLOCK] for a in (self.theta, self.m, self.v, g))
            a, b = self.a[: d.size], self.b[: d.size]
            np.multiply(d, 1 - beta1, out=a)
            m *= beta1
            m += a
            np.multiply(d, d, out=a)
            a *= 1 - beta2
            v *= beta2
            v += a
            np.sqrt(v, out=b)
            b *= 1 / root
            b += epsilon
            np.divide(m, b, out=a)
            a *= rate
            theta -= a


def _cut(vector: Array, like: list[Array]) -> list[Array]:
    """Views of a flat vector in the shapes of ``like``."""
    ends = np.cumsum([a.size for a in like])
    return [part.reshape(a.shape) for part, a in zip(np.split(vector, ends[:-1]), like, strict=True)]


def _softmax_cross_entropy(z: Array, labels: Array, rows: Array) -> Array:
    """The mean loss (); z (n, k) becomes its gradient."""
    z -= z.max(axis=1, keepdims=True)
    picked = z[rows, labels]
    np.exp(z, out=z)
    total = z.sum(axis=1, keepdims=True)
    z /= total
    z[rows, labels] -= 1.0
    z /= len(rows)
    return np.mean(np.log(total[:, 0]) - picked)


def _classifier(task: Task) -> Step:
    x, labels = task.data()
    rows = np.arange(task.batch)
    like = [a for layer in task.start() for a in layer if a is not None]
    theta = np.concatenate([a.ravel() for a in like])
    g = np.zeros_like(theta)
    p, dp, adam = _cut(theta, like), _cut(g, like), Adam(theta)
    ws, bs, dws, dbs = p[::2], p[1::2], dp[::2], dp[1::2]
    ys, dys = ([np.empty((task.batch, width), "float32") for width in task.widths[1:]] for _ in range(2))

    def step() -> Array:
        for w, b, below, y in zip(ws, bs, [x, *ys], ys, strict=False):
            np.matmul(below, w, out=y)
            y += b
            if y is not ys[-1]:
                np.maximum(y, 0.0, out=y)
        loss = _softmax_cross_entropy(ys[-1], labels, rows)
        d = ys[-1]
        for n in reversed(range(len(ws))):
            np.matmul((ys[n - 1] if n else x).T, d, out=dws[n])
            np.add.reduce(d, 0, out=dbs[n])
            if n:
                d = np.matmul(d, ws[n].T, out=dys[n - 1])
                d *= ys[n - 1] > 0
        adam.step(g)
        return loss

    return step


def _first(task: Task) -> Step:
    x, target = task.data()
    (first, _), (second, _) = task.start()

    def step() -> Array:
        hidden = 1.0 / (1.0 + np.exp(-(x @ first)))
        y = 1.0 / (1.0 + np.exp(-(hidden @ second)))
        e = y - target
        d = 2.0 * e * y * (1.0 - y)
        below = (d @ second.T) * hidden * (1.0 - hidden)
        second[...] -= hidden.T @ d
        first[...] -= x.T @ below
        return (e * e).sum()

    return step


def make(task: Task) -> Step:
    return _first(task) if task.article else _classifier(task)
