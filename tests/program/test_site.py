"""The formulas of docstrings, as the site sets them. (``.ci/run`` builds the site.)"""

import re
import sys

import pytest
from support.paths import ROOT

pytest.importorskip("sphinx", reason="pip install -e '.[docs]'")
sys.path.insert(0, str(ROOT / "docs"))
from unicode_math import display, latex, split

FORMULAS = {
    "σ_t²": r"\sigma_{t}^2",
    "√(1 − β_t) x_{t−1}": r"\sqrt{1 - \beta_{t}} x_{t-1}",
    "σ_max^{1/ρ}": r"\sigma_{\max}^{1/\rho}",
    "½ E ‖s_θ‖²": r"\tfrac12 \mathbb{E} \|s_{\theta}\|^2",
    "N(x, σ² I)": r"\mathcal{N}(x, \sigma^2 I)",
    "E[x_0 | x]": r"\mathbb{E}[x_{0} \mid x]",
    "∫ s' q dx": r"\int s' q\,dx",
    "∇log q(z|x)": r"\nabla \log q(z|x)",
    "σ² whose variance is": r"\sigma^2\text{ whose variance is }",
}


@pytest.mark.parametrize(("formula", "expected"), FORMULAS.items())
def test_a_formula_in_unicode_becomes_latex(formula, expected):
    assert re.sub(r"\s+", "", latex(formula)) == re.sub(r"\s+", "", expected)


def test_lines_are_aligned_at_their_first_relation():
    assert display("a = b\n  = c²") == "a&= b \\\\\n&= c^2"
    assert display("a = b") == "a= b"


SENTENCES = {
    "the chain x_t = a x_s + b ε', with": ["x_t = a x_s + b ε'"],
    "a level σ, a step (of size η) and N(0, I).": ["σ", "η"],
    "draw z ~ N(0, I): it is in [0, π].": ["z ~ N(0, I)", "[0, π]"],
    "a share of 0.2 of a batch is - as ever - a good choice": [],
    "with v = σ² + σ_d², for a σ that": ["v = σ² + σ_d²", "σ"],
    "the file my_file.py, step_lr and max_epochs": [],
    "at t = 0, where": ["t = 0"],
}


@pytest.mark.parametrize(("sentence", "formulas"), SENTENCES.items())
def test_formulas_are_found_in_sentences(sentence, formulas):
    parts = split(sentence)
    assert "".join(text for _, text in parts) == sentence
    assert [text for is_formula, text in parts if is_formula] == formulas


@pytest.mark.parametrize("path", sorted((ROOT / "ncsn").rglob("*.py")), ids=lambda path: path.stem)
def test_every_formula_of_a_docstring_has_a_latex_form(path):
    for docstring in re.findall(r'"""(.*?)"""', path.read_text(), re.DOTALL):
        text = re.sub(r"``.*?``|:\w+:`.*?`", "", " ".join(docstring.split()))
        for is_formula, part in split(text):
            if is_formula:
                found = latex(part)
                assert found.isascii(), part
                assert found.count("{") == found.count("}"), part
