"""Kernels compiled for the host and launched on NumPy arrays, with the arguments that CuPy would pass to a device."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_cuda
import numpy as np
import pytest
from tinynet_backends import Backend
from tinynet_backends.cuda.operations import THREADS
from tinynet_backends.cuda.products import Products
from tinynet_backends.cuda.source import OPTIONS, Source, read
from tinynet_backends.cupy_backend import CupyBackend

HEADER, LAUNCHES = (Path(__file__).with_name(name) for name in ("shim.h", "shim.cpp"))
FLAGS = ["-std=c++17", "-ffp-contract=off", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-w", "-fPIC"]
OF_KERNELS = ["-O0", "-fsanitize=alignment"]  # most run once
MARGIN = 64  # bytes on either side of an array that no kernel may write to
# (order of threads and blocks, blocks at most): results may depend on neither. The first launch of a kernel for some sizes
# has all of them; later ones, whose sizes take them the same way through the kernel, have one after another.
SCHEDULES = [(0, 2**31), (1, 1), (7, 3)]


def missing() -> str:
    """Why the shim is unavailable here; "" if it is available."""
    if not sys.platform.startswith("linux"):
        return "the shim's fibers and linker sections need Linux"
    return "" if shutil.which("g++") else "the shim needs g++"


def at(request: Any, tmp_path_factory: Any) -> Shim:
    """A shim whose binaries are kept in pytest's cache, if there is one; skips if the shim is unavailable."""
    if missing():
        pytest.skip(missing())
    cached = hasattr(request.config, "cache")
    return Shim(request.config.cache.mkdir("cuda_shim") if cached else tmp_path_factory.mktemp("cuda_shim"))


def joined(sources: Sequence[Source]) -> str:
    """One text of all sources, each in its own namespace, n0, n1, …, within one per head."""
    heads: dict[str, list[str]] = {}
    exports = []
    for n, source in enumerate(sources):
        heads.setdefault(source.head, []).append(f"namespace n{n} {{\n{source.body}\n}}\n")
        place = f"h{[*heads].index(source.head)}::n{n}"
        kernels = re.findall(r"^KERNEL (\w+)\(", source.body, re.M)
        exports += [f"SHIM_EXPORT(n{n}_{name}, {place}::{name})\n" for name in kernels]
    spaces = [f"namespace h{n} {{\n{head}{''.join(parts)}}}\n" for n, (head, parts) in enumerate(heads.items())]
    return "".join([read("device.cuh"), *spaces, *exports]).replace('extern "C" __global__', "__global__")


def digest(*texts: str) -> str:
    return sha256("".join([*texts, *FLAGS, *OF_KERNELS]).encode()).hexdigest()[:24]


def make(path: Path, *arguments: str, text: str = "") -> None:
    """What g++ makes of ``arguments`` and ``text`` in the file ``path``, which is whole whenever it is there."""
    draft = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
    command = ["g++", *FLAGS, *arguments, "-o", str(draft)]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]
    draft.replace(path)


class Module:
    def __init__(self, shim: Shim, text: str) -> None:
        self.shim, self.text = shim, text

    def get_function(self, name: str) -> Any:
        return Kernel(self, name)


class Kernel:
    """A function of a module. It gets more than 48 KB of shared memory only after opting in."""

    def __init__(self, module: Module, name: str) -> None:
        self.module, self.name, self.max_dynamic_shared_size_bytes = module, name, 48 << 10

    def __call__(self, grid: Any, block: Any, args: Sequence[Any], shared_mem: int = 0) -> None:
        assert shared_mem <= self.max_dynamic_shared_size_bytes <= fake_cuda.Runtime.shared_memory
        self.module.shim.launch(self.module.text, self.name, grid, block, args, shared_mem)


class Shim:
    """A stand-in for the module cupy: kernels run on the host, in several ``schedules``, which must agree.

    Binaries are kept in ``folder``. ``launched`` has the names of kernels in the order of their launches; ``behind`` the arrays
    that a kernel finds by a table of addresses, by the table's own address.
    """

    class CompileException(Exception):
        """CuPy's, for a kernel that does not compile."""

    cuda = SimpleNamespace(compiler=SimpleNamespace(CompileException=CompileException))

    def __init__(self, folder: Path, schedules: Sequence[tuple[int, int]] = SCHEDULES) -> None:
        self.folder, self.schedules = folder, schedules
        self.launched: list[str] = []
        self.behind: dict[int, list[Any]] = {}
        self._loaded: dict[str, tuple[Any, str]] = {}
        self._launches: Counter[Any] = Counter()  # for each kernel and sizes

    def RawModule(self, code: str, options: tuple[str, ...]) -> Module:
        assert options == OPTIONS
        if code not in self._loaded:
            self.prepare([Source("", "", code.removeprefix(read("device.cuh")))])
        return Module(self, code)

    def asnumpy(self, x: Any) -> Any:
        return np.asarray(x)

    def prepare(self, sources: Sequence[Source]) -> None:
        """Compile those of ``sources`` that are new, together."""
        new = [source for source in dict.fromkeys(sources) if source.text not in self._loaded]
        if not new:
            return
        text, (header, launches) = joined(new), self._common()
        path = launches.with_name(f"{digest(text)}.so")
        if not path.exists():
            source = ["-include", str(header), "-x", "c++", "-", "-x", "none", str(launches)]
            make(path, *OF_KERNELS, "-shared", *source, text=text)
        library = ctypes.CDLL(str(path))
        self._loaded |= {source.text: (library, f"n{n}") for n, source in enumerate(new)}

    def _common(self) -> tuple[Path, Path]:
        """The header, in a folder with what g++ made of it, ready to be read, and the library of launches beside it."""
        folder = self.folder / digest(HEADER.read_text(), LAUNCHES.read_text())
        header, launches = folder / HEADER.name, folder / "launches.so"
        if not launches.exists():
            folder.mkdir(exist_ok=True)
            make(header.with_name(f"{header.name}.gch"), *OF_KERNELS, "-x", "c++-header", str(HEADER))
            make(launches, "-O2", "-shared", str(LAUNCHES))
        return header, launches

    def launch(
        self,
        text: str,
        kernel: str,
        grid: tuple[int, ...],
        block: tuple[int, int],
        args: Sequence[Any],
        shared: int = 0,
    ) -> None:
        (blocks,), (row, rows) = grid, block
        assert blocks > 0, f"{kernel} in {blocks} blocks"
        assert row * rows == THREADS
        self.launched.append(kernel)
        library, space = self._loaded[text]
        run, takes = (getattr(library, f"{space}_{kernel}_{what}") for what in ("run", "takes"))
        run.restype = takes.restype = ctypes.c_char_p
        wanted = takes().decode().split()
        assert len(wanted) == len(args), f"{kernel} takes {len(wanted)} arguments, not {len(args)}"
        for n, (arg, kind) in enumerate(zip(args, wanted, strict=True)):
            assert fits(arg, kind), f"argument {n} of {kernel} is {arg!r}: expected {kind}"
        sizes = (text, kernel, grid, block, shared, *map(size, args))
        times = self._launches[sizes]
        self._launches[sizes] += 1
        schedules = [self.schedules[times % len(self.schedules)]] if times else self.schedules
        results, written = [], []
        behind = [a for arg in args if isinstance(arg, np.ndarray) for a in self.behind.get(arg.ctypes.data, [])]
        before = [*map(content, behind)]
        for order, most in schedules:
            for a, was in zip(behind, before, strict=True):
                put_back(a, was)
            copies = [Copy(arg) for arg in args]
            words = (ctypes.c_void_p * len(args))(*[copy.argument for copy in copies])
            error = run(words, min(blocks, most), row, rows, order, shared)
            assert not error, f"{kernel}: {error.decode()}"
            assert all(copy.whole() for copy in copies), f"{kernel} writes outside of an array"
            results.append(copies)
            written.append([*map(content, behind)])
            assert written[0] == written[-1], f"what {kernel} writes depends on the order {order}"
        for n, (first, *others) in enumerate(zip(*results, strict=True)):
            for (order, most), other in zip(schedules[1:], others, strict=True):
                assert first.bytes() == other.bytes(), (
                    f"argument {n} of {kernel} depends on the order {order} or grid {most}"
                )
        for arg, copy in zip(args, results[0], strict=True):
            copy.back(arg)


def size(arg: Any) -> Any:
    """All of an argument that its launch's course may depend on: an array's layout, an integer's value."""
    if isinstance(arg, np.ndarray) and arg.dtype.names is None:
        return arg.shape, arg.strides, arg.dtype.str, arg.ctypes.data % 16
    return None if arg is None else (arg.dtype.str, b"" if arg.dtype.kind == "f" else arg.tobytes())


def content(a: Any) -> bytes:
    low, high = np.lib.array_utils.byte_bounds(a)
    return ctypes.string_at(low, high - low)


def put_back(a: Any, content: bytes) -> None:
    ctypes.memmove(np.lib.array_utils.byte_bounds(a)[0], content, len(content))


def fits(arg: Any, kind: str) -> bool:
    """Whether ``arg`` can be passed to a kernel as ``kind``."""
    if kind[0] != "*":
        return isinstance(arg, (np.generic, np.ndarray)) and arg.size == 1 and arg.dtype.str[1:] == kind
    if arg is None:
        return True
    return isinstance(arg, np.ndarray) and arg.dtype.isnative and arg.dtype.str[1:] == kind[1:]


class Copy:
    """A copy of an argument for one launch: an array between margins, at an address with the same remainder by 16."""

    def __init__(self, arg: Any) -> None:
        self.array = isinstance(arg, np.ndarray) and arg.dtype.names is None
        if not self.array:
            self.memory = ctypes.create_string_buffer(bytes(8) if arg is None else arg.tobytes())
            self.argument = ctypes.addressof(self.memory)
            return
        low, high = np.lib.array_utils.byte_bounds(arg)
        self.shift, self.size = low % 16, high - low
        self.memory = ctypes.create_string_buffer(self.size + 2 * MARGIN + 32)
        ctypes.memset(self.memory, 0xFF, len(self.memory))
        base = ctypes.addressof(self.memory)
        self.start = -base % 16 + MARGIN + self.shift
        ctypes.memmove(base + self.start, low, self.size)
        # the first element, which may have the highest address
        self.place = ctypes.c_void_p(base + self.start + arg.ctypes.data - low)
        self.argument = ctypes.addressof(self.place)

    def bytes(self) -> bytes:
        return self.memory.raw[self.start : self.start + self.size] if self.array else b""

    def whole(self) -> bool:
        if not self.array:
            return True
        raw = self.memory.raw
        return not (raw[: self.start] + raw[self.start + self.size :]).strip(b"\xff")

    def back(self, arg: Any) -> None:
        if self.array:
            low, _ = np.lib.array_utils.byte_bounds(arg)
            if self.bytes() != ctypes.string_at(low, self.size):
                ctypes.memmove(low, self.bytes(), self.size)


class ShimBackend(CupyBackend):
    """The CuPy backend on NumPy arrays. New memory is all ones, so that what no kernel writes is noticed."""

    def __init__(self, shim: Shim, precision: str = "float32") -> None:
        from array_api_compat import numpy as xp

        Backend.__init__(self, "shim", xp)
        self._cp, self._kernels = shim, {}
        self._captured: list[Any] = []  # arrays of kernels that are being captured
        runtime = fake_cuda.Runtime()
        problem = partial(fake_cuda.Problem, runtime)
        self._attach(
            runtime, Products(runtime, problem, None, fake_cuda.Choices(), precision, self.rounded, self.split)
        )

    def _run(self, source: Source, kernel: str, blocks: int, row: int, *args: Any, shared: int = 0) -> None:
        """Immediately, or when the graph that is being captured is launched."""
        if kernel == "joined":
            self._cp.behind[args[1].ctypes.data] = self._behind
        elif self._runtime.capturing():
            self._captured += [arg for arg in args if isinstance(arg, np.ndarray) and arg.dtype.names is None]
        self._runtime.do(partial(super()._run, source, kernel, blocks, row, *args, shared=shared))

    def _joined(self, whole: Any, recording: Any, pool: Any) -> Any:
        self._behind, self._captured = self._captured, []
        return super()._joined(whole, recording, pool)

    def _here(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def asarray(self, x: Any, dtype: str | None = None) -> Any:
        if np.ndim(x) and not isinstance(x, np.ndarray) and self._runtime.capturing():
            raise RuntimeError("the current stream is capturing, so H2D transfers are disallowed")  # CuPy's
        return super().asarray(x, dtype)

    def constant(self, shape: tuple[int, ...], value: Any, dtype: Any) -> Any:
        kept = dict(self._running.constants or {})
        made = super().constant(shape, value, dtype)
        if isinstance(value, tuple) and self._runtime.capturing() and not any(made is a for a in kept.values()):
            raise RuntimeError("the current stream is capturing, so H2D transfers are disallowed")
        return made

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        made = np.empty(shape, dtype)
        made.reshape(-1).view(np.uint8).fill(255)
        return made
