"""NVRTC through ctypes: compiles kernels without a device."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

from tinynet_backends.cuda.source import OPTIONS


@cache
def library() -> Any:
    """NVRTC of the package nvidia-cuda-nvrtc; ImportError or cuda-pathfinder's own error if there is none."""
    from cuda import pathfinder

    nvrtc = ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("nvrtc").abs_path)
    nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
    return nvrtc


def missing() -> str:
    """Why NVRTC is unavailable here; "" if it is available."""
    try:
        library()
    except Exception as e:
        return f"NVRTC cannot be loaded ({type(e).__name__}: {e}): install nvidia-cuda-nvrtc and cuda-pathfinder"
    return ""


def compiled(text: str, architecture: str) -> bytes:
    """``text`` compiled with CuPy's options: a cubin for an ``architecture`` such as sm_90, PTX for compute_90.

    ValueError with the compiler's log if it does not compile.
    """
    kind = "CUBIN" if architecture.startswith("sm") else "PTX"
    nvrtc, program, size = library(), ctypes.c_void_p(), ctypes.c_size_t()

    def call(name: str, *args: Any) -> int:
        return int(getattr(nvrtc, name)(*args))

    assert call("nvrtcCreateProgram", ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None) == 0
    try:
        options = [f"-arch={architecture}", *OPTIONS, "-ftz=true", "--device-as-default-execution-space"]
        words = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
        status = call("nvrtcCompileProgram", program, len(options), words)
        if status:
            call("nvrtcGetProgramLogSize", program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            call("nvrtcGetProgramLog", program, log)
            raise ValueError(f"{nvrtc.nvrtcGetErrorString(status).decode()}\n{log.value.decode()}")
        assert call(f"nvrtcGet{kind}Size", program, ctypes.byref(size)) == 0
        code = ctypes.create_string_buffer(size.value)
        assert call(f"nvrtcGet{kind}", program, code) == 0
        return code.raw
    finally:
        call("nvrtcDestroyProgram", ctypes.byref(program))
