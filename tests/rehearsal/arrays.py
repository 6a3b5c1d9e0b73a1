"""CuPy's array: NumPy's, at an address of the device, which nobody takes for NumPy's."""

import ctypes
import operator
import warnings
from functools import partial
from math import prod

import numpy as np

from rehearsal import memory, streams
from rehearsal.state import thread

SCALARS = bool, int, float, complex, np.generic  # by type(), as in C: a number of a captured step says that it is one
IMPLICIT = (
    "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array explicitly."
)


def new(shape, dtype=float):
    """Memory of the current allocator, as an array."""
    shape = tuple(map(operator.index, shape if isinstance(shape, (tuple, list)) else (shape,)))
    dtype, size = np.dtype(dtype), prod(shape)
    pointer = memory.alloc(size * dtype.itemsize)
    if not size:
        return ndarray.of(np.empty(shape, dtype), pointer)
    words = (ctypes.c_char * (size * dtype.itemsize)).from_address(pointer.ptr)
    return ndarray.of(np.frombuffer(words, dtype).reshape(shape), pointer)


def unwrapped(value):
    """With NumPy's arrays at the addresses of arrays; TypeError for those of NumPy itself."""
    if isinstance(value, ndarray):
        return value.inner
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, (tuple, list)):
        return type(value)(map(unwrapped, value))
    return value


def inside(value):
    """The arrays in an argument."""
    if isinstance(value, ndarray):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from inside(part)


def has_arrays(value):
    return next(inside(value), None) is not None


def quietly(f, *args, **options):
    """A device has no warnings."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return f(*args, **options)


def call(f, *args, out=None, **options):
    """``f`` of NumPy's, of and into arrays of the current device. What it gives of these is a view."""
    given = [a for value in (args, *options.values()) for a in inside(value)]
    given += inside(out)
    for a in given:
        if a.device.id != thread.device:
            raise ValueError(
                f"Array device must be same as the current device: array device = {a.device.id} while current = {thread.device}"
            )
    args, options = unwrapped(args), {name: unwrapped(value) for name, value in options.items()}
    if out is not None:
        target = unwrapped(out[0] if isinstance(out, tuple) else out)
        streams.do(
            lambda: quietly(lambda: np.copyto(target, f(*args, **options), casting="same_kind")),
            *(a.inner for a in given),
        )
        return out[0] if isinstance(out, tuple) else out
    found = quietly(f, *args, **options)  # in a capture this gives shapes and dtypes
    if not isinstance(found, (tuple, list)):
        return _placed([found], given, lambda: [quietly(f, *args, **options)])[0]
    results = _placed(found, given, lambda: quietly(f, *args, **options))
    return type(found)(*results) if hasattr(found, "_fields") else type(found)(results)


def _placed(found, given, again):
    """Results in new memory, if they are not views of what was given; in a capture they are computed at each launch."""
    results, fresh = [], {}
    for n, a in enumerate(found):
        if not isinstance(a, (np.ndarray, np.generic)):
            results.append(a)
            continue
        owner = next((b for b in given if isinstance(a, np.ndarray) and np.may_share_memory(a, b.inner)), None)
        results.append(new(a.shape, a.dtype) if owner is None else ndarray.of(a, owner.memory))
        if owner is None:
            fresh[n] = results[-1].inner  # a graph does not keep memory

    def put(values):
        for n, to in fresh.items():
            to[...] = values[n]

    touched = [*(a.inner for a in given), *fresh.values()]
    if fresh and streams.capturing():
        streams.do(lambda: put(again()), *touched)
    elif fresh:
        streams.do(lambda: put(found))
    return results


class Flags:
    def __init__(self, flags):
        self.c_contiguous, self.f_contiguous = flags.c_contiguous, flags.f_contiguous
        self.forc = flags.forc


class ndarray:
    """``inner`` is NumPy's array at the same address, ``memory`` what keeps that allocated."""

    __slots__ = ("__weakref__", "inner", "memory")
    __array_priority__ = 100
    __hash__ = None

    def __new__(cls, shape, dtype=float):
        return new(shape, dtype)

    @staticmethod
    def of(inner, pointer):
        a = object.__new__(ndarray)
        a.inner, a.memory = inner, pointer
        return a

    # What is known without the device

    shape = property(lambda self: self.inner.shape)
    dtype = property(lambda self: self.inner.dtype)
    ndim = property(lambda self: self.inner.ndim)
    size = property(lambda self: self.inner.size)
    itemsize = property(lambda self: self.inner.itemsize)
    nbytes = property(lambda self: self.inner.nbytes)
    strides = property(lambda self: self.inner.strides)
    flags = property(lambda self: Flags(self.inner.flags))
    device = property(lambda self: self.memory.device)

    @property
    def data(self):
        at = self.inner.ctypes.data if self.size else self.memory.ptr
        return memory.MemoryPointer(self.memory.mem, at - self.memory.mem.ptr)

    def __len__(self):
        if not self.ndim:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __iter__(self):
        return (self[n] for n in range(len(self)))

    # What waits for the device

    def get(self, stream=None, order="C", out=None, blocking=True):
        streams.wait("ndarray.get")
        return self.inner.copy()

    def item(self, *index):
        return self.get().item(*index)

    def tolist(self):
        return self.get().tolist()

    def tobytes(self, order="C"):
        return self.get().tobytes(order)

    def __bool__(self):
        return bool(self.get())

    def __int__(self):
        return int(self.get())

    def __index__(self):
        return operator.index(self.get())

    def __float__(self):
        return float(self.get())

    def __complex__(self):
        return complex(self.get())

    def __repr__(self):
        return repr(self.get())

    def __str__(self):
        return str(self.get())

    def __format__(self, text):
        return format(self.get(), text)

    def __dlpack_device__(self):
        return 2, self.device.id

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        if dl_device is None or dl_device[0] != 1:
            raise BufferError("an array of a device")
        return self.get().__dlpack__(max_version=max_version)

    # What NumPy may not have

    def __array__(self, dtype=None, copy=None):
        raise TypeError(IMPLICIT)

    # Views and copies

    def _view(self, inner):
        return ndarray.of(inner, self.memory)

    T = property(lambda self: self._view(self.inner.T))
    mT = property(lambda self: self._view(self.inner.mT))

    def view(self, dtype=None):
        return self._view(self.inner.view() if dtype is None else self.inner.view(dtype))

    def transpose(self, *axes):
        return self._view(self.inner.transpose(*axes))

    def swapaxes(self, axis1, axis2):
        return self._view(self.inner.swapaxes(axis1, axis2))

    def squeeze(self, axis=None):
        return self._view(self.inner.squeeze(axis))

    def reshape(self, *shape, order="C"):
        return call(lambda a: a.reshape(*shape), self)

    def copy(self, order="C"):
        return call(lambda a: a.copy(), self)

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    def astype(self, dtype, order="K", casting=None, subok=None, copy=True):
        return self if not copy and np.dtype(dtype) == self.dtype else call(lambda a: a.astype(dtype), self)

    def __getitem__(self, key):
        keys = key if isinstance(key, tuple) else (key,)
        for part in keys:
            if isinstance(part, ndarray) and part.dtype == bool:
                streams.wait("a mask as an index")
            elif isinstance(part, slice) and has_arrays((part.start, part.stop, part.step)):
                raise TypeError("slice indices must be integers or None")
        _from_host(keys)
        if any(isinstance(part, (list, np.ndarray, ndarray)) for part in keys):
            index = _index(keys)
            return call(lambda a, *read: a[index], self, *inside(keys))
        return self._view(self.inner[keys if any(part is Ellipsis for part in keys) else (*keys, ...)])

    def __setitem__(self, key, value):
        if not issubclass(type(value), (*SCALARS, ndarray)):
            raise TypeError(f"Unsupported type {type(value)}")
        keys = key if isinstance(key, tuple) else (key,)
        _from_host(keys)
        to, index, what = self.inner, _index(keys), unwrapped(value)  # ``value`` holds its memory
        read = [a.inner for a in inside(keys)] + [what] * isinstance(what, np.ndarray)
        streams.do(lambda: quietly(to.__setitem__, index, what), to, *read)

    def fill(self, value):
        self[...] = value

    def sort(self, axis=-1):
        streams.do(partial(self.inner.sort, axis), self.inner)


def _from_host(keys):
    if streams.capturing() and any(isinstance(part, (list, np.ndarray)) for part in keys):
        raise RuntimeError("the current stream is capturing, so H2D transfers are disallowed")


def _index(keys):
    return tuple(part.inner if isinstance(part, ndarray) else part for part in keys)
