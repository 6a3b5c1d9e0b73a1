"""Any other array API library: the portable operations as they stand, best effort.

Integer streams are drawn on the host, because not every library has all of uint64 arithmetic; the bits are the same.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from tinynet_backends.backend import Array, Backend
from tinynet_backends.errors import BackendUnavailable, first_line
from tinynet_backends.numpy_backend import NumpyBackend
from tinynet_backends.philox import Counter, Key

# Library -> its array API namespace: a fixed table, so that no name from a file or a command line is ever imported.
NAMESPACES = {"torch": "array_api_compat.torch", "dpnp": "dpnp"}


class GenericBackend(Backend):
    def __init__(self, name: str, xp: Any, device: Any = None) -> None:
        super().__init__(name, xp, device)
        self._host = NumpyBackend()

    @property
    def generator(self) -> Backend:
        return self._host

    def asarray(self, x: Any, dtype: str | None = None) -> Array:
        if not self.owns(x):
            # a copy: libraries share memory with NumPy arrays, and some refuse read-only ones
            x = self._host.xp.array(x, dtype)
        return super().asarray(x, dtype)

    def to_numpy(self, x: Array) -> Any:
        import array_api_compat

        return super().to_numpy(array_api_compat.to_device(x, "cpu"))

    def words(self, key: Key, counter: Counter, start: int, n: int) -> Array:
        return self.asarray(self._host.words(key, counter, start, n))

    def words_at(self, key: Key, counter: Counter, index: Array, width: int) -> Array:
        return self.asarray(self._host.words_at(key, counter, self.to_numpy(index), width))

    def normal(self, words: Array) -> Array:
        return self.asarray(self._host.normal(self.to_numpy(words)))

    def halves(self, words: Array) -> Array:
        return self.asarray(self._host.halves(self.to_numpy(words)))

    def dropout(self, x: Array, rate: float, key: Key, counter: Counter) -> tuple[Array, Array]:
        ones = self._host.xp.ones(x.shape, "float32")
        keep = self.asarray(self._host.dropout(ones, rate, key, counter)[1])
        return self.dropout_grad(x, keep, rate), keep  # what is kept is scaled, as its gradient is

    def permute(self, index: Any, n: int, keys: tuple[int, ...]) -> Array:
        return self.permutes(index, n, [keys])[0, ...]

    def permutes(self, index: Any, n: int, keys: Sequence[tuple[int, ...]]) -> Array:
        index = index if isinstance(index, range) else self.to_numpy(index)
        return self.asarray(self._host.permutes(index, n, keys))


def make(name: str, device: str | None) -> GenericBackend:
    try:
        xp = importlib.import_module(NAMESPACES[name])
    except ImportError as e:
        raise BackendUnavailable(f"backend {name!r} needs a package that is missing ({e}): install {name}") from e
    place: Any = device
    if name == "torch":
        import torch

        try:
            place = torch.device(device or "cpu")
            torch.empty(0, device=place)
        except Exception as e:
            why = first_line(e)
            raise BackendUnavailable(f"backend 'torch' has no device {device!r} ({why}): write 'torch'") from e
    return GenericBackend(name if device is None else f"{name}:{device}", xp, place)
