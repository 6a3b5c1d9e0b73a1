"""What the contenders compute: a network, a batch, and the weights that all of them start from."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

import tinynet as tn
from tinynet.initializers import Uniform

Array = np.ndarray
ADAM = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}


@dataclass(frozen=True)
class Task:
    """A training step in float32: ReLU layers, softmax cross-entropy, Adam.

    The article's network has instead sigmoid layers without biases, the sum of squared errors, and plain gradient
    descent at rate 1.
    """

    widths: tuple[int, ...]
    batch: int
    article: bool = False

    @property
    def label(self) -> str:
        return "-".join(map(str, self.widths)) + f" × {self.batch}"

    @property
    def flops(self) -> int:
        """Those of a step's matrix products: one forward and two backward, but no gradient of the data."""
        sizes = [i * o for i, o in pairwise(self.widths)]
        return self.batch * (6 * sum(sizes) - 2 * sizes[0])

    def data(self) -> tuple[Array, Array]:
        """The batch of every step: x (n, i) and labels (n,), or the article's four rows."""
        if self.article:
            x = [[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]]
            return np.asarray(x, "float32"), np.asarray([[0], [1], [1], [0]], "float32")
        rng = np.random.default_rng(0)
        x = rng.standard_normal((self.batch, self.widths[0])).astype("float32")
        return x, rng.integers(0, self.widths[-1], self.batch)

    def network(self) -> tn.Sequential:
        parts: list[tn.Layer] = []
        for width in self.widths[1:]:
            if self.article:
                parts += [tn.Dense(width, bias=False, init=Uniform(0.0, 1.0)), tn.Sigmoid()]
            else:
                parts += [tn.Dense(width), tn.ReLU()]
        return tn.Sequential(*(parts if self.article else parts[:-1]))

    def model(self, backend: str | tn.Backend = "numpy") -> tn.Model:
        return tn.Model(self.network(), self.widths[0], backend=backend)

    def start(self) -> list[tuple[Array, Array | None]]:
        """The initial weights (i, o) and biases (o,) of each layer: our model's."""
        weights, layers = self.model().weights(), len(self.widths) - 1
        return [(weights[f"{2 * n}.w"], weights.get(f"{2 * n}.b")) for n in range(layers)]


CPU = (
    Task((3, 4, 1), 4, article=True),
    Task((20, 64, 64, 2), 32),
    Task((64, 128, 128, 10), 128),
    Task((784, 256, 128, 10), 128),
    Task((784, 1024, 1024, 10), 512),
    Task((2048, 2048, 2048, 2048, 10), 2048),
)

GPU = (
    Task((3, 4, 1), 4, article=True),
    Task((20, 64, 64, 2), 1024),
    Task((784, 512, 512, 10), 1024),
    Task((784, 1024, 1024, 10), 8192),
    Task((1024, 2048, 2048, 2048, 100), 8192),
    Task((1024, 4096, 4096, 4096, 1000), 16384),
    Task((64, 64, 64, 64, 64, 16), 262144),
)
