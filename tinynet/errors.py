"""The library's own exceptions."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinynet.ensemble import Ensemble


class DivergedError(RuntimeError):
    """The loss or a weight is no longer finite; the model has the last weights that were known to be finite."""


_LONGEST = 1000  # characters of a message; a cell or a name in a file may have millions


class _FileError(ValueError):
    """Its message is one printable line of moderate length, whatever the file contains."""

    def __init__(self, text: str) -> None:
        line = _cut(" ".join(text.splitlines()))
        super().__init__(_cut("".join(c if c.isprintable() else repr(c)[1:-1] for c in line)))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"


class ModelFileError(_FileError):
    """A file that is not a model of this library, or is damaged; the message names it."""


class DataFileError(_FileError):
    """A data file that lacks what was asked for, or is damaged; the message names it."""


class GradientError(ValueError):
    """A backward pass that is not the derivative of its forward pass; the message names the input or parameter."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during `fit_many`. Its ``ensemble`` has the networks, with the weights of the last finished step."""

    def __init__(self, ensemble: Ensemble, step: int) -> None:
        super().__init__(
            f"after at least {step} steps: the networks so far are this exception's ensemble (sys.last_value.ensemble)"
        )
        self.ensemble = ensemble


class StopTraining(Exception):
    """Raised by a callback to end the run after the current epoch or step; its text becomes `History.stopped`."""
