"""Rules of the source of training and evaluation."""

import ast
import inspect

import pytest
from support.paths import ROOT

from ncsn.modules import DSM, NCSN, ScoreModule

FOLDERS = ("modules", "callbacks", "data", "evaluation", "cli")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / "ncsn" / folder).rglob("*.py"))]


def is_private(name):
    return name.startswith("_") and not name.endswith("__")


def private_names(path):
    """Private attributes of anything but self, and private names that are imported."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            if ast.unparse(node.value) not in ("self", "os"):  # os._exit is public
                yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and is_private(name.value):
                yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            if any(is_private(part) for name in names for part in name.split(".")):
                yield f"line {node.lineno}: {ast.unparse(node)}"


def test_private_names_are_found(tmp_path):
    path = tmp_path / "example.py"
    path.write_text(
        "from a._b import c\nfrom d import _e\ntrainer._f\nself._g\ngetattr(h, '_i')\n__name__\n"
    )
    assert [found.split(":")[0] for found in private_names(path)] == [
        *("line 1", "line 2", "line 3", "line 5")
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_private_attributes_of_other_objects_are_left_to_the_runtime(path):
    assert list(private_names(path)) == []


def test_the_files_are_found():
    assert {path.parent.name for path in FILES} >= set(FOLDERS)


def test_the_module_has_at_most_fifteen_arguments():
    parameters = list(inspect.signature(ScoreModule).parameters)
    assert len(parameters) <= 15
    assert {"network", "sampler", "preview"} <= set(parameters)


@pytest.mark.parametrize("module_class", [DSM, NCSN])
def test_noise_sampling_the_loss_and_the_previews_belong_to_the_module(module_class):
    for name in ("sample_noise_levels", "loss", "sample", "configure_callbacks"):
        assert inspect.isfunction(getattr(module_class, name))
