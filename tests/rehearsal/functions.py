"""The functions of CuPy: NumPy's of that name, with CuPy's signature, that take CuPy's arrays alone."""

import inspect
from functools import wraps

import numpy as np

from rehearsal import arrays, memory, signatures, streams
from rehearsal.arrays import SCALARS, call, has_arrays, ndarray, new, unwrapped
from rehearsal.state import thread

SIGNATURES = signatures.read()
WAIT = {"bincount", "nonzero", "unique"}  # for a size
CUBLAS = {"tensordot"}
OF_TYPES = {"broadcast_shapes", "isdtype", "issubdtype"}


def _cublas():
    if streams.capturing():
        raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")


# What makes arrays -------------------------------------------------------------------------------------------------


def _filled(shape, dtype, value):
    a = new(shape, dtype)
    a[...] = value
    return a


def empty(shape, dtype=float, order="C"):
    return new(shape, dtype)


def zeros(shape, dtype=float, order="C"):
    return _filled(shape, dtype, 0)


def ones(shape, dtype=float, order="C"):
    return _filled(shape, dtype, 1)


def full(shape, fill_value, dtype=None, order="C"):
    return _filled(shape, dtype or getattr(fill_value, "dtype", None) or np.array(fill_value).dtype, fill_value)


def empty_like(prototype, dtype=None, order="K", subok=None, shape=None):
    return new(prototype.shape if shape is None else shape, dtype or prototype.dtype)


def zeros_like(a, dtype=None, order="K", subok=None, shape=None):
    return full_like(a, 0, dtype, shape=shape)


def ones_like(a, dtype=None, order="K", subok=None, shape=None):
    return full_like(a, 1, dtype, shape=shape)


def full_like(a, fill_value, dtype=None, order="K", subok=None, shape=None):
    return _filled(a.shape if shape is None else shape, dtype or a.dtype, fill_value)


def arange(start, stop=None, step=1, dtype=None):
    return call(lambda: np.arange(*((0, start) if stop is None else (start, stop)), step, dtype))


def eye(N, M=None, k=0, dtype=float, order="C"):
    return call(lambda: np.eye(N, M, k, dtype))


def array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    if isinstance(obj, ndarray):
        if obj.device.id != thread.device:
            streams.wait("a copy from another device")
            obj = _on_device(obj.inner)
        return obj.astype(dtype or obj.dtype, copy=copy)
    if has_arrays(obj):
        return FUNCTIONS["stack"]([array(a, dtype) for a in obj])
    return _on_device(np.asarray(obj, dtype))


def _on_device(numbers):
    if numbers.dtype.kind not in "biufc":
        raise ValueError(f"Unsupported dtype {numbers.dtype}")
    if numbers.ndim and streams.capturing():
        raise RuntimeError("the current stream is capturing, so H2D transfers are disallowed")
    numbers = numbers.copy()
    return call(lambda: numbers)


def asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    return array(a, dtype, bool(copy))


def ascontiguousarray(a, dtype=None):
    a = asarray(a, dtype)
    return a if a.flags.c_contiguous else a.copy()


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def from_dlpack(array, *, device=None, copy=None):
    return array if isinstance(array, ndarray) else asarray(np.from_dlpack(array))


def copyto(dst, src, casting="same_kind", where=None):
    assert where is None
    target, value = dst.inner, unwrapped(src)
    read = [value] * isinstance(value, np.ndarray)
    streams.do(lambda: np.copyto(target, value, casting=casting), target, *read)


def may_share_memory(a, b, max_work=None):
    return np.may_share_memory(unwrapped(a), unwrapped(b))


def get_default_memory_pool():
    return memory.get_default_memory_pool()


def matmul(a, b, out=None):
    _cublas()
    return call(np.matmul, a, b, out=out)


# The others --------------------------------------------------------------------------------------------------------


def _function(name):
    """NumPy's."""
    f = getattr(np, name)
    if name in OF_TYPES:
        return f

    def run(*args, **options):
        if name in WAIT:
            streams.wait(name)
        if name in CUBLAS:
            _cublas()
        if not has_arrays((*args, *options.values())):
            raise TypeError(f"cupy.{name}: no array of CuPy's among {args}")
        return call(f, *args, **options)

    return run


def _checked(name, f):
    """With CuPy's signature."""
    signature = SIGNATURES[name]

    @wraps(f)
    def run(*args, **options):
        try:
            signature.bind(*args, **options)
        except TypeError as e:
            raise TypeError(f"cupy.{name}{signature}: {e}") from None
        return f(*args, **options)

    run.__signature__, run.__name__, run.__module__ = signature, name, "cupy"
    return run


class ufunc:
    """Of arrays and scalars; NumPy's arrays are neither."""

    def __init__(self, name):
        self.__name__, self._f = name, getattr(np, name)
        self.nin, self.nout = self._f.nin, self._f.nout

    def __call__(self, *args, out=None, casting="same_kind", dtype=None):
        if len(args) > self.nin:
            *args, out = args
        for a in args:
            if not issubclass(type(a), (*SCALARS, ndarray)):
                raise TypeError(f"cupy.{self.__name__}: Unsupported type {type(a)}")
        return call(self._f, *args, out=out, **({} if dtype is None else {"dtype": dtype}))

    def __repr__(self):
        return f"<ufunc 'cupy_{self.__name__}'>"


OURS = {name: f for name, f in globals().items() if inspect.isfunction(f) and name in SIGNATURES}
FUNCTIONS = {
    name: ufunc(name) if signature is None else _checked(name, OURS.get(name) or _function(name))
    for name, signature in SIGNATURES.items()
} | {"matmul": matmul, "from_dlpack": from_dlpack}


# Operators and methods of arrays -------------------------------------------------------------------------------------

BINARY = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide", "floordiv": "floor_divide",
    "mod": "remainder", "pow": "power", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor",
    "lshift": "left_shift", "rshift": "right_shift", "matmul": "matmul",
}  # fmt: skip
COMPARISONS = {
    "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal", "ne": "not_equal",
}  # fmt: skip
UNARY = {"neg": "negative", "pos": "positive", "invert": "invert", "abs": "absolute"}
METHODS = "all any argmax argmin argsort cumsum max mean min repeat round sum take"


def _operator(name, swapped=False):
    f = FUNCTIONS[name]

    def run(self, other):
        if not isinstance(other, (*SCALARS, ndarray, np.ndarray)):
            return NotImplemented
        return f(other, self) if swapped else f(self, other)

    return run


def _in_place(name):
    f = FUNCTIONS[name]

    def run(self, other):
        return f(self, other, out=self)

    return run


def _method(name):
    f = FUNCTIONS[name]

    def run(self, *args, **options):
        return f(self, *args, **options)

    return run


for short, name in BINARY.items():
    setattr(ndarray, f"__{short}__", _operator(name))
    setattr(ndarray, f"__r{short}__", _operator(name, swapped=True))
    setattr(ndarray, f"__i{short}__", _in_place(name))
for short, name in COMPARISONS.items():
    setattr(ndarray, f"__{short}__", _operator(name))
for short, name in UNARY.items():
    setattr(ndarray, f"__{short}__", _method(name))
for name in METHODS.split():
    setattr(ndarray, name, _method(name))


def _of_numpy(self, ufunc, method, *inputs, **options):
    """NumPy's scalars ask for this: ``np.float32(2) * x``."""
    return FUNCTIONS[ufunc.__name__](*inputs, **options) if method == "__call__" else NotImplemented


ndarray.__array_ufunc__ = _of_numpy
ndarray.__reduce__ = lambda self: (FUNCTIONS["array"], (self.get(),))
ndarray.nonzero = _method("nonzero")
ndarray.ravel = ndarray.flatten = lambda self: arrays.call(lambda a: a.reshape(-1), self)
