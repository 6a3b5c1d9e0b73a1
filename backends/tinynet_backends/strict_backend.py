"""array-api-strict: what runs here runs on any array API library. For tests; it is slow by design.

Boolean indexing and data-dependent shapes are switched off, because a captured graph could not hold them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tinynet_backends.backend import Array, Backend, R
from tinynet_backends.errors import BackendUnavailable

DEVICES = ("CPU_DEVICE", "device1", "device2", "no_float64")


class StrictBackend(Backend):
    def compile(self, step: Callable[..., R], *fixed: Any) -> Callable[..., R]:
        """``step`` without NumPy's floating-point warnings: a loss that is not finite is reported anyway."""

        def compiled(*args: Any) -> R:
            with np.errstate(all="ignore"):
                return step(*fixed, *args)

        return compiled

    def to_numpy(self, x: Array) -> Any:
        return super().to_numpy(self.xp.asarray(x, device=self.xp.Device("CPU_DEVICE"), copy=True))


def make(device: str | None) -> StrictBackend:
    try:
        import array_api_strict as xp
    except ImportError as e:
        raise BackendUnavailable("backend 'strict' needs array-api-strict: install the extra test") from e
    name = device or "device1"
    if name not in DEVICES:
        raise ValueError(f"backend 'strict' has no device {name!r}: choose from {', '.join(DEVICES)}")
    xp.set_array_api_strict_flags(boolean_indexing=False, data_dependent_shapes=False)
    return StrictBackend(f"strict:{name}", xp, xp.Device(name))
