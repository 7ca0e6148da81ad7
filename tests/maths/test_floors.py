"""The floors of the package, read from its imports, and what its parts do without."""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter

import pytest
from support.paths import ROOT

import ncsn

FLOORS = {
    "mathematics": {
        *("config", "levels", "random", "diffusion", "objectives", "parametrisation", "exact"),
        *("networks", "optimizers", "sampling"),
    },
    "evaluation": {"evaluation", "plots"},
    "training": {"modules", "data", "callbacks"},
    "program": {"runtime", "cli", "__main__"},
}


def module_name(path):
    """The name by which a file of the package is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted((ROOT / "ncsn").rglob("*.py"))}


class Imports(ast.NodeVisitor):
    """The imports of a module: ``found`` has pairs of a name and whether a function imports it.

    Those under ``if TYPE_CHECKING:`` are left out, since they never run.
    """

    def __init__(self, name, source, is_package=False):
        self.package = name if is_package else name.rpartition(".")[0]
        self.found, self.in_function = set(), False
        self.visit(ast.parse(source))

    def visit_Import(self, node):
        self.found |= {(alias.name, self.in_function) for alias in node.names}

    def visit_ImportFrom(self, node):
        parents = self.package.split(".")
        base = ".".join(parents[: len(parents) + 1 - node.level]) if node.level else ""
        base = ".".join(filter(None, (base, node.module)))
        for alias in node.names:
            submodule = f"{base}.{alias.name}"
            self.found.add((submodule if submodule in FILES else base, self.in_function))

    def visit_If(self, node):
        if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for child in node.orelse:
                self.visit(child)
        else:
            self.generic_visit(node)

    def visit_FunctionDef(self, node):
        outer, self.in_function = self.in_function, True
        self.generic_visit(node)
        self.in_function = outer

    visit_AsyncFunctionDef = visit_FunctionDef


IMPORTS = {
    name: Imports(name, path.read_text(), is_package=path.name == "__init__.py").found
    for name, path in FILES.items()
}
PAIRS = [(name, target) for name in IMPORTS for target, _ in sorted(IMPORTS[name])]


def inside(name, package):
    """Whether a module is a package or in it."""
    return f"{name}.".startswith(f"{package}.")


def floor(name):
    """The number of a module's floor, 0 for mathematics; the package itself is below all."""
    part = f"{name}.".split(".")[1]
    return next((i for i, parts in enumerate(FLOORS.values()) if part in parts), -1)


def parents(name):
    """The packages that a module is in: ``a`` and ``a.b`` for ``a.b.c``."""
    return {name[: dot.start()] for dot in re.finditer(r"\.", name)}


def run_python(code):
    """Run code in a process of its own, in the root of the repository."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_imports_are_found_wherever_they_are_except_for_type_checking():
    source = """
import torch
from ncsn import plots
from ncsn.levels import Rho
from . import base
from ..random import Stream
try:
    import numpy.linalg
except ImportError:
    pass
if TYPE_CHECKING:
    from ncsn.data import InMemoryDataModule
else:
    import scipy
class A:
    import matplotlib
    def f(self):
        from ncsn.cli import main
"""
    assert Imports("ncsn.modules.own", source).found == {
        ("torch", False),
        ("ncsn.plots", False),
        ("ncsn.levels", False),
        ("ncsn.modules.base", False),
        ("ncsn.random", False),
        ("numpy.linalg", False),
        ("scipy", False),
        ("matplotlib", False),
        ("ncsn.cli", True),
    }


def test_every_module_is_on_a_floor_and_the_docstring_of_the_package_lists_them():
    assert [name for name in FILES if floor(name) < 0] == ["ncsn"]
    documented = re.findall(r":mod:`ncsn\.(\w+)`", ncsn.__doc__)
    assert sorted(map(floor, (f"ncsn.{part}" for part in documented))) == [
        floor(f"ncsn.{part}") for part in documented
    ]
    assert set(documented) == set().union(*FLOORS.values()) - {"__main__"}


def test_no_module_imports_from_a_higher_floor():
    ours = [(name, target) for name, target in PAIRS if inside(target, "ncsn")]
    assert len(ours) > 100
    assert [pair for pair in ours if floor(pair[1]) > floor(pair[0])] == []


def test_no_cycle_of_imports():
    # To import a module runs its parents first. They are no import of the modules inside them,
    # for which they run already.
    graph = {
        name: {
            each
            for target, in_function in found
            if inside(target, "ncsn") and not in_function
            for each in {target} | (parents(target) - parents(name) - {name})
        }
        for name, found in IMPORTS.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_no_callback_imports_another():
    helper = "ncsn.callbacks.common"
    pairs = [
        (name, target)
        for name, target in PAIRS
        if inside(name, "ncsn.callbacks") and inside(target, "ncsn.callbacks")
    ]
    assert [pair for pair in pairs if pair[0] != "ncsn.callbacks" and pair[1] != helper] == []


def test_the_runtime_does_not_import_the_command_line():
    pairs = [pair for pair in PAIRS if inside(pair[0], "ncsn.runtime")]
    assert [pair for pair in pairs if inside(pair[1], "ncsn.cli")] == []


@pytest.mark.parametrize("name", ["mathematics", "evaluation"])
def test_mathematics_and_evaluation_work_without_lightning(name):
    modules = [module for module in FILES if floor(module) == list(FLOORS).index(name)]
    lightning = ("lightning", "pytorch_lightning")
    named = [pair for pair in PAIRS if pair[0] in modules and pair[1].split(".")[0] in lightning]
    assert named == []
    # Nor does any library that they import.
    code = f"""
import importlib, sys
for module in {modules}:
    importlib.import_module(module)
    if "lightning" in sys.modules:
        sys.exit(module)
"""
    process = run_python(code)
    assert process.returncode == 0, process.stderr


def test_importing_the_package_does_not_import_torch():
    assert run_python("import sys, ncsn; sys.exit('torch' in sys.modules)").returncode == 0
