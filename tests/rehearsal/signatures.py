"""The functions of CuPy that are called here, with their signatures: `signatures.txt`, one a line, a ufunc by its name.

``python tests/rehearsal/signatures.py`` writes that file anew for the names in it, where CuPy is installed.
"""

import inspect
from pathlib import Path

FILE = Path(__file__).with_name("signatures.txt")


def read():
    """Signatures by name; None for a ufunc."""
    found = {}
    for line in FILE.read_text().splitlines():
        name, bracket, rest = line.partition("(")
        found[name] = inspect.signature(eval(f"lambda {rest[:-1]}: None")) if bracket else None
    return found


def write():
    import cupy

    lines = []
    for name in sorted(line.partition("(")[0] for line in FILE.read_text().split("\n") if line):
        function = getattr(cupy, name)
        if isinstance(function, cupy.ufunc):
            lines.append(name)
            continue
        signature = inspect.signature(function)
        parts = []
        for part in signature.parameters.values():
            default = part.default.__name__ if isinstance(part.default, type) else None
            part = part.replace(annotation=part.empty)
            if default and part.default is not part.empty:
                part = part.replace(default=_Name(default))
            parts.append(part)
        lines.append(f"{name}{signature.replace(parameters=parts, return_annotation=signature.empty)}")
    FILE.write_text("\n".join([*lines, ""]))


class _Name(str):
    """What is shown without quotes."""

    __repr__ = str.__str__


if __name__ == "__main__":
    write()
