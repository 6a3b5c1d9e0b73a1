"""Callbacks that write a row per epoch to a file: as CSV, as JSON lines, or for TensorBoard.

A line is appended by one system call, so a run that is killed leaves whole lines. Existing content stays: a resumed run
appends to it, and an epoch that is trained again has a second line, of which the later one counts.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from collections.abc import Iterable
from itertools import count
from os import PathLike
from pathlib import Path
from typing import Any

from tinynet import checks
from tinynet.atomic import naming
from tinynet.errors import DataFileError
from tinynet.history import json_line
from tinynet.model import Model

Row = dict[str, float]
_numbers = count()  # of event files


class _Lines:
    """Appends whole lines to a file that holds nothing else."""

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path.parent))
        if self.path.exists() and not self.path.is_file():  # reading a device might never end
            raise DataFileError(f"{self.path}: not a regular file: give another path")
        self._checked = False

    def __call__(self, model: Model, row: Row) -> None:
        head, line = self.head(row), self.line(row)
        if not self._checked or not self.path.exists():  # which a second run may find deleted
            content = self.path.read_bytes() if self.path.exists() else b""
            *lines, rest = content.split(b"\n")
            self.check(lines, rest, row)
            if rest:
                os.truncate(self.path, len(content) - len(rest))
            self._checked = True
            line = line if lines else head + line
        with naming(self.path), open(self.path, "ab", buffering=0) as f:
            data = line.encode()
            while data:  # one pass, unless the disk is full
                data = data[f.write(data) :]

    def head(self, row: Row) -> str:
        return ""

    def line(self, row: Row) -> str:
        raise NotImplementedError

    def check(self, lines: list[bytes], rest: bytes, row: Row) -> None:
        """DataFileError unless ``row`` may follow ``lines`` and replace ``rest``, an incomplete last line."""
        raise NotImplementedError


class JSONLines(_Lines):
    """A callback for `fit` that appends a JSON object per epoch to the file ``path``.

    NaN and infinities, which JSON lacks, become null. An incomplete last line, as a full disk may leave it, is removed
    first. `DataFileError`, and no change, if the file ends in anything else; FileNotFoundError if its folder does not exist.

    Examples
    --------
    >>> from pathlib import Path
    >>> data = [[0.0], [1.0]], [[1.0], [3.0]]
    >>> history = tn.Model(tn.Dense(1), n_in=1).fit(data, epochs=3, callbacks=[tn.JSONLines("run.jsonl")])
    >>> len(Path("run.jsonl").read_text().splitlines())
    3
    """

    def line(self, row: Row) -> str:
        return json_line(row)

    def check(self, lines: list[bytes], rest: bytes, row: Row) -> None:
        try:
            ours = isinstance(json.loads(lines[-1]), dict) if lines else True
        except ValueError:
            ours = False
        if not ours or rest[:1] not in (b"", b"{"):
            raise DataFileError(f"{self.path} does not hold JSON lines: give another path, or move it away")


class CSVLog(_Lines):
    """A callback for `fit` that appends a line per epoch to the CSV file ``path``, which has a header.

    Numbers are written with all digits. An incomplete last line, as a full disk may leave it, is removed first.
    `DataFileError`, and no change, if the file has other columns; FileNotFoundError if its folder does not exist.
    """

    names: tuple[str, ...] = ()

    def head(self, row: Row) -> str:
        return _csv(row)

    def line(self, row: Row) -> str:
        self.names = self.names or tuple(row)
        if tuple(row) != self.names:
            columns, row_has = ", ".join(self.names), ", ".join(row)
            raise DataFileError(f"{self.path} has columns {columns}, and this row {row_has}: give another path")
        return _csv(row.values())

    def check(self, lines: list[bytes], rest: bytes, row: Row) -> None:
        head = _csv(row).encode()
        if not (lines[0] + b"\n" == head if lines else head.startswith(rest)):
            raise DataFileError(
                f"{self.path} has other columns than {', '.join(row)}: give another path, or move it away"
            )


def _csv(cells: Iterable[object]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()


class TensorBoard:
    """A callback for `fit` that writes event files for TensorBoard to ``folder`` (extra ``tensorboard``: tensorboardX).

    Each number of an epoch's row is a scalar under its own name, and the loss curve within epochs is "loss_of_steps".
    ``weights`` adds a histogram of each array of the model. Steps are those of the run. Where a resumed run trains epochs
    again, TensorBoard shows only the later ones. Data reach the disk within a second, or at `close`. ImportError without
    tensorboardX.
    """

    def __init__(self, folder: str | PathLike[str], *, weights: bool = False) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as e:
            raise ImportError("TensorBoard needs tensorboardX: install the extra tensorboard") from e
        self.folder, self.weights = Path(folder), weights
        self._make: Any = SummaryWriter
        self._writer: Any = None

    def __call__(self, model: Model, row: Row) -> None:
        step = int(row["step"])
        rows, curve = ([], []) if model.history is None else (model.history.rows, model.history.curve)
        begun = next((int(one["step"]) for one in reversed(rows) if one["step"] < step), 0)  # where this epoch began
        if self._writer is None:  # opened only now, so that a run that never starts leaves no file
            self._writer = self._open(begun)
        for name, value in row.items():
            if name not in ("epoch", "step") and checks.as_float(value) is not None:
                self._writer.add_scalar(name, value, step)
        for t, loss in curve:
            if begun < t <= step:
                self._writer.add_scalar("loss_of_steps", loss, t)
        if self.weights:
            for name, array in model.weights().items():
                self._writer.add_histogram(name, model.ops.to_numpy(array), step)

    def __getstate__(self) -> dict[str, Any]:
        """Without the open file: a copy, such as that in a cloned or pickled estimator, opens its own."""
        return {**self.__dict__, "_writer": None}

    def _open(self, begun: int) -> Any:
        """A new event file. If the run is resumed after ``begun`` steps, TensorBoard drops what older files have of later ones."""
        again = {"purge_step": begun + 1} if begun else {}
        # tensorboardX names a file by the second and replaces one of that name
        suffix = f".{os.getpid()}.{next(_numbers)}"
        return self._make(str(self.folder), flush_secs=1, filename_suffix=suffix, **again)

    def close(self) -> None:
        """Close the event file; the next row starts a new one."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
