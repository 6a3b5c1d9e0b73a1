"""The values of a target column as labels, and the names of classes behind them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tinynet import checks
from tinynet.data.arrow import to_numpy
from tinynet.data.dataset import Array
from tinynet.errors import DataFileError
from tinynet.pieces import split_range

MOST_CLASSES = 1000  # a target with more distinct values is taken for a mistake


class ClassLabels:
    """The values of a target column as labels, numbered in order of appearance, or as a model numbers them."""

    def __init__(self, path: Path, name: str, known: tuple[str, ...] | None, mixed: bool) -> None:
        self.path, self.name, self.known, self.mixed = path, name, known, mixed
        self.numbers = {} if known is None else {value: label for label, value in enumerate(known)}

    def labels(self, column: Any, first: int) -> Array:
        """Labels (n,) int64 of a column of a record batch whose first row is row ``first`` of the file."""
        import pyarrow as pa

        column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        gaps = np.flatnonzero(to_numpy(column.is_null(nan_is_null=True)))
        if len(gaps):
            raise DataFileError(
                f"{self.path}: column {self.name!r} has no value in row {first + int(gaps[0])}: fill or drop it"
            )
        coded = column.cast(pa.string()).dictionary_encode()
        places = to_numpy(coded.indices)
        values = coded.dictionary.to_pylist()
        for place, value in enumerate(values):
            if value not in self.numbers:
                if self.known is not None:
                    row = first + int(np.argmax(places == place))
                    raise DataFileError(
                        f"{self.path}: column {self.name!r} has the class {checks.short_repr(value)} in row {row}, "
                        f"which the model has not seen: it knows {checks.listed(self.known)}"
                    )
                self.numbers[value] = len(self.numbers)
        if self.known is None and len(self.numbers) > MOST_CLASSES:
            raise DataFileError(
                f"{self.path}: column {self.name!r} has more than {MOST_CLASSES} different values, too many for "
                "classes: if they are numbers, the task is regression"
            )
        return np.asarray([self.numbers[value] for value in values], np.int64)[places]

    def sort(self, y: Array) -> None:
        """Renumber the classes in the order of their names, or of their values if they are integers; y in place."""
        names = sorted_names(self.path, self.name, list(self.numbers), self.mixed)
        recode(y, list(self.numbers), names)
        self.numbers = {name: label for label, name in enumerate(names)}


def sorted_names(path: Path, column: str, names: Sequence[str], mixed: bool) -> list[str]:
    """Class names in the order of their labels; ``mixed`` allows numbers beside text."""
    numbers = [name for name in names if _is_number(name)]
    if numbers and len(numbers) < len(names) and not mixed:
        text = next(name for name in names if name not in numbers)
        raise DataFileError(
            f"{path}: column {column!r} mixes numbers and text, as {numbers[0]!r} and {text!r}: fix it, or "
            "say that the task is classification"
        )
    return sorted(names, key=(lambda name: (int(name), name)) if all(map(is_integer, names)) else None)


def recode(y: Array, names: Sequence[str], new: Sequence[str]) -> None:
    """Map labels y (n,), indices into ``names``, to indices into ``new``, in place; ``new`` contains all names."""
    labels = {name: label for label, name in enumerate(new)}
    table = np.asarray([labels[name] for name in names], np.int64)
    for rows in split_range(range(len(y)), 2**20):
        y[rows.start : rows.stop] = table[y[rows.start : rows.stop]]


def is_integer(name: str) -> bool:
    """Whether ``name`` is an integer as Python writes it."""
    with suppress(ValueError):
        return str(int(name)) == name
    return False


def _is_number(text: str) -> bool:
    with suppress(ValueError):
        float(text)
        return True
    return False
