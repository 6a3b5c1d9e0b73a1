"""A digest of arrays, for fingerprints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def digest(arrays: Iterable[Any]) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of the bytes of NumPy arrays of any shape, one after another."""
    from hashlib import sha256  # it loads OpenSSL, which takes longer than any module of ours

    return sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()[:16]
