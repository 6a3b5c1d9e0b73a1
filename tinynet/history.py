"""The history of a run: a row per epoch, and the loss curve."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import isfinite, nan
from typing import Any

from tinynet import checks

_NO_SCORES = ("epoch", "step", "seconds", "samples_per_second")
LONGEST = 4000  # entries of a curve, an even number: at that length neighbours are merged


@dataclass(repr=False)
class History:
    """What a run recorded: a row of numbers for each epoch, and the loss curve.

    ``history["val_loss"]`` is a column, ``history[-1]`` the last row, ``history[-5:]`` the last five. A row is a dict: "epoch"
    (from 1), "step", "loss" (the mean over the epoch's batches), "seconds", "samples_per_second", the scores of the
    validation data ("val_loss", …), and what callbacks add. ``curve`` is a list of (step, mean loss since the entry
    before), every 8 steps at first, and more rarely in a long run: it has fewer than 4000 entries. ``stopped`` says why the
    run ended early, or is empty. ``best_epoch`` is the epoch whose weights early stopping kept, or None. KeyError for a
    column that no row has.

    ``DataFrame(history)``, of pandas or polars, is the whole table.

    Examples
    --------
    >>> history = tn.History([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}])
    >>> history["loss"], history[-1]
    ([0.5, 0.25], {'epoch': 2, 'loss': 0.25})
    >>> history
    <2 epochs, the last with loss 0.25>
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    stopped: str = ""  # why training ended before its last epoch, if it did
    best_epoch: int | None = None
    curve: list[tuple[int, float]] = field(default_factory=list)  # (step, mean loss since the previous entry)
    stride: int = 8  # steps between two entries of the curve
    pending: list[float] = field(default_factory=list)  # losses of the next entry

    def __repr__(self) -> str:
        last = self.rows[-1] if self.rows else {}
        row = {name: checks.as_float(value) for name, value in scores(last).items()}  # a callback's may be text
        texts = [f"{name} {n:.4g}" for name, n in row.items() if n is not None]
        count = f"{len(self)} epoch{'s' if len(self) != 1 else ''}"
        shown = f", the last with {', '.join(texts)}" if texts else ""
        return f"<{count}{shown}{f'; {self.stopped}' if self.stopped else ''}>"

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, float]]:
        return iter(self.rows)

    def __getitem__(self, key: int | slice | str) -> Any:
        if not isinstance(key, str):
            return self.rows[key]
        if self.rows and key not in self.names:
            raise KeyError(f"history has no {key!r}: choose from {', '.join(self.names)}")
        return [row.get(key, nan) for row in self.rows]

    @property
    def names(self) -> list[str]:
        """The names of all columns. A row of a run that was resumed with other metrics may lack some: NaN in the column."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def record(self, step: int, losses: tuple[float, ...], end: bool = False) -> None:
        """Add the losses of the latest steps, up to ``step``, to the curve; ``end``: an epoch, or the run, ends there.

        The curve does not depend on how the losses are split over calls, and never reaches 4000 entries.
        """
        losses, done = (*self.pending, *losses), 0
        while done < len(losses) and (end or len(losses) - done >= self.stride):
            entry = losses[done : done + self.stride]
            done += len(entry)
            self.curve.append((step - len(losses) + done, sum(entry) / len(entry)))
            if len(self.curve) == LONGEST:
                self.curve = _merged(self.curve)
                self.stride *= 2
        self.pending = [*losses[done:]]

    def json_lines(self) -> str:
        """The rows as text, one JSON object per line; NaN and infinities, which JSON lacks, become null."""
        return "".join(map(json_line, self.rows))

    def plot(self) -> Any:
        """A matplotlib Figure of the losses and, beside them, of the metrics (extra ``plot``)."""
        from tinynet.plot import history

        return history(self)


Sequence.register(History)  # pyright: ignore[reportAttributeAccessIssue] - of rows, which data frames are made of


def _merged(curve: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Each two neighbours as one, the mean over the steps of both: the last entry of an epoch has fewer than the others."""
    merged, start = [], 0
    for (middle, a), (stop, b) in zip(curve[::2], curve[1::2], strict=True):
        share = (middle - start) / (stop - start)
        merged.append((stop, share * a + (1.0 - share) * b))
        start = stop
    return merged


def scores(row: dict[str, float]) -> dict[str, float]:
    """What a row says of the model: all but its place in the run and the time that it took."""
    return {name: value for name, value in row.items() if name not in _NO_SCORES}


def json_line(row: dict[str, float]) -> str:
    """A row as a line of JSON; NaN and infinities, which JSON lacks, become null."""
    plain = {name: checks.plain(value) for name, value in row.items()}
    finite = {
        name: None if isinstance(value, float) and not isfinite(value) else value for name, value in plain.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"
