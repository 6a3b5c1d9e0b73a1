"""The modules cupy and cupyx, made of all that is beside this file; and how they take the place of an installed CuPy."""

import ctypes
import sys
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import array_api_compat
import fake_cuda
import numpy as np
import pytest
from cuda_shim import shim
from tinynet_backends import cupy_backend, switch
from tinynet_backends.cuda import lt, runtime

from rehearsal import arrays, functions, kernels, memory, state, streams

TYPES = (
    "bool bool_ int8 int16 int32 int64 intp uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128 dtype "
    "finfo iinfo generic number integer signedinteger unsignedinteger floating complexfloating nan inf pi newaxis"
)


class Module(ModuleType):
    def __init__(self, name, **names):
        super().__init__(name)
        self.__dict__.update(names)

    def __getattr__(self, name):
        raise AttributeError(
            f"the rehearsal's {self.__name__} has no {name!r}: if CuPy has it, add it to tests/rehearsal/signatures.txt"
        )


HOST_TO_DEVICE, DEVICE_TO_DEVICE = 1, 3


def memcpyAsync(dst, src, size, kind, stream):
    assert stream == streams.get_current_stream().ptr
    assert memory.allocated(dst, size)
    if kind == HOST_TO_DEVICE:
        assert not streams.capturing(), "numbers of the host would be those of all launches"
    else:
        assert memory.allocated(src, size)
    streams.do(lambda: ctypes.memmove(dst, src, size))


def _use_device(number):
    state.thread.device = number


@contextmanager
def allow_synchronize(allow):
    before, state.thread.may_wait = state.thread.may_wait, allow
    try:
        yield
    finally:
        state.thread.may_wait = before


_runtime = Module(
    "cupy.cuda.runtime",
    CUDARuntimeError=state.CUDARuntimeError,
    memcpyHostToDevice=HOST_TO_DEVICE,
    memcpyDeviceToDevice=DEVICE_TO_DEVICE,
    memcpyAsync=memcpyAsync,
    getDevice=lambda: state.thread.device,
    setDevice=_use_device,
    getDeviceCount=lambda: state.DEVICES,
    getDeviceProperties=lambda number: {"name": b"rehearsal", "multiProcessorCount": 132},
    runtimeGetVersion=lambda: 13020,
    driverGetVersion=lambda: 13020,
    deviceSynchronize=lambda: streams.wait("deviceSynchronize"),
)
_device = Module("cupy.cuda.device", Device=memory.Device)
_cuda = Module(
    "cupy.cuda",
    runtime=_runtime,
    device=_device,
    memory=SimpleNamespace(OutOfMemoryError=memory.OutOfMemoryError),
    compiler=SimpleNamespace(CompileException=shim.Shim.CompileException),
    is_available=lambda: True,
    **{name: getattr(memory, name) for name in ("Device", "Memory", "UnownedMemory", "MemoryPointer", "MemoryPool")},
    **{name: getattr(memory, name) for name in ("alloc", "using_allocator")},
    **{name: getattr(streams, name) for name in ("Stream", "Event", "Graph", "get_current_stream", "get_elapsed_time")},
)
_linalg = Module("cupy.linalg", lstsq=None)  # which array_api_compat imports
_fft = Module("cupy.fft")
cupy = Module(
    "cupy",
    __version__="14.2.0",
    __path__=[],
    cuda=_cuda,
    linalg=_linalg,
    fft=_fft,
    ndarray=arrays.ndarray,
    ufunc=functions.ufunc,
    RawModule=kernels.RawModule,
    **{name: getattr(np, name) for name in TYPES.split()},
    **functions.FUNCTIONS,
)
cupyx = Module("cupyx", empty_pinned=np.empty, allow_synchronize=allow_synchronize)


@contextmanager
def installed(folder):
    """In the place of CuPy; kernels are kept in ``folder``."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in sys.modules if name.startswith("array_api_compat.cupy")]:
            patch.delitem(sys.modules, name)
        for module in (cupy, cupyx, _cuda, _runtime, _device, _linalg, _fft):
            patch.setitem(sys.modules, module.__name__, module)
        patch.setattr(kernels, "shim_in_use", shim.Shim(folder, schedules=shim.SCHEDULES[:1]))
        patch.setattr(lt, "library", kernels.Library)
        patch.setattr(lt, "Problem", kernels.Problem)
        patch.setattr(cupy_backend, "Choices", lambda machine: fake_cuda.Choices())
        patch.setattr(runtime.Runtime, "nodes", lambda self, graph: len(graph.work))
        switch._load.cache_clear()
        yield
    switch._load.cache_clear()
    for name in [name for name in sys.modules if name.startswith("array_api_compat.cupy")]:
        del sys.modules[name]
    vars(array_api_compat).pop("cupy", None)
