"""What pictures take from data and models: some samples, labels in whichever form a loss takes them, names of classes."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinynet.data import Batch, Dataset
from tinynet.data.dataset import spaced_indices
from tinynet.model import Model
from tinynet.plot.style import escaped


def spaced_batch(model: Model, data: Dataset, most: int) -> Batch:
    """At most ``most`` samples, evenly spaced in ``data``."""
    return data.batch(spaced_indices(data.n, min(most, data.n)), model.ops, model.dtype)


def class_names(model: Model, k: int) -> list[str]:
    """The names of k classes in the table that ``model`` was fitted to, else their numbers."""
    known = model.columns.classes if model.columns else None
    return list(map(escaped, known if known and len(known) == k else range(k)))


def labels(target: Any, model: Model) -> Any:
    """Numbers of the model's classes, (n,): integers; one column of 0, or -1, and 1; or rows with a single 1, at its index.

    ValueError for other numbers, which are no classes, or not the model's.
    """
    found, k = _numbers(target), max(2, model.out_shape[-1])
    if found.min() < 0:
        raise ValueError(f"label {found.min()} is negative: number classes from 0")
    if found.max() >= k:
        raise ValueError(f"label {found.max()} is not among the model's {k} classes: number classes from 0")
    return found.astype(np.int64)


def _numbers(target: Any) -> Any:
    if target.ndim == 1 and np.issubdtype(target.dtype, np.integer):
        return target
    if target.ndim == 2 and np.isin(target, (-1, 0, 1)).all():
        if target.shape[1] == 1:
            return target[:, 0] > 0
        if ((target > 0).sum(axis=1) == 1).all():
            return target.argmax(axis=1)
    raise ValueError("the targets are numbers, not labels: this picture is of classes")
