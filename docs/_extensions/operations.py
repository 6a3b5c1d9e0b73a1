"""The table of fused operations, made of the backends' classes: ``generated/operations.md``.

A class is asked and never an instance, so a backend whose device is not here has its column too.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from tinynet_backends import Backend, overrides, portable_operations
from tinynet_backends.cupy_backend import CupyBackend
from tinynet_backends.numba_backend import NumbaBackend
from tinynet_backends.numpy_backend import NumpyBackend

COLUMNS: dict[str, type[Backend]] = {"numpy": NumpyBackend, "numba": NumbaBackend, "cupy": CupyBackend}
REPLACED, PORTABLE = "●", ""


def replaced(kind: type[Backend]) -> set[str]:
    """Names of the portable operations that a class replaces. What is asked was never initialised: it needs no device."""
    return set(overrides(kind.__new__(kind)))


def summary(name: str) -> str:
    """The first sentence of an operation's docstring, on one line."""
    paragraph = (inspect.getdoc(getattr(Backend, name)) or "").partition("\n\n")[0]
    return " ".join(paragraph.split()).replace("``", "`").replace("|", "\\|").replace("->", "→")


def table() -> str:
    own = {name: replaced(kind) for name, kind in COLUMNS.items()}
    lines = [f"| operation | | {' | '.join(COLUMNS)} |", f"|---|---|{':---:|' * len(COLUMNS)}"]
    for name in portable_operations():
        marks = (REPLACED if name in own[column] else PORTABLE for column in COLUMNS)
        lines.append(f"| `{name}` | {summary(name)} | {' | '.join(marks)} |")
    counts = " | ".join(str(len(own[column])) for column in COLUMNS)
    lines.append(f"| **replaced** | of {len(portable_operations())} | {counts} |")
    return "\n".join(lines) + "\n"


def generate(app: Any) -> None:
    folder = Path(app.srcdir) / "generated"
    folder.mkdir(exist_ok=True)
    (folder / "operations.md").write_text(table(), "utf-8")


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", generate)
    return {"parallel_read_safe": True}
