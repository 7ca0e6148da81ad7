"""What comes with the package: types, a lock file, a citation, completion of options."""

import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.paths import ROOT

import ncsn

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCK = [
    Requirement(line.split("#")[0])
    for line in (ROOT / ".ci/requirements.lock").read_text().splitlines()
    if line.split("#")[0].strip()
]


def test_the_package_says_that_it_has_types():
    assert (Path(ncsn.__file__).parent / "py.typed").is_file()


def test_the_lock_file_has_an_allowed_version_of_every_dependency():
    for requirement in map(Requirement, chain(PROJECT["dependencies"], *EXTRAS.values())):
        name = canonicalize_name(requirement.name)
        locked = [each for each in LOCK if canonicalize_name(each.name) == name]
        assert locked, f"{name} is not in the lock file"
        for each in locked:
            (pin,) = each.specifier
            assert pin.operator == "=="
            assert requirement.specifier.contains(pin.version), f"{each} is not {requirement}"


def test_citation_and_changelog_name_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == ncsn.__version__
    newest = re.findall(r"^## (\S+)", (ROOT / "docs/changelog.md").read_text(), re.MULTILINE)[0]
    assert newest == ncsn.__version__


TYPED = {
    "ncsn pre": {"predict"},
    "ncsn fit --model.sampler An": {"Ancestral", "AnnealedLangevin"},
    "ncsn fit --data.nois": {"--data.noise"},
    "ncsn fit --model.network.hidden_d": {"--model.network.hidden_dim"},
    "ncsn fit --model.optimizer.l": {"--model.optimizer.lr"},
    "ncsn predict --num_s": {"--num_samples"},
    "ncsn fit --num_s": set(),
    "ncsn fit --trainer.max_e": {"--trainer.max_epochs"},
    "ncsn test --config file": {"file.yaml"},
}


def test_the_tab_key_completes_commands_options_classes_and_files(tmp_path):
    pytest.importorskip("shtab")
    command = (sys.executable, "-m", "shtab", "--shell", "bash", "ncsn.cli.completion.parser")
    script = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    (tmp_path / "completion.bash").write_text(script.stdout)
    (tmp_path / "file.yaml").touch()
    for words, expected in TYPED.items():
        press = f"COMP_WORDS=({words}); COMP_CWORD={len(words.split()) - 1}"
        bash = f'source completion.bash; {press}; _shtab_ncsn; printf "%s\\n" "${{COMPREPLY[@]}}"'
        found = subprocess.run(
            ("bash", "-c", bash), cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert set(found.stdout.split()) == expected, found.stderr
