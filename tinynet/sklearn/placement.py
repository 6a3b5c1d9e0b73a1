"""Where arrays lie: everything follows X, and what computes there."""

from __future__ import annotations

from typing import Any

from sklearn import get_config
from tinynet_backends import Backend, backend_of, get_backend

Array = Any


def dispatches() -> bool:
    """Whether scikit-learn's array API dispatch is on. Without it every array is made NumPy's."""
    return bool(get_config()["array_api_dispatch"])


def home_of(x: Any) -> Backend:
    """The backend of X. Without dispatch, and for lists and data frames, it is NumPy's."""
    return backend_of(x) if dispatches() else get_backend("numpy")


def training_backend(name: str | None, home: Backend) -> Backend:
    """The backend that trains on arrays of ``home``: the one called ``name`` or, by default, the arrays' own.

    On the host the default is the backend in force or, if none has been chosen, the fastest available.
    """
    if name is not None:
        return get_backend(name)
    return get_backend(default="host") if home.on_host else home


def dtype_name(a: Array) -> str:
    """``"float32"`` or ``"float64"``: the dtype of a floating-point array."""
    return backend_of(a).real_name(a.dtype)


def to_host(x: Any) -> Any:
    """An array of any library as a NumPy array; anything else unchanged."""
    return backend_of(x).to_numpy(x) if hasattr(x, "__dlpack__") else x


def move(x: Array, ops: Backend, dtype: str | None = None) -> Array:
    """An array of any library as one of ``ops``."""
    return ops.asarray(x if ops.owns(x) else backend_of(x).to_numpy(x), dtype)


def check_same_home(x: Any, fitted: Array, estimator: object, method: str) -> None:
    """ValueError, in scikit-learn's words, unless X lies where the X of `fit` did."""
    if not dispatches():
        return
    now, then = backend_of(x), backend_of(fitted)
    if now is not then:
        raise ValueError(
            f"Inputs passed to {type(estimator).__name__}.{method}() must use the same namespace and the same device "
            f"as those passed to fit(): this X lies on '{now.name}', that of fit() on '{then.name}'"
        )
