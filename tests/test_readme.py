"""The README's examples run as they stand, in order, in one folder; its command lines are those that CI runs."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.S)


def test_there_are_examples():
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs(number, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("sklearn", "onnx"):
        if name in EXAMPLES[number]:
            pytest.importorskip(name, reason=f"the example needs the extra {name}")
    code = EXAMPLES[number].replace("n=1_000_000", "n=100_000")  # the same path in less time
    exec(compile(code, f"README example {number}", "exec"), {"__name__": "__main__"})
    if "evaluate" in code:
        out = capsys.readouterr().out
        assert float(re.search(r"'accuracy': ([0-9.]+)", out).group(1)) > 0.6


def test_each_line_sets_everything_up():
    lines = [line for line in README.splitlines() if line.startswith("python3 -m venv .venv &&")]
    assert [line.rpartition(" -m ")[2] for line in lines] == ["tinynet train", "pytest"]
    assert "pip install tinynet" not in README
