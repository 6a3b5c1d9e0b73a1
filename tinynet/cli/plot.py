"""``tinynet plot``: draw the picture of a run again, from its files."""

from __future__ import annotations

import argparse
import json
from math import isfinite, nan
from pathlib import Path

from tinynet.atomic import write_atomically
from tinynet.cli.common import Commands, command, open_model, run_data
from tinynet.config import Config
from tinynet.data import Dataset
from tinynet.history import History
from tinynet.model import Model
from tinynet.plot import training_png

EXAMPLES = """
tinynet plot runs/mine                              runs/mine/training.png
tinynet plot runs/mine --out loss.png
"""


def add(commands: Commands) -> None:
    parser = command(commands, "plot", "draw the picture of a run again", run, EXAMPLES)
    parser.add_argument("folder", metavar="RUN", help="a run folder")
    parser.add_argument("--out", metavar="FILE.png", help="where to write it (default RUN/training.png)")


def run(args: argparse.Namespace) -> int:
    folder = Path(args.folder)
    out = Path(args.out or folder / "training.png")
    if out.suffix.lower() != ".png":
        raise ValueError(f"{out}: unknown kind of file: choose .png")
    config, training, validation = run_data(folder)
    model = open_model(args.folder, config.backend)
    try:
        png = picture(model, validation, _history(folder / "history.jsonl", config), config, training.n)
    except ImportError:
        raise ValueError("a picture needs matplotlib: install the extra plot") from None
    write_atomically(out, png)
    print(out)
    return 0


def picture(model: Model, data: Dataset, history: History, config: Config, samples: int) -> bytes:
    """The picture of a run as a PNG. ImportError without matplotlib."""
    return training_png(model, data, history, f"{config.name}, {samples:,} samples")


def _history(path: Path, config: Config) -> History:
    """The history of a run: what `train` wrote of it, and the best epoch."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        curve = [(int(row["step"]), float(row["loss"])) for row in lines if "epoch" not in row]
        # JSON has null instead of NaN
        rows = [{name: nan if v is None else float(v) for name, v in row.items()} for row in lines if "epoch" in row]
        losses = {row["val_loss"]: int(row["epoch"]) for row in reversed(rows) if isfinite(row["val_loss"])}
        best = losses[min(losses)] if losses and config.patience else None
    except (ValueError, TypeError, KeyError) as e:
        raise ValueError(f"{path}: not the history of a run: {e}") from None
    if not curve:
        raise ValueError(f"{path}: has no losses: the run had no step yet")
    return History(rows, best_epoch=best, curve=curve)
