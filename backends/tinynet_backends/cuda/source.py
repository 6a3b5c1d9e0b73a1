"""The text of kernels, from files and for a dtype, and how it is to be compiled."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FOLDER = Path(__file__).parent / "kernels"
FILES = ("rows", "norms", "reduce", "pack", "round", "relu", "philox", "permute")
OPTIONS = ("--std=c++17", "--fmad=false")  # CuPy adds -ftz=true: float32 numbers too small to be normal are 0
_BEHIND = {"philox": ("philox.cuh",)}  # what a file's text stands behind
REAL = {np.dtype("float32"): "float", np.dtype("float64"): "double"}


class Source(NamedTuple):
    """CUDA C++ in two pieces, of which the first is many sources', and a name for messages."""

    name: str
    head: str
    body: str

    @property
    def text(self) -> str:
        """What NVRTC can compile by itself, with `OPTIONS`."""
        return self.head + self.body


@cache
def load(name: str, dtype: Any) -> Source:
    """The kernels of ``kernels/<name>.cu`` for arrays of ``dtype``, one of `REAL`."""
    return whole(f"{name}.cu", "".join(map(read, (*_BEHIND.get(name, ()), f"{name}.cu"))), dtype)


def read(name: str) -> str:
    """The text of one of the files of ``kernels/``."""
    return (FOLDER / name).read_text("utf-8")


def whole(name: str, body: str, dtype: Any) -> Source:
    """``body`` behind what all kernels share, for arrays of ``dtype``."""
    real = REAL[np.dtype(dtype)]
    return Source(f"{name} ({real})", _head(real), body)


@cache
def _head(real: str) -> str:
    return f"#undef REAL\n#define REAL {real}\n{(FOLDER / 'common.cuh').read_text('utf-8')}\n"
