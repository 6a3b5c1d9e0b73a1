"""CuPy on one CUDA device: products by cublasLt, steps as CUDA graphs, one kernel where CuPy needs several."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from tinynet_backends.backend import Array
from tinynet_backends.cuda import lt
from tinynet_backends.cuda.device import CudaDevice
from tinynet_backends.cuda.operations import THREADS, CudaOperations
from tinynet_backends.cuda.products import Products
from tinynet_backends.cuda.runtime import Runtime
from tinynet_backends.cuda.source import OPTIONS, Source
from tinynet_backends.cuda.tune import Choices
from tinynet_backends.errors import BackendUnavailable, first_line

# Precisions, and the compute capability from which on a device has them: Volta, and the tensor cores of Ampere.
PRECISIONS = {"float32": 70, "bf16x3": 80, "tf32": 80, "bf16": 80}
OLDEST = 14  # CuPy's major version: before it, None in the place of an array is not a null pointer for kernels
UNASKED = 32 << 10  # bytes of shared memory that a block may have without opting in: 48 KB, less the kernel's own
_CURRENT = nullcontext()
_EXTRA = "install one of the extras cuda12 and cuda13, whichever fits the driver"


class CupyBackend(CudaDevice, CudaOperations):
    """The CuPy backend on device ``number``.

    ``precision`` says how products of float32 arrays are computed: "float32" without rounding, "tf32" and "bf16" on tensor
    cores, with operands rounded to that and sums in float32; "bf16x3" likewise, with each operand as the sum of two
    bfloat16 numbers. Arrays and all other results stay float32.
    """

    def __init__(self, number: int = 0, precision: str = "float32") -> None:
        try:
            import cupy as cp
            from array_api_compat import cupy as xp
        except ImportError as e:
            raise BackendUnavailable(f"backend 'cupy' cannot be imported ({first_line(e)}): {_EXTRA}") from e
        if int(cp.__version__.partition(".")[0]) < OLDEST:
            raise BackendUnavailable(f"backend 'cupy' needs CuPy {OLDEST} or later, not {cp.__version__}: {_EXTRA}")
        try:
            count = cp.cuda.runtime.getDeviceCount()
        except Exception as e:
            raise BackendUnavailable(
                f"backend 'cupy' finds no CUDA device ({first_line(e)}): check the driver, or use 'numpy'"
            ) from e
        if not count:
            raise BackendUnavailable("backend 'cupy' finds no CUDA device: check the driver, or use 'numpy'")
        if number >= count:
            raise BackendUnavailable(f"backend 'cupy:{number}' does not exist: devices are 0 to {count - 1}")
        name = "cupy" if number == 0 else f"cupy:{number}"
        super().__init__(name if precision == "float32" else f"{name}:{precision}", xp, cp.cuda.Device(number))
        if (capability := int(self.device.compute_capability)) < (least := PRECISIONS[precision]):
            raise BackendUnavailable(
                f"backend {self.name!r} needs a device of compute capability {least / 10}, and this one has "
                f"{capability / 10}: use {('numpy' if precision == 'float32' else name)!r}"
            )
        self._cp = cp
        self._kernels: dict[tuple[Source, str], Any] = {}
        with self._here():
            try:
                cp.arange(2)  # a kernel, compiled by the libraries that come with the extra
                library = lt.library()
                handle = library.handle(number)  # before any capture
                runtime = Runtime(cp, number)
            except (ImportError, OSError, RuntimeError) as e:
                raise BackendUnavailable(
                    f"backend {self.name!r} cannot use its device ({first_line(e)}): {_EXTRA}"
                ) from e
            choices = Choices(runtime.machine() | {"cublaslt": library.version})
            problem = partial(lt.Problem, library)
            self._attach(runtime, Products(runtime, problem, handle, choices, precision, self.rounded, self.split))

    def _run(self, source: Source, kernel: str, blocks: int, row: int, *args: Any, shared: int = 0) -> None:
        """On the current stream. A source is compiled when it is first used; CuPy caches the binary on disk."""
        with self._here():
            run = self._kernels.get((source, kernel))
            if run is None:
                run = self._kernels[source, kernel] = self._compiled(source, kernel)
            if shared > UNASKED and shared > run.max_dynamic_shared_size_bytes:
                run.max_dynamic_shared_size_bytes = shared
            run((blocks,), (row, THREADS // row), args, shared_mem=shared)

    def _compiled(self, source: Source, kernel: str) -> Any:
        try:
            return self._cp.RawModule(code=source.text, options=OPTIONS).get_function(kernel)
        except self._cp.cuda.compiler.CompileException as e:
            raise RuntimeError(f"NVRTC does not compile {source.name}: {first_line(e)}") from e

    def _here(self) -> AbstractContextManager[Any]:
        # entered several times in a step: CuPy's device takes much longer to enter than to ask for
        device: AbstractContextManager[Any] = self.device
        return _CURRENT if self._cp.cuda.runtime.getDevice() == self.device.id else device

    def asarray(self, x: Any, dtype: str | None = None) -> Array:
        with self._here():
            return super().asarray(x, dtype)

    # array_api_compat makes new arrays of CuPy's on the current device, whatever device they are asked for on

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        with self._here():
            return super().empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        with self._here():
            return super().zeros(shape, dtype)

    def constant(self, shape: tuple[int, ...], value: float | tuple[float, ...], dtype: Any) -> Array:
        with self._here():
            return super().constant(shape, value, dtype)

    def arange(self, start: int, stop: int) -> Array:
        with self._here():
            return super().arange(start, stop)

    def to_numpy(self, x: Array) -> Any:
        with self._here():
            return self._cp.asnumpy(x)

    def synchronize(self) -> None:
        with self._here():
            self._cp.cuda.get_current_stream().synchronize()

    def versions(self) -> str:
        runtime = self._cp.cuda.runtime
        name = runtime.getDeviceProperties(self.device.id)["name"].decode()
        return f"CuPy {self._cp.__version__}, CUDA {runtime.runtimeGetVersion()}, {name}"


def make(device: str | None) -> CupyBackend:
    """The backend for "1", "bf16" or "1:bf16": the device's number, the precision of products, or both."""
    number, _, precision = (device or "0").partition(":")
    if number in PRECISIONS and not precision:
        number, precision = "0", number
    if not number.isdecimal():
        raise ValueError(
            f"backend 'cupy' takes a device number, not {number!r}: write 'cupy:0', or a precision: {', '.join(PRECISIONS)}"
        )
    if precision and precision not in PRECISIONS:
        raise ValueError(f"backend 'cupy' has no precision {precision!r}: choose from {', '.join(PRECISIONS)}")
    return CupyBackend(int(number), precision or "float32")
