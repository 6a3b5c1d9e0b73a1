"""Kernels of ours by the shim of the tests, and cublasLt by its interpreter."""

import threading

import fake_cuda
import numpy as np

from rehearsal import streams
from rehearsal.arrays import ndarray, quietly
from rehearsal.state import OPERATION, thread

_compiling = threading.RLock()
shim_in_use = None


class RawModule:
    def __init__(self, *, code, options=()):
        with _compiling:
            self.module = shim_in_use.RawModule(code, options)

    def get_function(self, name):
        return Kernel(self.module.get_function(name))


class Kernel:
    def __init__(self, kernel):
        self.kernel = kernel

    @property
    def max_dynamic_shared_size_bytes(self):
        return self.kernel.max_dynamic_shared_size_bytes

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size):
        self.kernel.max_dynamic_shared_size_bytes = size

    def __call__(self, grid, block, args, *, shared_mem=0):
        for a in args:
            if isinstance(a, np.ndarray) and (a.shape or not a.dtype.names):
                raise TypeError(f"Unsupported type {type(a)}: an argument of {self.kernel.name}")
            if isinstance(a, ndarray):
                assert a.device.id == thread.device, f"an array of another device: an argument of {self.kernel.name}"
        words = [a.inner if isinstance(a, ndarray) else a for a in args]

        def run():
            with _compiling:
                self.kernel(grid, block, words, shared_mem=shared_mem)

        streams.do(run, *(a.inner for a in args if isinstance(a, ndarray)))


class Library:
    """cublasLt, without any of its state."""

    version = 130000

    def handle(self, number):
        return number


class Problem(fake_cuda.Problem):
    """A product, which is queued like any other work; the first algorithm is the fastest."""

    def __init__(self, library, plan):
        super().__init__(self, plan)

    def run(self, handle, algorithm, *operands):
        self.slow = 1 + algorithm.code[0]
        super().run(handle, algorithm, *operands)

    def do(self, multiply):
        plan = self.plan
        seconds = self.slow * OPERATION * plan.batch * plan.m * plan.n * plan.k
        streams.do(lambda: quietly(multiply), seconds=seconds)
