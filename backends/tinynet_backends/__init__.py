"""Array backends: an array library, a device, and fast operations on it. They know nothing of networks."""

from tinynet_backends.backend import Backend, DenseLayer, overrides, portable_operations
from tinynet_backends.errors import BackendUnavailable
from tinynet_backends.switch import available_backends, backend_of, get_backend, set_backend, use_backend

__all__ = [
    "Backend",
    "BackendUnavailable",
    "DenseLayer",
    "available_backends",
    "backend_of",
    "get_backend",
    "overrides",
    "portable_operations",
    "set_backend",
    "use_backend",
]
