"""What users give, lists, data frames and arrays of any library, as an array of a backend."""

from __future__ import annotations

from typing import Any

from tinynet_backends import Backend, get_backend

from tinynet.data.dataset import Array


def as_array(x: Any, name: str) -> tuple[Array, Backend]:
    """``x`` and its backend: the host for lists and NumPy arrays, otherwise the one that owns it.

    Of a subclass of NumPy's arrays it is the plain array: ``*`` of two of its matrices, for one, is another product.
    """
    host = get_backend("numpy")
    check_unmasked(x, name)
    if _is_array(x):
        for backend in (host, get_backend()):
            if backend.owns(x):
                with backend.active():  # CuPy would copy it to the current device
                    return backend.xp.asarray(x), backend
        owner = get_backend().name
        raise TypeError(f"{name} is a {_kind(x)}, which backend '{owner}' does not own: convert it, or switch backends")
    try:
        array = host.xp.asarray(x)
    except ValueError:
        raise TypeError(f"{name} is not an array: its rows differ in length") from None
    if array.ndim == 0 and array.dtype.kind in "OUS":  # a sparse matrix, a dict, a generator, a path
        raise TypeError(f"{name} is a {type(x).__name__}, not an array: give an array or a list")
    if array.ndim == 2 and array.dtype.kind == "O" and hasattr(x, "columns"):
        return _side_by_side(x, name, host.xp), host
    return array, host


def as_array_beside_x(x: Any, name: str, ops: Backend) -> Array:
    """``x`` as an array on ``ops``, the backend of X: a list, or an array of the same library and device."""
    if _is_array(x) and not ops.owns(x):
        raise TypeError(f"{name} is a {_kind(x)} and X lies on '{ops.name}': bring both to one library and device")
    return ops.asarray(as_array(x, name)[0])


def check_unmasked(x: Any, name: str) -> None:
    """TypeError for one of NumPy's masked arrays, if it has missing values: its numbers are there all the same."""
    if type(x).__name__ == "MaskedArray" and x.mask.any():
        raise TypeError(f"{name} is a masked array, and no value can be missing: give {name}.filled(…)")


def read_only(a: Array) -> Array:
    """``a``, a view of the user's array: where NumPy can forbid it, a layer that writes to it is an error."""
    if hasattr(a, "setflags"):
        a.setflags(write=False)
    return a


def _is_array(x: Any) -> bool:
    """Whether ``x`` is an array of some library, and not one of NumPy's scalars, which have the same protocols."""
    protocol = hasattr(x, "__array_namespace__") or hasattr(x, "__dlpack__")
    return protocol and not isinstance(x, get_backend("numpy").xp.generic)


def _kind(x: Any) -> str:
    return f"{type(x).__module__.split('.')[0]} array on {getattr(x, 'device', 'no device')}"


def _side_by_side(frame: Any, name: str, xp: Any) -> Array:
    """The columns of a data frame as one array: pandas makes objects of flags beside numbers."""
    columns = {label: xp.asarray(frame[label]) for label in frame.columns}
    for label, column in columns.items():
        if column.ndim != 1 or not xp.isdtype(column.dtype, ("real floating", "integral", "bool")):
            kind = getattr(frame[label], "dtype", column.dtype)
            raise TypeError(f"{name} has the column {label!r} of dtype {kind}, which is not numeric: encode or drop it")
    return xp.stack(list(columns.values()), axis=1)
