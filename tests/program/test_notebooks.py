"""The notebooks run from the first cell to the last, at small sizes, and leave nothing behind."""

import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from support.paths import ROOT

NOTEBOOKS = [path for path in (ROOT / "docs/notebooks").glob("*.md") if path.stem != "index"]
CELL = re.compile(r"^```\{code-cell\}\n(?::[^\n]*\n)*(.*?)^```$", re.MULTILINE | re.DOTALL)


def cells(path):
    """The code of each cell, without commands to Jupyter."""
    text = path.read_text()
    found = [re.sub(r"^%.*", "", code, flags=re.MULTILINE) for code in CELL.findall(text)]
    assert len(found) == text.count("{code-cell}") > 3
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, monkeypatch):
    monkeypatch.setenv("NCSN_SMALL", "1")
    namespace, drawn = {}, []
    for code in cells(path):
        exec(compile(code, path.name, "exec"), namespace)
        drawn.append(namespace.get("figure"))
    figures = {id(figure): figure for figure in drawn if isinstance(figure, Figure)}
    for figure in figures.values():
        figure.canvas.draw()  # a formula in a label may be wrong
        for axes in figure.axes:
            assert axes.get_xlabel() or axes.get_title() or axes.get_ylabel()
    assert not list(Path.cwd().iterdir())
