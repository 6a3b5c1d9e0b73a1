"""Checkpoints: everything that a run consists of, in one file, from which it continues bit for bit.

A checkpoint is (theta, layer state, optimizer state, average, best weights) as arrays, and the step, history, counters
and a fingerprint of what was trained on what as JSON.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from time import time
from typing import Any, TypeVar

from tinynet import checks
from tinynet.data.loader import BatchSource
from tinynet.epochs import Best, Tally
from tinynet.errors import ModelFileError
from tinynet.files import FORMAT, check_arrays, read_sealed, save, write_sealed, write_tensors
from tinynet.history import History
from tinynet.losses import Loss
from tinynet.model import Model
from tinynet.optim import Optimizer
from tinynet.step import Run

# The version of what a checkpoint holds. In version 1, which had no number, Adam's slots were means, not sums; in version 2
# the history was in the header, and a long one made a file that could not be read.
_CONTENTS = 3
T = TypeVar("T")
_NAME = re.compile(r"step-(\d{12})\.safetensors")


@dataclass
class Snapshot:
    """What changes in a run of `fit`; ``finished``: it ended by itself before its last epoch."""

    model: Model
    run: Run
    best: Best
    history: History
    tally: Tally
    finished: bool = False

    def pack(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Arrays by name, and the rest as JSON data."""
        arrays, run, best, history, tally = self._arrays(), self.run, self.best, self.history, self.tally
        if best.kept is not None:
            arrays["best.theta"], arrays["best.state"] = best.kept
        about = {
            "step": run.step,
            "finished": self.finished,
            "scalars": {name: value for name, value in run.slots.items() if isinstance(value, float)},
            "best": [best.epoch, best.waited, best.value],
            "tally": [tally.total, tally.counted, tally.elapsed()],
            "history": [history.rows, history.stopped, history.curve, history.stride, history.pending],
        }
        return arrays, about

    def unpack(self, arrays: dict[str, Any], about: dict[str, Any]) -> None:
        """Take everything back, or raise ValueError, TypeError or KeyError and change nothing."""
        model, run, best, history = self.model, self.run, self.best, self.history
        shapes = {name: tuple(a.shape) for name, a in self._arrays().items()}
        if "best.theta" in arrays:
            shapes |= {"best.theta": shapes["theta"], "best.state": shapes["state"]}
        check_arrays(arrays, shapes, model.dtype, "run")
        step, finished, scalars = int(about["step"]), bool(about["finished"]), about["scalars"]
        epoch, waited, value = about["best"]
        counters = int(epoch), int(waited), float(value)
        total, counted, seconds = about["tally"]
        tally = Tally(float(total), int(counted), float(seconds))
        rows, stopped, curve, stride, pending = about["history"]
        past = History(
            [dict(row) for row in rows],
            stopped=str(stopped) if finished else "",
            curve=[(int(t), float(v)) for t, v in curve],
            stride=int(stride),
            pending=[float(v) for v in pending],
        )
        if set(scalars) != {name for name, v in run.slots.items() if isinstance(v, float)} or step < 0:
            raise ValueError("its counters are not those of this run")

        ops = model.ops
        new = {name: ops.asarray(a) for name, a in arrays.items()}
        model.theta[...], model.state[...] = new["theta"], new["state"]
        for name in run.slots:
            if isinstance(run.slots[name], float):
                run.slots[name] = float(scalars[name])
            else:
                run.slots[name][...] = new[f"slot.{name}"]
        if run.average is not None:
            run.average[...] = new["average"]
        if "best.theta" in new:
            best.kept = new["best.theta"], new["best.state"]
        best.epoch, best.waited, best.value = counters
        vars(history).update(vars(past))  # in place: the model and the callers have this object
        run.step, self.tally, self.finished = step, tally, finished

    def _arrays(self) -> dict[str, Any]:
        """All arrays but the best weights."""
        slots = {f"slot.{name}": value for name, value in self.run.slots.items() if not isinstance(value, float)}
        average = {} if self.run.average is None else {"average": self.run.average}
        return {"theta": self.model.theta, "state": self.model.state, **slots, **average}


class Checkpoints:
    """Where, when and how many checkpoints `fit` writes.

    One is written every ``every`` steps (by default after each epoch) and after the last step. ``folder`` keeps the last
    ``keep`` of them, and ``best.safetensors``: the model of the epoch with the lowest validation loss, or training loss if
    there is no validation. `tinynet.load` reads that file, unless the network has layers that are not the library's: then it
    has the weights alone. ``config`` is text of yours that is saved in each checkpoint.

    Examples
    --------
    >>> checkpoints = tn.Checkpoints("a run", every=8)
    >>> model = tn.Model(tn.Dense(1), n_in=1)
    >>> history = model.fit(([[0.0], [1.0]], [[1.0], [3.0]]), epochs=20, checkpoint=checkpoints)
    >>> checkpoints.steps()
    [20, 16, 8]
    """

    def __init__(
        self, folder: str | PathLike[str], *, every: int | None = None, keep: int = 3, config: str = ""
    ) -> None:
        if not isinstance(folder, (str, PathLike)) or not os.fspath(folder):
            raise ValueError(f"checkpoint folder {checks.short_repr(folder)} is not a path: give the name of a folder")
        self.folder, self.config = Path(folder), config
        self.every = None if every is None else checks.positive("Checkpoints every", every)
        self.keep = checks.positive("Checkpoints keep", keep)
        self.stopping = ""
        self._fingerprint: dict[str, str] = {}
        self._least = float("inf")

    def stop(self, why: str) -> None:
        """Ask the run to finish its current step, write a checkpoint and return; ``why`` becomes `History.stopped`.

        It only sets a flag, so a signal handler may call it. The run clears the flag when it obeys, or when it ends.
        """
        self.stopping = why

    def due(self, step: int) -> bool:
        """Whether to save after this step."""
        return bool(self.stopping) or (self.every is not None and step % self.every == 0)

    def steps(self) -> list[int]:
        """The steps of the checkpoints in the folder, the latest first."""
        if not self.folder.is_dir():
            return []
        return sorted((int(m[1]) for m in map(_NAME.fullmatch, os.listdir(self.folder)) if m), reverse=True)

    def path(self, step: int) -> Path:
        """The file of the checkpoint after ``step`` steps."""
        return self.folder / f"step-{step:012}.safetensors"

    def read_fingerprint(self) -> dict[str, str]:
        """What the newest intact checkpoint was written for; empty if there is none at all.

        A damaged one is reported with a warning. ModelFileError if all are.
        """
        found, _ = self._newest(lambda path: dict(read_sealed(path)[0]["fingerprint"]))
        return found or {}

    def open(self, snapshot: Snapshot, fingerprint: dict[str, str], resume: bool) -> None:
        """Make the folder; with ``resume``, take the newest intact checkpoint in it.

        A damaged one is reported with a warning, kept under another name, and the one before it used. ModelFileError if all
        are, and again the next time; ValueError if they were written for something else, or if there are some and
        ``resume`` is not set.
        """
        self._fingerprint, self._least = fingerprint, float("inf")  # of this run, not of one before
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob(".*.safetensors.*.tmp"):  # a killed writer's; a newer one may still be written
            if time() - left.stat().st_mtime > 3600:
                left.unlink(missing_ok=True)
        if self.steps() and not resume:
            raise ValueError(f"{self.folder} has checkpoints already: give resume=True, or another folder")

        def take(path: Path) -> None:
            about, arrays = read_sealed(path)
            if about.get("contents") != _CONTENTS:
                raise _AnotherRun(f"{path} was written by another version of tinynet: begin in another folder")
            self._compare(about["fingerprint"], path)
            snapshot.unpack(arrays, about)
            self._least = float(about["least"])

        _, damaged = self._newest(take)
        for path in damaged:
            os.replace(path, path.with_suffix(".damaged"))

    def _newest(self, use: Callable[[Path], T]) -> tuple[T | None, list[Path]]:
        """What ``use`` makes of the newest intact checkpoint, if there is one, and the damaged ones that are newer."""
        damaged: list[Path] = []
        for path in map(self.path, self.steps()):
            try:
                return use(path), damaged
            except (_AnotherRun, OSError):
                raise
            except (ValueError, TypeError, KeyError, AttributeError) as e:
                _warn(path, e)
                damaged.append(path)
        if damaged:
            count = len(damaged)
            raise ModelFileError(f"{self.folder}: none of its {count} checkpoints is whole: begin in another folder")
        return None, damaged

    def _compare(self, theirs: dict[str, str], path: Path) -> None:
        if not isinstance(theirs, dict):
            raise TypeError("its fingerprint is not a mapping")
        for name, mine in self._fingerprint.items():
            if theirs.get(name) != mine:
                raise _AnotherRun(
                    f"{path} was written for another {name}: {theirs.get(name)} there, {mine} here: resume with what is "
                    "there, or begin in another folder"
                )

    def save(self, snapshot: Snapshot) -> None:
        """Write a checkpoint, whole or not at all, and delete those that are too many."""
        arrays, about = snapshot.pack()
        about |= {"format": FORMAT, "kind": "checkpoint", "contents": _CONTENTS, "fingerprint": self._fingerprint}
        about |= {"least": self._least, "config": self.config}
        host = {name: snapshot.model.ops.to_numpy(a) for name, a in arrays.items()}
        write_sealed(self.path(snapshot.run.step), host, about)
        for step in self.steps()[self.keep :]:
            self.path(step).unlink(missing_ok=True)

    def keep_best(self, row: dict[str, float], model: Model) -> None:
        """Write ``model`` to ``best.safetensors`` if ``row``, that of its epoch, is the best so far."""
        value = row.get("val_loss", row["loss"])
        if value < self._least:
            self._least = value
            path = self.folder / "best.safetensors"
            try:
                save(model, path)
            except TypeError:  # a layer of the user's own, which no file can name
                write_tensors(path, model.weights(), {"format": FORMAT, "kind": "weights"}, model.ops)


def _warn(path: Path, e: Exception) -> None:
    """Warn of a damaged checkpoint, at the line that called a method of `Checkpoints`."""
    why = str(e) if isinstance(e, ModelFileError) else f"{path}: damaged checkpoint: {e}"
    warnings.warn(f"{why}; going back to the one before", stacklevel=5)


class _AnotherRun(ValueError):
    """An intact checkpoint, but of a different run or written by another version."""


def fingerprint(
    model: Model, loader: BatchSource, loss: Loss, optimizer: Optimizer, options: dict[str, Any]
) -> dict[str, str]:
    """What decides the path of a run, by name, as text that another process writes alike."""
    batches = getattr(loader, "fingerprint", lambda: type(loader).__name__)
    texts = {
        "model": f"{model.net!r}, {model.in_shape}, seed={model.seed}, {model.dtype}",
        "data set or loader": batches(),
        "loss": repr(loss),
        "optimizer": repr(optimizer),
        **{name: repr(checks.plain(value)) for name, value in options.items()},  # NumPy's 0.5 is written as Python's
    }
    return {name: re.sub(r" at 0x[0-9a-fA-F]+", "", text) for name, text in texts.items()}
