"""Sets the Unicode formulas of docstrings as LaTeX.

The formulas of this project stand once, in the docstrings, in Unicode, so that they read well in
an editor and in ``python -m pydoc``. In the pages of :data:`PAGES`, indented blocks with
mathematical characters become displayed formulas, aligned at their first relation, and runs of
symbols inside sentences, such as ``x_t = α_t x_0 + σ_t ε``, inline ones. What is marked as code
stays code.
"""

import re
import unicodedata
from typing import Any

from docutils import nodes
from sphinx.transforms import SphinxTransform

PAGES = ("theory/", "reference/")

VARIANTS = {"lamda": "lambda", "epsilon": "varepsilon", "phi": "varphi"}


def _greek(letter: str) -> str:
    name = unicodedata.name(letter).split()[-1].lower()
    return "\\" + (VARIANTS.get(name, name) if letter.islower() else name.title())


GREEK = {letter: _greek(letter) for letter in "αβγδεζηθκλμνξπρστυφχψωΓΔΘΞΠΣΦΨΩ"}
RELATIONS = {
    **{"=": "=", "<": "<", ">": ">", "<=": r"\le", ">=": r"\ge", "≤": r"\le", "≥": r"\ge"},
    **{"≈": r"\approx", "∝": r"\propto", "~": r"\sim", "≠": r"\ne", "∈": r"\in"},
    **{"←": r"\leftarrow", "→": r"\to"},
}
SYMBOLS = {
    **GREEK,
    **RELATIONS,
    **{"−": "-", "·": r"\cdot", "×": r"\times", "±": r"\pm", "½": r"\tfrac12", "...": r"\dots"},
    **{"Σ": r"\sum", "Π": r"\prod", "∫": r"\int", "∇": r"\nabla", "∂": r"\partial"},
    **{"∞": r"\infty", "‖": r"\|", "ᵀ": r"^\top", "²": "^2", "³": "^3", "⁴": "^4", "ᵗ": "^t"},
    **{"¹": "^1", "⁻¹": "^{-1}"},
    **{"₀": "_0", "E": r"\mathbb{E}", "N(": r"\mathcal{N}(", "U[": r"\mathcal{U}["},
}
FUNCTIONS = ("log", "exp", "cos", "sin", "max", "min")
OPERATORS = ("div", "tr", "Var", "SNR", "softmax", "logsumexp")
ONLY_IN_FORMULAS = {*GREEK, *"½‖∇ᵀ∂∞∫√²³⁴←∝"}

INDEX = r"(?:\{[^{}]*\}|[A-Za-z0-9α-ωΑ-Ω]+)"
TOKEN = re.compile(
    rf"(?P<script>[_^])(?P<index>{INDEX})|(?P<root>√)|(?P<gap>\ {{3,}})|(?P<mid>\s\|\s)"
    r"|(?P<integral>\sd)(?=[a-zσ](?:_|\b))|(?P<word>[A-Za-z]{2,})"
    r"|(?P<symbol>⁻¹|N\(|U\[|E(?![a-z])|\.\.\.|>=|<=|.)",
    re.DOTALL,
)
ATOM = re.compile(rf"[^\W_](?:_{INDEX})?|.")


def latex(formula: str) -> str:
    """The LaTeX of a formula in Unicode."""
    found, position = "", 0
    while match := TOKEN.match(formula, position):
        position = match.end()
        if match["root"]:
            end = _end_of_root(formula, position)
            found += (
                rf"\sqrt{{{latex(formula[position:end].removeprefix('(').removesuffix(')'))}}}"
            )
            position = end
        else:
            found += _token(match)
    return re.sub(r" \}\s*\\text\{ ", " ", found)  # words that follow each other


def _token(match: re.Match[str]) -> str:
    if match["script"]:
        index = match["index"].strip("{}")
        name = {"min": r"\min", "max": r"\max"}.get(index)
        return f"{match['script']}{{{name or latex(index)}}}"
    if match["gap"]:
        return r"\qquad "
    if match["mid"]:
        return r" \mid "
    if match["integral"]:
        return r"\,d"
    if word := match["word"]:
        if word in FUNCTIONS:
            return rf"\{word} "
        return rf"\operatorname{{{word}}}" if word in OPERATORS else _other(word)
    symbol = SYMBOLS.get(match["symbol"], match["symbol"])
    return f"{symbol} " if symbol[0] == "\\" and symbol[-1].isalpha() else symbol


def _other(word: str) -> str:
    """Words, or letters that are multiplied."""
    return (
        word if len(word) == 2 and word not in ("is", "if", "so", "at") else rf"\text{{ {word} }}"
    )


def _end_of_root(formula: str, start: int) -> int:
    """Where what is under a root ends: at the closing parenthesis, or after one symbol."""
    depth = 0
    for position in range(start, len(formula)):
        depth += {"(": 1, ")": -1}.get(formula[position], 0)
        if not depth:
            break
    match = ATOM.match(formula, start)
    assert match is not None
    return position + 1 if formula[start] == "(" else match.end()


def display(block: str) -> str:
    """The LaTeX of a block of lines, aligned at the first relation of each."""
    rows = []
    for line in filter(None, map(str.strip, block.splitlines())):
        relation = re.search(r"(?:^|\s)(=|≈|∝|←|>=|<=)\s", line)
        start = relation.start(1) if relation else 0
        rows.append(f"{latex(line[:start].rstrip())}&{latex(line[start:])}")
    return " \\\\\n".join(rows) if len(rows) > 1 else rows[0].replace("&", "")


CERTAIN = re.compile(
    r"(?<![A-Za-z])(?:(?:[A-Za-z]|SNR)'?_(?:\{|[a-z0-9]{1,3}\b)|[A-Za-z]\([a-z](?:\|[a-z])?\))"
)
POSSIBLE = re.compile(
    r"[−(\[]*(?:E\[)?(?:[A-Za-z]'?|dx|\d[\d.]*|Var|div|log|[A-Za-z]\(+[a-z0-9, |]*\)?|N\(0,|I\))"
    r"[)\]}]*'?"
)
JOINTS = {*RELATIONS, "+", "−", "/", "·", "|", "×"}


def kind(word: str) -> str:
    """``M`` for a word of a formula, ``O`` for what joins two, ``W`` for what may be in one."""
    bare = word.rstrip(",.;:")
    if bare in JOINTS:
        return "O"
    if CERTAIN.search(bare) or ONLY_IN_FORMULAS & set(bare):
        return "T" if re.search(r"[A-Za-z]{4,}", re.sub(r"_\w+|∇log", "", bare)) else "M"
    return "W" if POSSIBLE.fullmatch(bare) else "T"


def split(text: str) -> list[tuple[bool, str]]:
    """The parts of a sentence, each with whether it is a formula."""
    words = re.split(r"(\s+)", text)  # spaces are at odd positions
    parts: list[tuple[bool, str]] = []
    position = 0
    while position < len(words):
        end = _end_of_run(words, position) if position % 2 == 0 else position + 1
        run = _trim(words[position:end]) if position % 2 == 0 else None
        if run is None:
            parts.append((False, words[position]))
            position += 1
        else:
            before, formula, after = run
            parts += [(False, before), (True, formula), (False, after)]
            position = end
    return parts


def _end_of_run(words: list[str], start: int) -> int:
    """Where words that may be one formula end: at text, or at punctuation outside parentheses."""
    depth, end = 0, start + 1
    for position in range(start, len(words), 2):
        word = words[position]
        if kind(word) == "T":
            break
        depth += sum(map(word.count, "([{")) - sum(map(word.count, ")]}"))
        end = position + 1
        if word[-1:] in tuple(",.;:") and depth <= 0:
            break
    while end > start + 1 and kind(words[end - 1]) == "O":
        end -= 2
    return end


def _trim(words: list[str]) -> tuple[str, str, str] | None:
    """A formula with what is around it, as (before, formula, after); None if it is text."""
    kinds = [kind(word) for word in words[::2]]
    if kinds[0] in "OT" or not ("M" in kinds or "O" in kinds[1:-1]):
        return None
    if kinds[:2] == ["W", "W"] and "O" not in kinds:
        return None
    if words[0] in ("a", "A", "I") and "O" not in kinds[1:3]:
        return None
    text = "".join(words)
    bare = text.rstrip(",.;:")
    before, after = "", text[len(bare) :]
    for left, right in ("()", "[]", "{}"):
        surplus = bare.count(left) - bare.count(right)
        if surplus > 0 and bare.startswith(left):
            before, bare = before + left, bare[1:]
        elif surplus < 0 and bare.endswith(right):
            bare, after = bare[:-1], right + after
        if bare.count(left) != bare.count(right):
            return None
    return before, bare, after


class SetFormulas(SphinxTransform):
    """Replaces Unicode formulas by nodes of LaTeX, before quotes are made typographic."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        """See :class:`SetFormulas`."""
        if not self.env.docname.startswith(PAGES):
            return
        for block in list(self.document.findall(nodes.literal_block)):
            if {*ONLY_IN_FORMULAS, "−"} & set(block.astext()) and "language" not in block:
                formula = display(block.astext())
                block.replace_self(nodes.math_block(formula, formula, nowrap=False, number=None))
        for text in list(self.document.findall(nodes.Text)):
            if isinstance(text.parent, nodes.paragraph | nodes.term):
                parts = [part for part in split(text.astext()) if part[1]]
                if any(is_formula for is_formula, _ in parts):
                    text.parent.replace(text, [_node(*part) for part in parts])


def _node(is_formula: bool, text: str) -> nodes.Node:
    return nodes.math(latex(text), latex(text)) if is_formula else nodes.Text(text)


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_transform(SetFormulas)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
