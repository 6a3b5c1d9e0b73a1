"""The loader: step t -> batch, a pure function."""

from __future__ import annotations

from typing import Any

from tinynet_backends import Backend, get_backend

from tinynet import streams
from tinynet.data.dataset import Array, Batch, Index
from tinynet.data.sources import as_dataset

_CHUNK = 65536  # positions of a shuffle that are computed at a time: the cost of each array call spread over many


class Loader:
    """Step t -> batch, a pure function of (seed, t), in constant memory.

    The samples are gone through epoch by epoch; ``shuffle`` (by default where neighbours may resemble each other:
    stored arrays) takes each epoch in an order of its own. The last batch of an epoch is smaller, or left out with
    ``drop_last``.
    """

    def __init__(
        self, data: Any, batch_size: int, *, seed: int = 0, shuffle: bool | None = None, drop_last: bool = False
    ) -> None:
        self.data = as_dataset(data)
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ValueError(f"batch_size {batch_size!r} is not a positive whole number")
        self.batch_size = batch_size
        self.seed = streams.check_seed(seed)
        self.shuffle = self.data.ordered if shuffle is None else shuffle
        n = self.data.n
        self.steps_per_epoch = n // batch_size if drop_last else -(-n // batch_size)
        if not self.steps_per_epoch:
            raise ValueError(
                f"batch_size {batch_size} is larger than {n} samples and drop_last leaves none: choose a smaller one"
            )
        self._chunk: tuple[int, int, Array] | None = None

    def __repr__(self) -> str:
        return f"Loader({self.data!r}, {self.batch_size}, seed={self.seed}, shuffle={self.shuffle})"

    def __len__(self) -> int:
        """Steps in an epoch."""
        return self.steps_per_epoch

    def index(self, step: int) -> Index:
        """Numbers of the samples of a step: a range, or int64 on the host where they are shuffled."""
        epoch, place = divmod(step, self.steps_per_epoch)
        start = place * self.batch_size
        stop = min(start + self.batch_size, self.data.n)
        if not self.shuffle or self.data.n == 1:
            return range(start, stop)
        parts, host = [], get_backend("numpy")
        while start < stop:
            first, numbers = self._shuffled(epoch, start // _CHUNK)
            end = min(stop, first + len(numbers))
            parts.append(numbers[start - first : end - first])
            start = end
        return parts[0] if len(parts) == 1 else host.xp.concat(parts)

    def _shuffled(self, epoch: int, chunk: int) -> tuple[int, Array]:
        """Where the chunk begins, and what its places hold in the order of that epoch."""
        if self._chunk is None or self._chunk[:2] != (epoch, chunk):
            host = get_backend("numpy")
            words = host.words(streams.key(self.seed, streams.ORDER), (epoch, 0, 0), 0, 8)
            keys = tuple(half for w in words.tolist() for half in (w & 0xFFFFFFFF, w >> 32))
            places = host.arange(chunk * _CHUNK, min((chunk + 1) * _CHUNK, self.data.n))
            self._chunk = (epoch, chunk, host.permute(places, self.data.n, keys))
        return chunk * _CHUNK, self._chunk[2]

    def batch(self, step: int, ops: Backend, dtype: str) -> Batch:
        """The batch of a step on ``ops``."""
        return self.data.batch(self.index(step), ops, dtype)
