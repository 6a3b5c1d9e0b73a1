"""The documentation says what is so: its code runs in order and prints what the pages show, docstring examples hold,
the reference has every public name, and what is generated is what was asked of the code.

In a page, ```` ```python ```` blocks are one program; a ```` ```text ```` block shows what the block before it prints. The line
``% needs: NAME`` says that what follows needs a backend or an importable package.
"""

import contextlib
import doctest
import importlib
import importlib.util
import io
import json
import re
import sys
from pathlib import Path

import pytest
from tinynet_backends import Backend, BackendUnavailable, get_backend, overrides, portable_operations
from tinynet_backends.switch import NAMES

import tinynet as tn
from tinynet import registry

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md") if not {"_build", "generated"} & set(page.parts)
)
TUTORIAL = [page for page in PAGES if re.match(r"tutorial/\d\d-", page)]
PIECE = re.compile(r"^% needs: (?P<needs>\S+)$|^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.M | re.S)


def pieces(text):
    """(kind, text) of what the test looks at, in order: "needs", "python", "text", and blocks that are not run."""
    return [
        ("needs", found["needs"]) if found["needs"] else (found["kind"], found["text"])
        for found in PIECE.finditer(text)
    ]


def need(name):
    """Skip unless the backend, or package, of that name is here."""
    if name in NAMES:
        try:
            get_backend(name)
        except BackendUnavailable as e:
            pytest.skip(str(e))
    elif importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")


def run(text, name):
    """Run a page; AssertionError where a block prints something else than the page shows."""
    namespace = {"__name__": "__main__"}
    found = pieces(text)
    for number, (kind, block) in enumerate(found):
        if kind == "needs":
            need(block)
        if kind == "text":
            assert [before for before, _ in found[:number]][-1:] == ["python"], "output without the code that prints it"
        if kind == "python":
            shown = found[number + 1][1] if number + 1 < len(found) and found[number + 1][0] == "text" else ""
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(block, f"{name}, block {number}", "exec"), namespace)
            assert printed.getvalue() == shown


LONG = {"howto/looking.md", "howto/research.md"}  # many steps of training, many pictures


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow) if page in LONG else page
        for page in PAGES
        if "```python" in (DOCS / page).read_text("utf-8")
    ],
)
def test_a_page_runs_and_prints_what_it_shows(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "TABLE", dict(registry.TABLE))  # a page may add layers
    text = (DOCS / page).read_text("utf-8").replace("n=1_000_000", "n=100_000")  # the same path in less time
    run(text, page)


def test_the_tutorial_is_ten_pages_in_order():
    assert [page[9:11] for page in TUTORIAL] == [f"{number:02}" for number in range(1, 11)]
    listed = re.findall(r"^(\d\d-\S+)$", (DOCS / "tutorial" / "index.md").read_text("utf-8"), re.M)
    assert [f"tutorial/{name}.md" for name in listed] == TUTORIAL


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("```python\nx = 1\n```\n\n```python\nprint(x)\n```\n\n```text\n2\n```\n", "assert '1\\n' == '2\\n'"),
        ("```python\nprint(1)\n```\n", "assert '1\\n' == ''"),
        ("```text\n1\n```\n", "output without the code"),
    ],
)
def test_the_check_itself(text, wrong):
    with pytest.raises(AssertionError) as e:
        run(text, "a page")
    assert wrong in str(e.value)


def test_what_is_not_here_is_skipped_with_the_reason():
    with pytest.raises(pytest.skip.Exception, match="no_such_package is not installed"):
        run("```python\nx = 1\n```\n% needs: no_such_package\n```python\n1 / 0\n```\n", "a page")


# Docstrings -----------------------------------------------------------------------------------------------------------


def with_examples():
    """Modules of both packages that have an example somewhere."""
    for root in (ROOT, ROOT / "backends"):
        for package in ("tinynet", "tinynet_backends"):
            for path in sorted((root / package).rglob("*.py")) if (root / package).is_dir() else ():
                if ">>> " in path.read_text("utf-8"):
                    yield ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("name", list(with_examples()))
def test_examples_of_docstrings(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        module = importlib.import_module(name)
    except ImportError as e:
        pytest.skip(str(e))
    found = [test for test in doctest.DocTestFinder().find(module, extraglobs={"tn": tn}) if test.examples]
    assert found
    for example in found:
        said = io.StringIO()
        doctest.DocTestRunner().run(example, out=said.write)
        if said.getvalue():
            pytest.fail(said.getvalue(), pytrace=False)


# The reference, the generated pages, the links --------------------------------------------------------------------------


def test_the_reference_has_every_public_name():
    documented = set()
    for page in (DOCS / "reference").glob("*.md"):
        documented |= set(re.findall(r"^\.\. auto(?:class|function):: ([\w.]+)", page.read_text("utf-8"), re.M))
    modules = {"data", "export", "initializers", "losses", "metrics", "optim", "plot", "schedules"}
    public = set(tn.__all__) - modules | set(tn.data.__all__) - {"DATASETS", "Part"}
    assert public - documented == set()


def made_by(name, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(DOCS / "_extensions"), *sys.path])
    return importlib.import_module(name)


def test_the_table_of_operations_is_what_the_backends_say(monkeypatch):
    pytest.importorskip("numba")
    operations = made_by("operations", monkeypatch)
    head, _, *rows, last = operations.table().splitlines()
    cells = [[cell.strip() for cell in row.strip("|").replace("\\|", "").split("|")] for row in rows]
    assert [cell.strip() for cell in head.strip("|").split("|")] == ["operation", "", "numpy", "numba", "cupy"]
    assert [row[0].strip("`") for row in cells] == list(portable_operations())
    assert all(row[1] for row in cells)
    for column, name in ((2, "numpy"), (3, "numba")):
        assert {row[0].strip("`") for row in cells if row[column]} == set(overrides(get_backend(name)))
    assert operations.replaced(Backend) == set()
    assert last.split("|")[3].strip() == str(sum(bool(row[2]) for row in cells))


def results(what, date, seconds):
    row = {"label": "2 × 3", "times": {"tinynet": [seconds], "other": [2 * seconds]}}
    return {
        "what": what, "date": date, "machine": {"cpu": "a processor", "cores": 3, "os": "an OS"}, "versions": {"numpy": "9.9"},
        "threads": None, "repeats": 1, "control": {}, "sections": {"A step.": [row]},
    }  # fmt: skip


def test_how_fast_is_what_the_newest_files_say(tmp_path, monkeypatch):
    speed = made_by("speed", monkeypatch)
    # `test_benchmarks` draws them
    monkeypatch.setattr("benchmarks.plot.draw", lambda saved, path: path.write_text(saved["date"]))
    assert speed.page(tmp_path / "results", tmp_path) == speed.NOTHING
    (tmp_path / "results").mkdir()
    for what, date, seconds in (("cpu", "2031-02-03", 0.25), ("cpu", "2030-01-01", 0.125), ("gpu", "2029-01-01", 4)):
        (tmp_path / "results" / f"{what}-{date}.json").write_text(json.dumps(results(what, date, seconds)))
    more = results("cpu", "2031-02-03", 0.5) | {"machine": {"cpu": "a processor, A=B", "cores": 3, "os": "an OS"}}
    (tmp_path / "results" / "cpu-2031-02-03-ab.json").write_text(json.dumps(more))  # the same date, another setting
    part = results("cpu", "2031-03-04", 0.75)
    part["sections"] = {"Another step.": part["sections"]["A step."]}  # later, and not of the first one
    (tmp_path / "results" / "cpu-2031-03-04.json").write_text(json.dumps(part))
    (tmp_path / "results" / "cpu-2031-04-05.json").write_text(
        json.dumps(results("cpu", "2031-04-05", 0.625) | {"threads": 1})  # later, and of one thread
    )
    (tmp_path / "results" / "other.json").write_text('{"format": 1}')
    text = speed.page(tmp_path / "results", tmp_path)
    assert "2031-02-03" in text
    assert "2030-01-01" not in text
    assert "250 ms" in text
    assert "750 ms" in text
    assert "625 ms" in text
    assert "125 ms" not in text
    assert "| **2.00** |" in text
    assert "a processor, 3 cores; an OS" in text
    assert "numpy 9.9" in text
    assert (
        text.index("## On the CPU: a processor\n")
        < text.index("## On the CPU: a processor, A=B\n")
        < text.index("## On a CUDA device: a processor\n")
    )
    pictures = re.findall(r"\]\((\S+\.png)\)", text)
    assert len(pictures) == len(set(pictures)) == 5
    drawn = sorted((tmp_path / picture).read_text() for picture in pictures)
    assert drawn == ["2029-01-01", "2031-02-03", "2031-02-03", "2031-03-04", "2031-04-05"]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", (DOCS / page).read_text("utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("https://") or (DOCS / page).parent.joinpath(target).exists(), target


def test_the_architecture_has_every_module():
    named = set(re.findall(r"`(?:\w+/)*(\w+\.(?:py|cuh))`", (DOCS / "architecture.md").read_text("utf-8")))
    files = {
        folder: {*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.cuh")} for folder in ("tinynet", "backends")
    }
    modules = {
        path.name for path in files["tinynet"] | files["backends"] if path.parent.name not in ("cli", "export", "plot")
    }
    assert {name for name in modules - named if not name.startswith("__")} == set()
    others = {path.name for folder in ("tests", "tinynet") for path in (ROOT / folder).rglob("*.py")}
    assert named - modules - others == set()


def test_pages_name_tests_and_files_that_there_are():
    named = re.compile(r"`((?:tests|examples|benchmarks|tinynet)/[\w/.]+\.py)`")
    for page in PAGES:
        for name in named.findall((DOCS / page).read_text("utf-8")):
            assert (ROOT / name).exists(), f"{page}: {name}"
