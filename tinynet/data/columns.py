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

    def check_order(self, known: Columns, *, of_inputs: bool = False) -> None:
        """ValueError where a feature, target or class is not what has its number in ``known``; ``of_inputs``: a feature."""
        several = len(known.target) > 1  # a single target may have any name
        for kind, theirs, ours in (
            ("feature", self.features, known.features),
            ("class", () if of_inputs else self.classes or (), known.classes or ()),
            ("target", () if of_inputs or not several else self.target, known.target),
        ):
            for number, (name, own) in enumerate(zip(theirs, ours, strict=False)):
                if name != own:
                    raise ValueError(
                        f"{kind} {number} of the table is {name!r}, and that of the training data {own!r}: "
                        "data.read(path, columns=model.columns) numbers them as there"
                    )
