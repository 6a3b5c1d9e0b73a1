"""What has been measured, made of the files that ``python -m benchmarks --save`` keeps: ``generated/speed.md``.

Of each kind (cpu, ops, gpu) and machine, each section is shown as it was measured last. Every figure of the page comes
from these files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import plot, table
from benchmarks.comparison import Comparison

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
KINDS = {"cpu": "On the CPU", "gpu": "On a CUDA device", "ops": "Operation by operation"}
EXTREMES = ("| least |", "| most |")  # of what the table before them has the medians of: in the file, not on the page
NOTHING = "Nothing has been measured yet: there is no file in `benchmarks/results/`.\n"


def newest(folder: Path) -> list[dict[str, Any]]:
    """The results of each kind, those files first that have most sections.

    A section that was measured on the same machine and threads at a later date, the date within the file, is left out.
    """
    files = [{**json.loads(path.read_text("utf-8")), "file": path.name} for path in sorted(folder.glob("*.json"))]
    found = [saved for saved in files if "sections" in saved]  # and is no report of another kind
    latest: dict[Any, str] = {}
    for saved in sorted(found, key=lambda saved: saved["date"]):
        latest |= dict.fromkeys(_measured(saved), saved["date"])
    for saved in found:
        kept = [
            title
            for title, key in zip(saved["sections"], _measured(saved), strict=True)
            if latest[key] == saved["date"]
        ]
        saved["sections"] = {title: saved["sections"][title] for title in kept}
    order = [*KINDS, *(saved["what"] for saved in found)]
    found.sort(
        key=lambda saved: (order.index(saved["what"]), -len(saved["sections"]), len(saved["file"]), saved["file"])
    )
    return [saved for saved in found if saved["sections"]]


def _measured(saved: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What each section of a file is about, and where and how it was measured."""
    machine = saved["machine"]
    where = saved["what"], machine["cpu"], machine.get("device"), saved["threads"]
    return [(*where, title) for title in saved["sections"]]


def about(saved: dict[str, Any]) -> Iterator[str]:
    """Which machine, versions and date, as rows of a table."""
    machine = saved["machine"]
    yield f"| machine | {machine['cpu']}, {machine['cores']} cores; {machine['os']} |"
    if "device" in machine:
        yield f"| device | {machine['device']} |"
    yield f"| versions | {', '.join(f'{name} {version}' for name, version in saved['versions'].items())} |"
    yield f"| date | {saved['date']} |"
    yield f"| threads | {saved['threads'] or 'all cores'} |"
    yield f"| repeats | {table.repeats(saved)} in turns; times are medians (fastest to slowest) |"
    if control := table.control(saved):
        yield f"| control | {control} |"
    yield f"| file | `benchmarks/results/{saved['file']}` |"


def sections(saved: dict[str, Any], folder: Path) -> Iterator[str]:
    """Each section: its picture, its times, what else was noted, and who is missing."""
    for number, (title, rows) in enumerate(saved["sections"].items()):
        comparisons = [Comparison.from_json(row) for row in rows]
        picture = f"{Path(saved['file']).stem}-{number}.png"
        plot.draw({**saved, "sections": {title: rows}}, folder / picture)
        yield f"### {title.replace('``', '`').splitlines()[0]}"
        yield f"![Times of the contenders, and the best peer's time over ours]({picture})"
        yield "```{container} wide\n" + table.brief(comparisons) + "\n```"
        for notes in table.noted(comparisons):
            if notes.startswith(EXTREMES):
                continue
            yield "```{container} wide\n" + notes + "\n```"
        yield table.left_out(comparisons)


def page(results: Path, folder: Path) -> str:
    """The text of the page; its pictures are written to ``folder``."""
    parts = []
    for saved in newest(results):
        machine = saved["machine"]
        where = machine["device"].split(", ")[-1] if "device" in machine else machine["cpu"]
        parts += [f"## {KINDS.get(saved['what'], saved['what'])}: {where}"]
        parts += ["\n".join(["| | |", "|---|---|", *about(saved)])]
        parts += sections(saved, folder)
    return "\n\n".join(part for part in parts if part) + "\n" if parts else NOTHING


def generate(app: Any) -> None:
    folder = Path(app.srcdir) / "generated"
    folder.mkdir(exist_ok=True)
    (folder / "speed.md").write_text(page(RESULTS, folder), "utf-8")


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", generate)
    return {"parallel_read_safe": True}
