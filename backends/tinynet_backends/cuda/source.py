"""The text of kernels, from files and for a dtype, and how it is to be compiled."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FOLDER = Path(__file__).parent / "kernels"
FILES = ("rows", "norms", "reduce", "pack", "philox", "permute")
OPTIONS = ("--std=c++17", "--fmad=false")  # CuPy adds -ftz=true: float32 numbers too small to be normal are 0
REAL = {np.dtype("float32"): "float", np.dtype("float64"): "double"}


class Source(NamedTuple):
    """CUDA C++ that NVRTC can compile by itself with `OPTIONS`, and a name for messages."""

    name: str
    text: str


@cache
def load(name: str, dtype: Any) -> Source:
    """The kernels of ``kernels/<name>.cu`` for arrays of ``dtype``, one of `REAL`."""
    return whole(f"{name}.cu", (FOLDER / f"{name}.cu").read_text("utf-8"), dtype)


def whole(name: str, text: str, dtype: Any) -> Source:
    """``text`` behind what all kernels share, for arrays of ``dtype``."""
    real = REAL[np.dtype(dtype)]
    common = (FOLDER / "common.cuh").read_text("utf-8")
    return Source(f"{name} ({real})", f"#undef REAL\n#define REAL {real}\n{common}\n{text}")
