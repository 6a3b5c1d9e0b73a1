"""What a benchmark finds: the times of contenders, measured in turns, and their ratios."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from statistics import median
from typing import Any

REFERENCES = ("numpy", "python", "torch.matmul")  # what we build on: a bound on what is possible, not peers


def is_ours(name: str) -> bool:
    return name.startswith("tinynet")


@dataclass
class Comparison:
    """Seconds of each contender, one for each repeat. Times at the same index were taken in the same turn: they are pairs.

    ``control`` has the seconds of a fixed piece of work in each of these turns, ``notes`` other numbers by contender and
    name, ``left_out`` the reasons why contenders are missing.
    """

    label: str
    times: dict[str, list[float]]
    control: list[float] = field(default_factory=list)
    notes: dict[str, dict[str, float]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def ours(self) -> list[str]:
        return [name for name in self.times if is_ours(name)]

    @property
    def peers(self) -> list[str]:
        return [name for name in self.times if not is_ours(name) and name not in REFERENCES]

    def median(self, name: str) -> float:
        return median(self.times[name])

    def spread(self, name: str) -> tuple[float, float]:
        """The fastest and the slowest repeat."""
        return min(self.times[name]), max(self.times[name])

    def ratio(self, others: str | Iterable[str], mine: str) -> float:
        """How many times faster ``mine`` is than the best of the others: the median of the ratios within each repeat.

        A machine that is busy for a while slows both halves of a pair, which leaves their ratio as it is.
        """
        names = [others] if isinstance(others, str) else list(others)
        best = [min(turn) for turn in zip(*(self.times[name] for name in names), strict=True)]
        return median(b / a for a, b in zip(self.times[mine], best, strict=True))

    def against_best(self, mine: str) -> float | None:
        """The ratio to the fastest peer of each repeat; None without a peer."""
        return self.ratio(self.peers, mine) if self.peers else None

    def to_json(self) -> dict[str, Any]:
        """All that was measured, and the medians and ratios that follow, for human readers of the file."""
        follows = {
            "medians": {name: self.median(name) for name in self.times},
            "ratios": {mine: {peer: self.ratio(peer, mine) for peer in self.peers} for mine in self.ours},
        }
        return asdict(self) | follows

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Comparison:
        return cls(**{f.name: saved[f.name] for f in fields(cls) if f.name in saved})
