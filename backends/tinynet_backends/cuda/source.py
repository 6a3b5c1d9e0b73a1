"""The text of kernels for a dtype, and the compiler's options."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FOLDER = Path(__file__).parent / "kernels"
OPTIONS = ("--std=c++17", "--fmad=false")  # CuPy adds -ftz=true: denormal float32 numbers become 0
_INCLUDED = {"philox": ("philox.cuh",)}  # the headers of a file
REAL = {np.dtype("float32"): "float", np.dtype("float64"): "double"}


class Source(NamedTuple):
    """CUDA C++ in two pieces, the first shared by many sources, and a name for messages."""

    name: str
    head: str
    body: str

    @property
    def text(self) -> str:
        """The complete text for NVRTC, to be compiled with `OPTIONS`."""
        return read("device.cuh") + self.head + self.body


@cache
def load(name: str, dtype: Any) -> Source:
    """The kernels of ``kernels/<name>.cu`` for arrays of ``dtype``, one of `REAL`."""
    return whole(f"{name}.cu", "".join(map(read, (*_INCLUDED.get(name, ()), f"{name}.cu"))), dtype)


@cache
def read(name: str) -> str:
    """The text of a file in ``kernels/``."""
    return (FOLDER / name).read_text("utf-8")


def whole(name: str, body: str, dtype: Any) -> Source:
    """``body`` after what all kernels share, for arrays of ``dtype``."""
    real = REAL[np.dtype(dtype)]
    return Source(f"{name} ({real})", _head(real), body)


@cache
def _head(real: str) -> str:
    return f"#undef REAL\n#define REAL {real}\n{read('common.cuh')}\n"
