"""What jsonargparse says of a mistake, in one line, and what may have been meant."""

import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches

import yaml

CLASSES = {
    *("ncsn.modules", "ncsn.networks", "ncsn.sampling", "ncsn.parametrisation", "ncsn.levels"),
    *("ncsn.data", "ncsn.objectives", "torch.optim", "torch.optim.lr_scheduler"),
}
"""Where a class may be that is named without its module."""

NOISE = re.compile(
    r"Parser key|Problem with given class_path '.*':$|Does not validate against|Subtypes: |"
    r"Errors:$|Given value|Expected a path but|[Ee]xpected NoneType|$"
)
"""Lines of jsonargparse that repeat what others say."""

UNKNOWN_OPTION = re.compile(
    r"Option '(.+?)' is not accepted$|Group '(.+)' does not accept option '(.+)'$|"
    r"unrecognized arguments: --([\w.]+)"
)

IN_A_LIST = re.compile(
    r"^  - (?!Not a valid subclass|Expected)((?:.+\n)+?)(?=  - |Given value)", re.MULTILINE
)
"""Why an object in a list could not be made."""

WORDING = {
    r"Group '(.+)' does not accept option '(.+?)'": r"Option '\1.\2' is not accepted",
    r'Parser key "[^"]+": ?(?=\S)|Type \S.* expects a function or a callable class: ': "",
    r"\.? ?(Got|Given) value: (NestedArg|Namespace)\(.*": "",
    r"Expected a dot import path string: (\S+)": r"there is no class \1",
    r"Import path does not correspond to a subclass": "it is not a subclass",
    r"Unexpected config: (.|\n)*": "it is not a config",
    r'"<unicode string>", ': "",
    r"Expected (a )?(?=<class|typing)": "expected ",
    r"<class '(?:\w+\.)*(\w+)'>": r"\1",
    r"typing\.Literal": "one of ",
}
"""Patterns in messages of jsonargparse, and what is said instead."""


def explain(message: str) -> str:
    """The innermost reason in a message of jsonargparse, with the option that it is about."""
    option = "--" + ".".join(re.findall(r'Parser key "([^"]+)":', message))
    owner = re.findall(r"(?:given class_path |is not accepted.*class_path=)'(\S+?)'", message)
    given = re.search(r"Given value: ((?!NestedArg|Namespace|\{).*?)(\. Got|$)", message, re.M)
    for pattern, text in WORDING.items():
        message = re.sub(pattern, text, message)
    lines = [line.strip(" -") for line in message.splitlines()]
    reasons = list(dict.fromkeys(line for line in lines if not NOISE.match(line)))
    reason = ("; " if option != "--" else " ").join(reasons)
    if missing := re.search(r"there is no class (\w+)$|'(\S+)' has no attribute '(\w+)'", reason):
        name, module, attribute = missing.groups()
        modules = {module} if module else CLASSES
        known = {
            each
            for path in sys.modules.keys() & modules
            for each, value in vars(sys.modules[path]).items()
            if module or isinstance(value, type)
        }
        reason += did_you_mean(name or attribute, known, cutoff=0.6)
    if unknown := re.match(r"Option '(.+?)' is not accepted(.*)", reason):
        prefix, of = f"{option}.".replace("--.", "--"), f" of {owner[-1]}" if owner else ""
        return f"{prefix}{unknown[1]} is not an option{of}{unknown[2].replace('--', prefix)}"
    return f"{option}{f' {given[1]}' if given else ''}: {reason}" if option != "--" else reason


def did_you_mean(name: str, known: Iterable[str], prefix: str = "", cutoff: float = 0.75) -> str:
    """The end of a message about an unknown name: the most similar one that is known, if any.

    Else the shortest that begins with it: ``Digits`` for ``DigitsDataModule``.
    """
    others = sorted(set(known) - {name}, key=len)
    matches = get_close_matches(name, others, 1, cutoff)
    matches = matches or [each for each in others if each.lower().startswith(name.lower())]
    return f"; did you mean {prefix}{matches[0]}?" if matches else ""


def repeated_key(text: str) -> str | None:
    """A key that a mapping of a YAML text has twice, with its line; None if there is none."""
    try:
        nodes, seen = [("", yaml.compose(text, yaml.SafeLoader))], set()
    except yaml.YAMLError:  # whoever reads the text says what is wrong
        return None
    while nodes:
        prefix, node = nodes.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            nodes += [(prefix, each) for each in node.value]
        elif isinstance(node, yaml.MappingNode):
            names = [str(key.value) for key, _ in node.value]
            for k, name in enumerate(names):
                if name in names[:k]:
                    return f"{prefix}{name} (again in line {node.value[k][0].start_mark.line + 1})"
            nodes += [
                (f"{prefix}{name}.", value)
                for name, (_, value) in zip(names, node.value, strict=True)
            ]
    return None
