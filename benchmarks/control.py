"""A fixed piece of work that does not use the library: if it is slow, the machine is."""

from __future__ import annotations

from statistics import median

import numpy as np

from benchmarks.clock import elapsed


def measure(repeats: int = 5) -> dict[str, float]:
    """The median time of 512 × 512 products and passes over a million numbers, some 50 ms."""
    rng = np.random.default_rng(0)
    a, x = rng.standard_normal((512, 512), dtype="float32"), rng.standard_normal(10**6, dtype="float32")

    def work() -> None:
        for _ in range(8):
            a @ a
            np.sqrt(x * x + 1.0)

    work()
    return {"seconds": median(elapsed(work) for _ in range(repeats))}
