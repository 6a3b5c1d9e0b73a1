"""Learners that train on arrays one epoch at a time, to compare how fast they learn.

All have the same arguments, ReLU layers, Adam at 1e-3, a new order of the samples in each epoch, and no regularization.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

import tinynet as tn

Array = np.ndarray
RATE = 1e-3


class Learner(Protocol):
    """A network that is made from (x, labels, classes, hidden widths, batch)."""

    def epoch(self) -> None: ...

    def predict(self, x: Array) -> Array: ...


class Ours:
    def __init__(
        self, x: Array, y: Array, classes: int, hidden: tuple[int, ...], batch: int, backend: str = "numpy"
    ) -> None:
        parts = [part for width in hidden for part in (tn.Dense(width), tn.ReLU())]
        self.model = tn.Model(tn.Sequential(*parts, tn.Dense(classes)), x.shape[1], backend=backend)
        loader = tn.Loader((x, y), batch)
        self.reports = tn.train(self.model, loader, tn.CrossEntropy(), tn.Adam(RATE), steps=2**40)

    def epoch(self) -> None:
        while not next(self.reports).last_of_epoch:
            pass

    def predict(self, x: Array) -> Array:
        return self.model.ops.to_numpy(self.model.predict_labels(x))


class Torch:
    def __init__(self, x: Array, y: Array, classes: int, hidden: tuple[int, ...], batch: int) -> None:
        import torch

        torch.manual_seed(0)
        self.torch, self.batch = torch, batch
        self.x, self.y = torch.tensor(x), torch.tensor(y)
        parts = [part for i, o in pairwise((x.shape[1], *hidden)) for part in (torch.nn.Linear(i, o), torch.nn.ReLU())]
        self.net = torch.nn.Sequential(*parts, torch.nn.Linear(hidden[-1], classes))
        self.optimizer = torch.optim.Adam(self.net.parameters(), RATE)

    def epoch(self) -> None:
        for rows in self.torch.randperm(len(self.x)).split(self.batch):
            self.optimizer.zero_grad()
            self.torch.nn.functional.cross_entropy(self.net(self.x[rows]), self.y[rows]).backward()
            self.optimizer.step()

    def predict(self, x: Array) -> Array:
        with self.torch.no_grad():
            labels: Array = self.net(self.torch.tensor(x)).argmax(1).numpy()
        return labels


def perceptron(hidden: tuple[int, ...], batch: int, **options: Any) -> Any:
    """scikit-learn's network, with the others' hyperparameters."""
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier(hidden, batch_size=batch, learning_rate_init=RATE, alpha=0.0, random_state=0, **options)


class Sklearn:
    def __init__(self, x: Array, y: Array, classes: int, hidden: tuple[int, ...], batch: int) -> None:
        self.x, self.y, self.classes = x, y, np.arange(classes)
        self.net = perceptron(hidden, batch)

    def epoch(self) -> None:
        self.net.partial_fit(self.x, self.y, classes=self.classes)

    def predict(self, x: Array) -> Array:
        labels: Array = self.net.predict(x)
        return labels


LEARNERS: dict[str, tuple[Callable[..., Learner], dict[str, str]]] = {
    "tinynet numpy": (Ours, {"backend": "numpy"}),
    "tinynet numba": (Ours, {"backend": "numba"}),
    "torch": (Torch, {}),
    "scikit-learn": (Sklearn, {}),
}
