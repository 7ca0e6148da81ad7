"""The README and the documents name what exists."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from support.paths import ROOT

DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / ".github").rglob("*.md")),
]
FOLDERS = ("configs/", "docs/", "ncsn/", "tests/")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_document_names_only_files_that_exist(document):
    text = document.read_text()
    for character in "()`[]\"'<>|":
        text = text.replace(character, " ")
    for word in text.split():
        if word.startswith(FOLDERS) and "*" not in word:
            assert (ROOT / word.split("#")[0].rstrip(".,:;")).exists(), word


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_that_exist(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" not in target and not target.startswith("#"):
            assert (document.parent / target.split("#")[0]).exists(), target


COMMAND = re.compile(r"^python -m ncsn (fit|validate|test|predict) (--config .*)", re.MULTILINE)


OWN = "from ncsn.networks import MLP as MyNetwork\nfrom ncsn.sampling import Euler as MySampler"


def command_lines(document):
    """The command lines with a config, as arguments that name it by its whole path."""
    for command, line in COMMAND.findall(document.read_text().replace("\\\n", "")):
        if "CONFIG" not in line and ".." not in line:
            line = line.replace("configs/", f"{ROOT}/configs/")
            yield command, *shlex.split(line, comments=True)


@pytest.mark.parametrize(
    "document",
    [
        each
        for each in DOCUMENTS
        if each.parent.name != "extend"  # its pages run in test_user_code.py
        and each.name not in ("data.md", "evaluate.md")  # they run in test_guides.py
        and [*command_lines(each)]
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_the_options_of_command_lines_exist(document, cli, capsys, monkeypatch):
    monkeypatch.syspath_prepend(Path.cwd())
    for module in ("mine", "my_module"):
        monkeypatch.delitem(sys.modules, module, raising=False)
        Path(f"{module}.py").write_text(OWN)
    for args in command_lines(document):
        status = cli(*args, "--print_config")
        assert status == 0, (args, capsys.readouterr().err)
