"""CuPy on one CUDA device: kernels where one does what takes CuPy several, and the portable operations elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from tinynet_backends.backend import Array, R
from tinynet_backends.cuda.operations import THREADS, CudaOperations
from tinynet_backends.cuda.source import OPTIONS, Source
from tinynet_backends.errors import BackendUnavailable

_EXTRA = "install one of the extras cuda12 and cuda13, whichever fits the driver"


class CupyBackend(CudaOperations):
    def __init__(self, number: int = 0) -> None:
        try:
            import cupy as cp
            from array_api_compat import cupy as xp
        except ImportError as e:
            raise BackendUnavailable(f"backend 'cupy' cannot be imported ({e}): {_EXTRA}") from e
        try:
            count = cp.cuda.runtime.getDeviceCount()
        except Exception as e:
            raise BackendUnavailable(
                f"backend 'cupy' finds no CUDA device ({e}): check the driver, or use 'numpy'"
            ) from e
        if number >= count:
            raise BackendUnavailable(f"backend 'cupy:{number}' is not there: devices are 0 to {count - 1}")
        super().__init__("cupy" if number == 0 else f"cupy:{number}", xp, cp.cuda.Device(number))
        self._cp = cp
        self._kernels: dict[tuple[Source, str], Any] = {}

    def _launch(self, source: Source, kernel: str, blocks: int, row: int, *args: Any) -> None:
        """On the current stream. A source is compiled the first time; CuPy keeps what comes of it on disk."""
        with self._here():
            run = self._kernels.get((source, kernel))
            if run is None:
                module = self._cp.RawModule(code=source.text, options=OPTIONS)
                run = self._kernels[source, kernel] = module.get_function(kernel)
            run((blocks,), (row, THREADS // row), args)

    def _address(self, a: Array) -> int:
        return int(a.data.ptr)

    def _here(self) -> AbstractContextManager[Any]:
        device: AbstractContextManager[Any] = self._cp.cuda.Device(self.device.id)
        return device

    def asarray(self, x: Any, dtype: str | None = None) -> Array:
        with self._here():
            return super().asarray(x, dtype)

    def to_numpy(self, x: Array) -> Any:
        return self._cp.asnumpy(x)

    def compile(self, step: Callable[..., R], *fixed: Any) -> Callable[..., R]:
        def compiled(*args: Any) -> R:
            with self._here():
                return step(*fixed, *args)

        return compiled

    def synchronize(self) -> None:
        with self._here():
            self._cp.cuda.get_current_stream().synchronize()

    def versions(self) -> str:
        runtime = self._cp.cuda.runtime
        name = runtime.getDeviceProperties(self.device.id)["name"].decode()
        return f"CuPy {self._cp.__version__}, CUDA {runtime.runtimeGetVersion()}, {name}"


def make(device: str | None) -> CupyBackend:
    if device is not None and not device.isdecimal():
        raise ValueError(f"backend 'cupy' numbers its devices, not {device!r}: write 'cupy:0'")
    return CupyBackend(int(device or 0))
