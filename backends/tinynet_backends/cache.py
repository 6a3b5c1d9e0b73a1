"""The folder where results about this machine are kept from one process to the next."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path


def cache_folder() -> Path:
    """$TINYNET_CACHE, else a folder in the user's cache."""
    if named := os.environ.get("TINYNET_CACHE"):
        return Path(named)
    if os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "tinynet"


def replace_file(path: Path, content: bytes) -> None:
    """Write a file of the folder, so that every reader finds all of it or what was there before. OSError if that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}")  # others may write the same file now
    try:
        draft.write_bytes(content)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
