"""How many steps of a run are run as one, and how many pass between two checks of their losses."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from tinynet_backends import Backend

from tinynet.data.stacked import has_chunks
from tinynet.layers import Array

CHECK_EVERY = 64  # steps, or launches of several; a check of the losses waits for the device
_QUEUED = 2**42  # parameters times samples of the steps between two checks: about a second of a fast device's work
_LAUNCHED = 2**24  # parameters times steps of a launch: each step may keep gradients of its own
_SHORT = 2**28  # parameters times samples of a step that takes the host no more than some 10 ms


class Grouping:
    """The groups of steps of a run on ``theta``, of one network or of many."""

    def __init__(self, loader: Any, ops: Backend, theta: Array) -> None:
        self.loader, self.ops = loader, ops
        self.many = len(theta.shape) > 1
        self.parameters = max(prod(theta.shape), 1)  # of all networks

    @property
    def possible(self) -> bool:
        """Whether several steps may be run as one.

        On a device that launches steps, they may if it makes their batches, too, and if each batch in a chunk is aligned like
        one of its own: otherwise matrix products would have other bits. On the host they may for many networks, and where a
        step is short: Ctrl-C waits for all of them, and beside a long step the Python between two steps costs little.
        """
        loader = self.loader
        if not has_chunks(loader):
            return False
        if self.ops.launches:
            return not loader.made_on_host(self.ops) and loader.batch_size % 4 == 0
        short: bool = self.parameters * loader.batch_size <= _SHORT
        return self.many or (short and loader.made_on_host(self.ops))

    def unchecked(self) -> int:
        """How many steps pass between two checks of the losses.

        After Ctrl-C, or a loss that is not finite, all of them are waited for.
        """
        if not self.ops.launches:
            return CHECK_EVERY
        most: int = min(CHECK_EVERY * self._chunk(), _QUEUED // (self.parameters * self.loader.batch_size))
        return max(most - most % CHECK_EVERY, CHECK_EVERY)

    def launches(self) -> list[int]:
        """How many steps a device may launch together: those of a chunk, a quarter or a 16th of it, each with its own graph."""
        chunk = self._chunk()
        return [n for n in (chunk, chunk // 4, chunk // 16) if 1 < n <= _LAUNCHED // self.parameters]

    def next(self, t: int, stop: int, due: Callable[[int], bool] | None) -> tuple[int, bool]:
        """How many steps the next report stands for, from ``t`` on, and whether they are run as one.

        Their batches are full ones of one chunk, and they end at ``stop`` or where a step is due.
        """
        loader, chunk, place = self.loader, self._chunk(), t % self.loader.steps_per_epoch
        left = CHECK_EVERY if self.ops.launches and chunk == 1 else chunk - place % chunk
        count = max(min(left, loader.data.n // loader.batch_size - place, stop - t), 1)
        if due is not None:
            count = next((n for n in range(1, count) if due(t + n)), count)
        if not self.ops.launches:
            return count, count > 1
        as_one = next((n for n in self.launches() if n <= count), 0)
        return (as_one, True) if as_one else (count, False)

    def _chunk(self) -> int:
        """How many steps a chunk of batches has."""
        most: int = self.loader.steps_per_chunk(self.ops)
        return most
