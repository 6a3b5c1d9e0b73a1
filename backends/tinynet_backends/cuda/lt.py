"""cublasLt through ctypes: descriptors of a plan, the algorithms proposed for it, and the product itself.

CuPy refuses cuBLAS while a stream is captured; cublasLt gets stream and workspace at every call and has no such state.
Everything except the handle and what takes one works without a driver.
"""

from __future__ import annotations

import ctypes as C
import logging
import sys
import threading
import weakref
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

from tinynet_backends.cuda.plan import Layout, Plan

_log = logging.getLogger("tinynet")
WORKSPACE = 32 << 20  # bytes that an algorithm may use: what NVIDIA advises for Hopper
CANDIDATES, WITHOUT = 8, 4  # at most, and of those without a workspace

# From cublasLt.h, cublas_api.h and library_types.h.
TYPES = {"float32": 0, "float64": 1, "bfloat16": 14}
COMPUTE = {"float32": 68, "bf16x3": 68, "bf16": 68, "tf32": 77, "float64": 70}
DESC = {"transa": 3, "transb": 4, "epilogue": 7, "bias": 8, "bias_stride": 10, "bias_type": 26}
LAYOUT = {"batch": 5, "stride": 6}
PREFERENCE = {"workspace": 1, "a": 5, "b": 6, "c": 7, "d": 8}
NO_ALGORITHM = 15  # CUBLAS_STATUS_NOT_SUPPORTED
_ALLOCATED = 256  # an address aligned like the allocator's: the heuristic reads only its alignment


class Algorithm(NamedTuple):
    """A way to compute a product: cublasLt's 64 opaque bytes, and bytes of workspace."""

    code: bytes
    workspace: int


class _Heuristic(C.Structure):
    _fields_ = [
        ("algo", C.c_uint64 * 8), ("workspace", C.c_size_t), ("state", C.c_int), ("waves", C.c_float),
        ("reserved", C.c_int * 4),
    ]  # fmt: skip


class LtError(RuntimeError):
    """A call of cublasLt failed."""

    def __init__(self, call: str, status: int, name: str) -> None:
        super().__init__(f"{call} of cublasLt failed with {name} ({status})")
        self.status = status


class Library:
    """libcublasLt, once per process."""

    def __init__(self, library: Any) -> None:
        self._library = library
        library.cublasLtGetStatusName.restype = C.c_char_p
        library.cublasLtGetVersion.restype = C.c_size_t
        pointers, word = C.c_void_p, C.c_size_t
        library.cublasLtMatmul.argtypes = [pointers] * 14 + [word, pointers]
        library.cublasLtCreate.argtypes = [pointers]
        library.cublasLtMatmulDescSetAttribute.argtypes = [pointers, C.c_int, pointers, word]
        self._handles: dict[int, C.c_void_p] = {}
        self._lock = threading.Lock()

    @property
    def version(self) -> int:
        return int(self._library.cublasLtGetVersion())

    def call(self, name: str, *args: Any) -> None:
        status = getattr(self._library, name)(*args)
        if status:
            raise LtError(name, status, self._library.cublasLtGetStatusName(status).decode())

    def handle(self, device: int) -> C.c_void_p:
        """The handle for a device, which must be the current one. Created once per process."""
        with self._lock:
            if device not in self._handles:
                handle = C.c_void_p()
                self.call("cublasLtCreate", C.byref(handle))
                self._handles[device] = handle
            return self._handles[device]

    def made(self, create: str, destroy: str, owner: Any, *args: Any) -> C.c_void_p:
        """A new cublasLt object, destroyed with ``owner``."""
        pointer = C.c_void_p()
        self.call(create, C.byref(pointer), *args)
        weakref.finalize(owner, getattr(self._library, destroy), pointer).atexit = False  # at exit all is freed anyway
        return pointer


class Problem:
    """The descriptors of one plan."""

    def __init__(self, library: Library, plan: Plan) -> None:
        self.library, self.plan = library, plan
        self._lock = threading.Lock()  # the pointer to the bias is part of the descriptor
        scalar = C.c_double if plan.precision == "float64" else C.c_float
        self._one, self._zero = scalar(1.0), scalar(0.0)
        scale_type = TYPES["float64" if plan.precision == "float64" else "float32"]
        self._desc = library.made(
            "cublasLtMatmulDescCreate", "cublasLtMatmulDescDestroy", self, COMPUTE[plan.precision], scale_type
        )
        self._set("transa", C.c_int32(plan.transpose_a))
        self._set("transb", C.c_int32(plan.transpose_b))
        self._set("epilogue", C.c_uint32(int(plan.epilogue)))
        if plan.epilogue.has_bias:
            self._set("bias", C.c_void_p(_ALLOCATED))
            self._set("bias_type", C.c_int32(TYPES[plan.d.dtype]))
            if plan.batch > 1:
                self._set("bias_stride", C.c_int64(plan.m))
        self._a, self._b, self._d = map(self._layout, (plan.a, plan.b, plan.d))
        self._preference = library.made("cublasLtMatmulPreferenceCreate", "cublasLtMatmulPreferenceDestroy", self)
        for name, alignment in zip("abd", plan.alignments, strict=True):
            self._prefer(name, C.c_uint32(alignment))
        self._prefer("c", C.c_uint32(plan.alignments[2]))

    def _set(self, name: str, value: Any) -> None:
        self.library.call("cublasLtMatmulDescSetAttribute", self._desc, DESC[name], C.byref(value), C.sizeof(value))

    def _prefer(self, name: str, value: Any) -> None:
        size = C.c_size_t(C.sizeof(value))
        which = PREFERENCE[name]
        self.library.call("cublasLtMatmulPreferenceSetAttribute", self._preference, which, C.byref(value), size)

    def _layout(self, layout: Layout) -> C.c_void_p:
        sizes = C.c_uint64(layout.rows), C.c_uint64(layout.cols), C.c_int64(layout.ld)
        made = self.library.made(
            "cublasLtMatrixLayoutCreate", "cublasLtMatrixLayoutDestroy", self, TYPES[layout.dtype], *sizes
        )
        if self.plan.batch > 1:
            for name, value in (("batch", C.c_int32(self.plan.batch)), ("stride", C.c_int64(layout.stride))):
                size = C.c_size_t(C.sizeof(value))
                self.library.call("cublasLtMatrixLayoutSetAttribute", made, LAYOUT[name], C.byref(value), size)
        return made

    def get(self, name: str, kind: Callable[[], Any]) -> Any:
        """An attribute of the descriptor, read back."""
        value, written = kind(), C.c_size_t()
        size = C.c_size_t(C.sizeof(value))
        self.library.call(
            "cublasLtMatmulDescGetAttribute", self._desc, DESC[name], C.byref(value), size, C.byref(written)
        )
        return value.value

    def candidates(self, handle: C.c_void_p) -> list[Algorithm]:
        """The algorithms that cublasLt proposes, the presumably fastest first; [] if it has none or cannot say.

        A few of them do without a workspace. Many for Hopper clear counters there, which in a graph is a node of its own: 3 µs
        before a product of 90 on an H200.
        """
        proposed = self._proposed(handle, WORKSPACE, CANDIDATES)
        return [*dict.fromkeys(proposed + (self._proposed(handle, 0, WITHOUT) if proposed else []))]

    def _proposed(self, handle: C.c_void_p, workspace: int, most: int) -> list[Algorithm]:
        proposed, count = (_Heuristic * most)(), C.c_int()
        try:
            self._prefer("workspace", C.c_uint64(workspace))
            self.library.call(
                "cublasLtMatmulAlgoGetHeuristic", handle, self._desc, self._a, self._b, self._d, self._d,
                self._preference, C.c_int(most), proposed, C.byref(count),
            )  # fmt: skip
        except LtError as e:
            if e.status != NO_ALGORITHM:
                _log.warning("%s", e)
            return []
        return [Algorithm(bytes(h.algo), h.workspace) for h in proposed[: count.value] if h.state == 0]

    def checked(self, handle: C.c_void_p, code: bytes) -> Algorithm | None:
        """The algorithm with these bytes, if it can compute this product in the workspace that we allow."""
        algo, result = (C.c_uint64 * 8).from_buffer_copy(code), _Heuristic()
        try:
            self.library.call(
                "cublasLtMatmulAlgoCheck", handle, self._desc, self._a, self._b, self._d, self._d, C.byref(algo),
                C.byref(result),
            )  # fmt: skip
        except LtError:
            return None
        return Algorithm(code, result.workspace) if result.workspace <= WORKSPACE else None

    def run(
        self, handle: C.c_void_p, algorithm: Algorithm, a: int, b: int, d: int, bias: int, workspace: int, stream: int,
    ) -> None:  # fmt: skip
        """Queue the product of the matrices at these addresses on a stream, which may be one that is being captured."""
        algo = (C.c_uint64 * 8).from_buffer_copy(algorithm.code)
        with self._lock:
            if bias:
                self._set("bias", C.c_void_p(bias))
            self.library.call(
                "cublasLtMatmul", handle, self._desc, C.byref(self._one), a, self._a, b, self._b, C.byref(self._zero),
                d, self._d, d, self._d, C.byref(algo), workspace, algorithm.workspace, stream,
            )  # fmt: skip


@cache
def library() -> Library:
    """cublasLt from the CUDA wheels or the toolkit; OSError if there is neither."""
    return Library(_load())


def _load() -> Any:
    missing = "no file of that name"
    ways: list[Callable[[], Any]] = [_with_pathfinder, *(partial(C.CDLL, name) for name in _names())]
    for load in ways:
        try:
            return load()
        except Exception as e:  # whatever one way raises, the next may succeed
            missing = str(e).strip().partition("\n")[0] or missing
    raise OSError(f"cublasLt cannot be loaded ({missing})")


def _with_pathfinder() -> Any:
    from cuda.pathfinder import load_nvidia_dynamic_lib

    return C.CDLL(load_nvidia_dynamic_lib("cublasLt").abs_path)


def _names() -> list[str]:
    if sys.platform == "win32":
        return [f"cublasLt64_{major}.dll" for major in (13, 12)]
    return [f"libcublasLt.so.{major}" for major in (13, 12)]
