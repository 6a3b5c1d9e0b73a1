"""The names of a table's columns and classes, which a model keeps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Columns:
    """The names in a table: of the features, of the targets, and of the classes in the order of their labels.

    ``target`` is empty and ``classes`` None if they have no names. ValueError for names that repeat or are not text.
    """

    features: tuple[str, ...]
    target: tuple[str, ...]
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for names in (self.features, self.target or ("",), self.classes or ("",)):
            if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
                raise ValueError(f"columns {names!r} are not names, each given once")

    @classmethod
    def of_frames(cls, x: Any, y: Any) -> Columns | None:
        """The names of features and targets, if ``x`` is a data frame, of any library, with named columns."""
        features, name = _names(x), getattr(y, "name", None)
        if not features or len(set(features)) < len(features):
            return None
        target = _names(y) or ((name,) if isinstance(name, str) and name else ())
        return cls(features, target if len(set(target)) == len(target) else ())

    def check_frame(self, x: Any) -> None:
        """ValueError if ``x`` is a data frame, of any library, with named columns that are not the features in order, or more."""
        names, remedy = _names(x), "X[list(model.columns.features)] has"
        _check("feature", names, self.features, f"{remedy} them in that order")
        if len(names) > len(self.features):
            other = names[len(self.features)]
            raise ValueError(f"column {other!r} of the table is no feature of the training data: {remedy} only those")


def check_order(columns: Columns | None, known: Columns | None, *, of_inputs: bool = False) -> None:
    """ValueError if features, targets or classes are in another order than in ``known``; with ``of_inputs``, features alone."""
    if columns is None or known is None:
        return
    remedy = "data.read(path, columns=model.columns) numbers them as there"
    _check("feature", columns.features, known.features, remedy)
    if of_inputs:
        return
    _check("class", columns.classes or (), known.classes or (), remedy)
    if len(known.target) > 1:  # a single one may have any name
        _check("target", columns.target, known.target, remedy)


def _names(frame: Any) -> tuple[str, ...]:
    """The names of the columns of a data frame; of anything else, or if not all are text, none."""
    for attribute in ("columns", "column_names"):  # the latter is Arrow's, whose columns are arrays
        names = getattr(frame, attribute, None)
        if isinstance(names, Iterable) and all(isinstance(name, str) for name in names):
            return tuple(names)
    return ()


def _check(kind: str, theirs: Iterable[str], ours: Iterable[str], in_order: str) -> None:
    """ValueError for the first name that differs; ``in_order`` is the remedy if one of the two is in another place."""
    theirs, ours = tuple(theirs), tuple(ours)
    for number, (name, own) in enumerate(zip(theirs, ours, strict=False)):
        if name != own:
            remedy = in_order if name in ours or own in theirs else f"name it {own!r}"
            raise ValueError(
                f"{kind} {number} of the table is {name!r}, and that of the training data {own!r}: {remedy}"
            )
