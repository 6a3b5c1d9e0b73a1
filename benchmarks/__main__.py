"""What it costs, side by side with peers, in one interleaved run.

``python -m benchmarks cpu`` training steps, fit, many networks, scikit-learn, estimators, time to accuracy, imports,
growth; ``ops`` operations beside their portable originals; ``data`` what data cost; ``gpu`` training steps on a CUDA device;
``peers`` which peers are installed; ``table FILE`` and ``plot FILE OUT.png`` show what ``--save`` has kept.

Each contender runs in a process of its own. The processes take turns, several times, so that a busy machine is busy for
all of them, and a control shows how busy it was.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks import machine, table
from benchmarks.comparison import Comparison
from benchmarks.runner import Options, Runner
from tinynet.atomic import write_atomically

RESULTS = Path(__file__).parent / "results"
SETTING = "date", "machine", "versions", "threads"  # of one results file
Section = Callable[[Runner], Iterator[Comparison]]


def _sections(what: str, chosen: list[str]) -> list[Section]:
    """The sections to run; imported here, so that ``table`` and ``peers`` need no peer."""
    if what == "ops":
        from benchmarks import ops

        return [ops.run]
    if what == "gpu":
        from benchmarks import gpu

        return _chosen(gpu.SECTIONS, chosen or ["steps", "data"])
    from benchmarks.sections import accuracy, classifier, estimators, fit, growth, imports, many, steps

    modules = {
        "steps": steps,
        "fit": fit,
        "many": many,
        "sklearn": classifier,
        "estimators": estimators,
        "accuracy": accuracy,
        "import": imports,
        "growth": growth,
    }
    return _chosen({name: module.run for name, module in modules.items()}, chosen)


def _chosen(known: Mapping[str, Section], chosen: list[str]) -> list[Section]:
    if unknown := set(chosen) - set(known):
        raise SystemExit(f"unknown section {', '.join(sorted(unknown))}: choose from {', '.join(known)}")
    return [section for name, section in known.items() if not chosen or name in chosen]


def measure(
    what: str, sections: list[Section], options: Options, device: str | None = None, folder: Path | None = None
) -> dict[str, Any]:
    """Run the sections, print each comparison as it comes, and return the content of a results file.

    With a ``folder``, the results so far are saved there after each comparison, in case the run is cut short.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="tinynet-benchmarks-", ignore_cleanup_errors=True) as cache:
        runner = Runner(options, cache)
        results = {
            "what": what,
            "date": date.today().isoformat(),
            "machine": machine.describe() | ({"device": device} if device else {}),
            "versions": machine.versions(),
            "threads": options.threads,
            "threads in use": runner.threads,
            "repeats": options.repeats,
            "sections": found,
        }
        for section in sections:
            title = (section.__doc__ or "").strip()
            print(f"\n{title}", flush=True)
            for comparison in section(runner):
                show(comparison)
                found.setdefault(title, []).append(comparison.to_json())
                if folder:
                    save(results, folder)
    return results


def show(c: Comparison) -> None:
    """A comparison on the terminal."""
    print(f"  {c.label}")
    for name in c.times:
        ratios = [f"best peer / this {best:.2f}"] if name in c.ours and (best := c.against_best(name)) else []
        kept = [f"{kind} {table.number(value)}" for kind, value in c.notes.get(name, {}).items()]
        print(f"    {name:<22}{table.duration(c.median(name)):>9}  ({table.span(*c.spread(name))})  ", end="")
        print("; ".join(ratios + kept), flush=True)
    if not c.times and not c.left_out:
        print("    no contender has a name that --only gives")
    for name, why in c.left_out.items():
        print(f"    {name:<22}left out: {why}", flush=True)


def save(results: dict[str, Any], folder: Path) -> Path:
    """Write a results file, named after what was run, the date and the device, if any.

    A run may be made in pieces, which are merged. In another setting it gets a file of its own, with a number.
    """
    device = results["machine"].get("device", "").rpartition(", ")[2]  # its name, which follows those of libraries
    parts = [results["what"], results["date"], *re.findall("[a-z0-9]+", device.lower())]
    folder.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        path = folder / f"{'-'.join(parts + [str(number)] * (number > 1))}.json"
        if not path.exists():
            break
        earlier = json.loads(path.read_text("utf-8"))
        if all(earlier[what] == results[what] for what in SETTING):
            results = _merged(earlier, results)
            break
    write_atomically(path, (json.dumps(results, indent=1) + "\n").encode())
    return path


def _merged(earlier: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """The results, with those comparisons of ``earlier`` that they do not repeat."""
    sections = {title: [*rows] for title, rows in earlier["sections"].items()}
    for title, rows in results["sections"].items():
        repeated = {row["label"] for row in rows}
        sections[title] = [row for row in sections.get(title, []) if row["label"] not in repeated] + rows
    return results | {"sections": sections, "threads in use": earlier["threads in use"] | results["threads in use"]}


def names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("what", nargs="?", default="cpu", choices=("cpu", "ops", "data", "gpu", "peers", "table", "plot"))
    add("files", nargs="*", help="for table and plot")
    add("--seconds", type=float, help="time for each measurement: by default 0.5, and 0.15 on a device")
    add("--repeats", type=int, default=3, help="turns that each contender takes")
    add("--threads", type=int, help="for everyone; by default all cores")
    add("--only", type=names, default=[], metavar="NAME,NAME", help="contenders")
    add("--rows", type=names, default=[], metavar="1,2", help="rows of the table of steps")
    add(
        "--sections", type=names, default=[], metavar="NAME,NAME",
        help="steps,fit,many,sklearn,estimators,accuracy,import,growth; on a device steps,data",
    )  # fmt: skip
    add("--precisions", type=names, default=[], metavar="NAME,NAME", help="float32,tf32,bf16,bf16x3, on a device")
    add("--device", choices=("gpu", "cpu"), default="gpu", help=argparse.SUPPRESS)
    add(
        "--save", nargs="?", type=Path, const=RESULTS, metavar="FOLDER",
        help="keep the results of cpu, ops or gpu, by default with ours",
    )  # fmt: skip
    args = parser.parse_args(arguments)
    if len(args.files) != {"table": 1, "plot": 2}.get(args.what, 0):
        parser.error("files are for table FILE and plot FILE OUT.png; parts of a run are chosen by --sections")
    return args


def main(arguments: list[str] | None = None) -> None:
    args = _parse(arguments)
    if args.what == "data":
        from benchmarks import data

        data.main()
    elif args.what == "peers":
        from benchmarks import peers

        peers.main()
    elif args.what in ("table", "plot"):
        saved = json.loads(Path(args.files[0]).read_text("utf-8"))
        if args.what == "table":
            print(table.markdown(saved))
        else:
            from benchmarks import plot

            plot.draw(saved, args.files[1])
    else:
        _run(args)


def _run(args: argparse.Namespace) -> None:
    device, seconds = None, 0.5
    if args.what == "gpu":
        from benchmarks import gpu

        try:
            device = gpu.found(args.device)
        except gpu.Absent as e:
            print(f"Nothing to time on a GPU: {e}")
            return
        seconds = gpu.SECONDS
        print(device)
    options = Options(
        args.seconds or seconds, args.repeats, args.threads, tuple(args.only),
        tuple(map(int, args.rows)), tuple(args.precisions), args.device,
    )  # fmt: skip
    results = measure(args.what, _sections(args.what, args.sections), options, device, args.save)
    if control := table.control(results):
        print(f"\nControl: {control}")
    if args.save:
        print(f"Saved: {save(results, args.save)}")


if __name__ == "__main__":
    main()
