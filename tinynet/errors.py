"""The handful of errors that are ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinynet.ensemble import Ensemble


class DivergedError(RuntimeError):
    """The loss or a weight stopped being finite; the model keeps the last weights that were seen to be good."""


_LONGEST = 1000  # letters of an error; a cell or a name in a file may have millions


class _OfAFile(ValueError):
    """One line of moderate length without control characters, whatever the file has within it."""

    def __init__(self, text: str) -> None:
        line = _cut(" ".join(text.splitlines()))
        super().__init__(_cut("".join(c if c.isprintable() else repr(c)[1:-1] for c in line)))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"


class ModelFileError(_OfAFile):
    """A file that is no model of ours, or a damaged one; the message names the file."""


class DataFileError(_OfAFile):
    """A file without the data that were asked of it, or a damaged one; the message names the file."""


class GradientError(ValueError):
    """A way back that is not the derivative of the way forward; the message names the part."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during `fit_many`; ``ensemble`` has the networks as the last finished step left them."""

    def __init__(self, ensemble: Ensemble, step: int) -> None:
        super().__init__(
            f"after step {step}: the networks so far are this exception's ensemble (sys.last_value.ensemble)"
        )
        self.ensemble = ensemble


class StopTraining(Exception):
    """Raised by a callback to end training after the epoch, or the step, that has just been reported."""
