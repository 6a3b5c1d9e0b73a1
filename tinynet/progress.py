"""Progress on standard error: a bar and the loss curve if it is a terminal, else one line per epoch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tinynet.data.loader import BatchSource
from tinynet.data.stacked import samples_per_epoch
from tinynet.history import History, scores
from tinynet.terminal import curve

CURVE = 8  # lines of the curve; it is omitted if the terminal has fewer than twice as many


class Silent:
    """Shows nothing; the interface of the others."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def step(self, step: int, loss: float) -> None:
        """Called when ``step`` steps are done."""

    def epoch(self, row: dict[str, float]) -> None:
        """Called when an epoch is done; ``row`` is its row of the history."""


def line(row: dict[str, float]) -> str:
    """A row of the history in one line."""
    shown = [f"epoch {row['epoch']:.0f}", f"step {row['step']:.0f}"]
    shown += [f"{name} {value:.4f}" for name, value in scores(row).items()]
    return "  ".join([*shown, _speed(row["samples_per_second"])])


def _speed(samples: float) -> str:
    """Samples per second, short enough for an epoch's line with a metric to fit into 80 columns."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if samples >= size:
            return f"{samples / size:.3g}{letter}/s"
    return f"{samples:.3g}/s"


class Lines(Silent):
    """One line per epoch."""

    def epoch(self, row: dict[str, float]) -> None:
        print(line(row), file=sys.stderr, flush=True)


class Bar(Silent):
    """A bar with steps, samples per second, loss and remaining time; above it the curve of ``history``."""

    def __init__(self, epochs: int, loader: BatchSource, history: History) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.text import Text

        total = epochs * loader.steps_per_epoch
        self.samples_per_step = samples_per_epoch(loader) / loader.steps_per_epoch
        console = Console(stderr=True)

        class Curved(Progress):
            def get_renderables(self) -> Any:
                size, drawable = console.size, not console.options.ascii_only
                if drawable and size.height >= 2 * CURVE and len(history.curve) > 1:
                    yield Text("\n".join(curve(list(history.curve), min(size.width, 100), CURVE, total)))
                yield from super().get_renderables()

        self.bar = Curved(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}  loss {task.fields[loss]}"),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=4,
        )
        self.task: Any = self.bar.add_task("training", total=total, rate="", loss="")

    def __enter__(self) -> Bar:
        self.bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.bar.stop()

    def step(self, step: int, loss: float) -> None:
        speed = self.bar.tasks[0].speed
        rate = _speed(speed * self.samples_per_step) if speed else ""
        self.bar.update(self.task, completed=step, rate=rate, loss=f"{loss:.4f}")

    def epoch(self, row: dict[str, float]) -> None:
        self.bar.console.print(line(row), highlight=False)


def make(epochs: int, loader: BatchSource, history: History) -> Silent:
    """A bar if standard error is a terminal, else lines."""
    return Bar(epochs, loader, history) if sys.stderr.isatty() else Lines()


@contextmanager
def samples(total: int, quiet: bool) -> Iterator[Callable[[int], object]]:
    """A function to call with the number of samples done; it shows a bar if standard error is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("writing", total=total)
        yield lambda done: bar.update(task, completed=done)
