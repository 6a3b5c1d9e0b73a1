"""The names of a table's columns and classes, which a model keeps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Columns:
    """Names of the features, the targets and, if they have names, the classes in the order of their labels."""

    features: tuple[str, ...]
    target: tuple[str, ...]
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for names in (self.features, self.target, self.classes or ("",)):
            if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
                raise ValueError(f"columns {names!r} are not names, each given once")
