"""The backends that the tests run over: what an array library may be, on a laptop and, with ``-m gpu``, on a CUDA
device."""

import os

import pytest
from tinynet_backends import BackendUnavailable, get_backend, set_backend

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # scikit-learn takes other arrays than NumPy's only where SciPy does

NAMES = [
    "numpy",
    "numba",
    pytest.param("strict:CPU_DEVICE", marks=pytest.mark.slow),
    pytest.param("strict:device1", marks=pytest.mark.slow),
    "strict:device2",  # the strictest of them: it is not the default device, and float32 is its default dtype
    "torch",
]


@pytest.fixture(params=[*NAMES, pytest.param("cupy", marks=pytest.mark.gpu)])
def ops(request):
    """Every backend; one that is not there is skipped, with the reason that its own error gives."""
    try:
        return get_backend(request.param)
    except BackendUnavailable as e:
        pytest.skip(str(e))


@pytest.fixture(autouse=True)
def _no_choice_from_outside(monkeypatch):
    monkeypatch.delenv("TINYNET_BACKEND", raising=False)
    yield
    set_backend(None)
