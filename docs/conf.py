"""Settings of the site: ``python -m sphinx -W --keep-going -n -b html docs site``."""

import inspect
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from sphinx.util.inspect import stringify_signature

import ncsn
from ncsn.config import Configured

project, author = "ncsn", "The ncsn developers"
copyright, release = "2026, the ncsn developers", ncsn.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "unicode_math",
]
html_theme, html_title = "furo", "ncsn"
html_static_path, html_css_files = ["_static"], ["site.css"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "auto"  # notebooks are text, without outputs; NCSN_SMALL=1 makes them quick
nb_execution_raise_on_error, nb_execution_timeout = True, 600  # seconds, of a cell
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_use_ivar, napoleon_use_rtype = True, False
nitpick_ignore_regex = [
    (r"py:.*", r"(?!ncsn).*"),  # other packages, whose inventories are on other sites
    (r"py:.*", r"ncsn\.(sampling\.Monitor|cli\.parser\.CLI|runtime\.runs\.Metrics)"),
    (r"py:.*", r"ncsn\.modules\.stored_config\.Module"),
]

THEORY = {
    "ncsn.levels": "levels",
    "ncsn.parametrisation": "levels",
    "ncsn.diffusion": "diffusion",
    "ncsn.objectives": "score_matching",
    "ncsn.exact": "exact",
}
"""Modules whose docstrings are pages of their own."""


def point_to_theory(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Leave a derivation out of the reference, where its page is named instead."""
    if name in THEORY and app.env.docname.startswith("reference/"):
        lines[1:] = ["", f"The derivation: :doc:`/theory/{THEORY[name]}`."]


def show_arguments(app: Any, what: str, name: str, obj: Any, *_: Any) -> tuple[str, None] | None:
    """The arguments of a class whose ``__new__`` takes any."""
    if what != "class" or not issubclass(obj, Configured):
        return None
    signature = inspect.signature(obj.__init__)
    arguments = list(signature.parameters.values())[1:]
    shown = signature.replace(parameters=arguments, return_annotation=signature.empty)
    return stringify_signature(shown, unqualified_typehints=True), None


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", point_to_theory)
    app.connect("autodoc-process-signature", show_arguments)
