"""The README and the documents name what exists."""

import re

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
