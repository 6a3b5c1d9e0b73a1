"""Data that lies in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinynet_backends import Backend, get_backend

from tinynet.data.dataset import Array, Batch, Dataset, Index

_PIECE = 2**22  # numbers that are looked at at a time, so that looking takes no memory to speak of


class Arrays(Dataset):
    """(X, y) or (X, y, weight) that lie in memory: NumPy arrays or lists, or arrays of the backend's own library.

    X (n, *shape) floating or whole numbers; y integer labels (n,), or numbers (n, o); weight (n,), not negative. All
    are checked once: their lengths, and that every number is finite (``finite=False`` leaves that out). Nothing is
    modified.
    """

    def __init__(self, x: Any, y: Any, weight: Any = None, *, finite: bool = True) -> None:
        self.x, self.ops = _adopt(x, "X")
        self.on_host = self.ops is get_backend("numpy")
        self.y, self.weight = _follow(y, "y", self.ops), None
        xp = self.ops.xp
        if self.x.ndim < 2:
            raise ValueError(
                f"X {tuple(self.x.shape)} is not a table: expected (n, features); reshape(-1, 1) makes one column"
            )
        self.n, self.shape = int(self.x.shape[0]), tuple(self.x.shape[1:])
        if self.n == 0:
            raise ValueError(f"X {tuple(self.x.shape)} has no samples: give at least one")
        if self.y.ndim == 0 or self.y.shape[0] != self.n:
            raise ValueError(f"y {tuple(self.y.shape)} does not fit X {tuple(self.x.shape)}: expected {self.n} rows")
        if weight is not None:
            self.weight = _follow(weight, "weight", self.ops)
            if tuple(self.weight.shape) != (self.n,):
                raise ValueError(
                    f"weight {tuple(self.weight.shape)} does not fit {self.n} samples: expected {(self.n,)}"
                )
        for name, a in (("X", self.x), ("y", self.y), ("weight", self.weight)):
            if a is None:
                continue
            if not xp.isdtype(a.dtype, ("real floating", "integral", "bool")):
                raise TypeError(f"{name} of dtype {a.dtype} is not numeric: give real or whole numbers")
            if finite and xp.isdtype(a.dtype, "real floating"):
                _first_bad(xp.isfinite(a), f"{name} has a value that is NaN or infinite", self.ops)
        if self.weight is not None:
            _first_bad(self.weight >= 0, "weight has a negative value", self.ops)
            if not bool(self.ops.to_numpy(xp.any(self.weight > 0))):
                raise ValueError("weight is zero everywhere: give some sample a positive one")
        labels = self.y.ndim == 1 and xp.isdtype(self.y.dtype, ("integral", "bool"))
        if labels and xp.isdtype(self.y.dtype, "bool"):
            self.y = xp.astype(self.y, xp.int64)
        self.classes = int(self.ops.to_numpy(xp.max(self.y))) + 1 if labels else None
        self.outputs = None if labels else (int(self.y.shape[1]) if self.y.ndim > 1 else 1)

    def __repr__(self) -> str:
        return f"Arrays(X {tuple(self.x.shape)}, y {tuple(self.y.shape)}, on {self.ops.name})"

    def rows(self, index: Index, ops: Backend, dtype: str) -> Batch:
        if isinstance(index, range):
            x, y = self.x[index.start : index.stop, ...], self.y[index.start : index.stop, ...]
            weight = None if self.weight is None else self.weight[index.start : index.stop]
        else:
            i, take = self.ops.asarray(index), self.ops.xp.take
            x, y = take(self.x, i, axis=0), take(self.y, i, axis=0)
            weight = None if self.weight is None else take(self.weight, i, axis=0)
        integers = self.ops.xp.isdtype(y.dtype, "integral") and y.ndim == 1
        x = ops.asarray(x, dtype)
        y = ops.asarray(y, "int64" if integers else dtype)
        return Batch(x, y, None if weight is None else ops.asarray(weight, dtype))

    def check(self, check: Callable[[Array, Backend], None], ops: Backend) -> None:
        check(self.y, self.ops)


def _adopt(x: Any, name: str) -> tuple[Array, Backend]:
    """``x`` and the backend it lies on: lists and NumPy arrays on the host, others where they are."""
    host = get_backend("numpy")
    if hasattr(x, "__array_namespace__") or hasattr(x, "__dlpack__"):
        for backend in (host, get_backend()):
            if backend.owns(x):
                return x, backend
        kind = f"{type(x).__module__.split('.')[0]} array on {getattr(x, 'device', 'no device')}"
        raise TypeError(
            f"{name} is a {kind}, which backend '{get_backend().name}' does not own: convert it, or switch backends"
        )
    try:
        return host.xp.asarray(x), host
    except ValueError:
        raise TypeError(f"{name} is no array: its rows differ in length") from None


def _follow(x: Any, name: str, ops: Backend) -> Array:
    """``x`` on the backend of X: of the same library and device, or a list."""
    if hasattr(x, "__array_namespace__") or hasattr(x, "__dlpack__"):
        if not ops.owns(x):
            kind = f"{type(x).__module__.split('.')[0]} array on {getattr(x, 'device', 'no device')}"
            raise TypeError(f"{name} is a {kind} and X lies on '{ops.name}': bring both to one library and device")
        return x
    return ops.asarray(get_backend("numpy").xp.asarray(x))


def _first_bad(good: Array, claim: str, ops: Backend) -> None:
    xp = ops.xp
    if bool(ops.to_numpy(xp.all(good))):
        return
    rows = xp.min(xp.astype(xp.reshape(good, (good.shape[0], -1)), xp.int8), axis=1)
    raise ValueError(f"{claim}: first in row {int(ops.to_numpy(xp.argmin(rows)))}")
