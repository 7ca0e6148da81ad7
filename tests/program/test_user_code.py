"""Classes and functions in a file of the working directory, named on the command line."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from support.commands import QUICK, error_line, run_process, smoke
from support.paths import ROOT
from support.runs import load_last

DATA = """
import torch

from ncsn.data.base import InMemoryDataModule, TensorBatches


class Ring(InMemoryDataModule):
    def __init__(self, batch_size: int, num_points: int = 400):
        super().__init__(batch_size)
        self.num_points = num_points

    def load_splits(self):
        angle = torch.linspace(0, 6.2, self.num_points)
        points = torch.stack([angle.cos(), angle.sin()], 1)
        labels = torch.zeros(len(points)).long()
        splits = {"train": slice(None, None, 2), "val": slice(1, None, 2), "test": slice(1, 9)}
        return {name: TensorBatches(points[s], labels[s]) for name, s in splits.items()}


class Typo(Ring):
    def load_splits(self):
        return self.split


class Stripes(Ring):
    def load_splits(self):
        stripes = torch.randint(256, (self.num_points, 3, 1, 8), dtype=torch.uint8)
        images = stripes.expand(-1, 3, 8, 8).contiguous()
        labels = torch.zeros(len(images)).long()
        return dict.fromkeys(("train", "val", "test"), TensorBatches(images, labels))
"""

PARTS = """
import torch
from torch import nn
from torch.nn import functional as F

from ncsn.levels import expand_as, perturb
from ncsn.networks import ScoreNetwork
from ncsn.parametrisation import Parametrisation
from ncsn.random import normal_like
from ncsn.sampling import LadderSampler


class Waves(ScoreNetwork):
    def __init__(self, width=32):
        super().__init__()
        self.waves, self.layer = nn.Linear(3, width), nn.Linear(width, 2)

    def forward(self, x, sigma):
        return self.layer(self.waves(torch.cat([x, sigma.log()[:, None]], 1)).sin())


class Renoise(LadderSampler):
    def step(self, score, x, sigma, sigma_next, generator):
        return x + sigma**2 * score(x, sigma) + sigma_next * normal_like(x, generator)


class Forgetful(LadderSampler):
    def step(self, score, x, sigma, sigma_next, generator):
        x + sigma**2 * score(x, sigma)


class Denoiser(Parametrisation):
    def __call__(self, network, x, sigma, mean, std):
        return (network(x, sigma) - x) / expand_as(sigma, x) ** 2


def linear(sigma_max, sigma_min, num_levels):
    return torch.linspace(sigma_max, sigma_min, num_levels)


def huber(score, x, sigma, generator=None):
    x_sigma, z = perturb(x, sigma, generator)
    return F.huber_loss(expand_as(sigma, x) * score(x_sigma, sigma), -z, reduction="none")
"""

OPTIONS = {
    "network": ("--model.network", "own_parts.Waves", "--model.network.width", 16),
    "sampler": ("--model.sampler", "own_parts.Renoise", "--model.sampler.num_steps", 5),
    "parametrisation": ("--model.parametrisation", "own_parts.Denoiser"),
    "ladder": ("--model.ladder", "own_parts.linear"),
    "objective": ("--model.objective", "own_parts.huber"),
}


def files(run):
    """The names of the files of a run."""
    return {path.name for path in (Path("lightning_logs") / run).iterdir()}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes modules in the working directory, which are forgotten after the test."""
    monkeypatch.syspath_prepend(tmp_path)
    for name, source in {"own_data": DATA, "own_parts": PARTS}.items():
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text(source)


@pytest.fixture
def try_all_commands(cli, own):
    """Trains, and uses the checkpoint by all commands; returns the stored config of the fit."""

    def run(config, *options):
        assert cli("fit", *smoke(config), *options) == 0
        fit = Path(f"lightning_logs/{config}/version_0")
        last = ("--config", fit / "config.yaml", "--ckpt_path", fit / "checkpoints/last.ckpt")
        assert cli("validate", *last) == 0
        few = ("--num_samples", 20, "--num_likelihood_examples", 2)
        assert cli("test", *last, *few) == 0
        assert cli("predict", *last, "--num_samples", 10) == 0
        assert "evaluation.json" in files(f"{config}/version_2")
        assert "samples.npz" in files(f"{config}/version_3")
        return yaml.safe_load((fit / "config.yaml").read_text())

    return run


@pytest.mark.parametrize(("data", "config"), [("Ring", "moons_ncsn"), ("Stripes", "digits")])
def test_an_own_datamodule_replaces_that_of_a_config(data, config, try_all_commands):
    options = ("--data", f"own_data.{data}", "--data.num_points", 200)
    stored = try_all_commands(config, *options)
    assert stored["data"]["class_path"] == f"own_data.{data}"
    assert stored["data"]["init_args"] == {"batch_size": 8, "num_points": 200}


FAULTY = """
import torch
from own_data import Ring


class Faulty(Ring):
    def load_splits(self):
        splits = super().load_splits()
        splits["val"].data[3, 1] = float("nan")
        return splits
"""


def test_a_fault_in_a_users_data_gets_one_line(cli, own, capsys):
    Path("faulty.py").write_text(FAULTY)
    assert cli("fit", *smoke("moons_ncsn"), "--data", "faulty.Faulty") == 1
    line = error_line(capsys.readouterr().err)
    assert "the val data must be finite and below 7e+18, got nan in example 3" in line


def test_a_name_that_is_missing_in_a_users_data_shows_where(server, own):
    args = ("fit", *smoke("moons_ncsn"), "--data", "own_data.Typo", "--model.sigma_max", "auto")
    output = run_process(server, *args, status=1)
    assert "own_data.py" in output
    assert "'Typo' object has no attribute 'split'" in output.strip().splitlines()[-1]


def test_a_sampler_that_returns_nothing_is_refused_before_the_training(cli, own, capsys):
    assert cli("fit", *smoke("moons_ncsn"), "--model.sampler", "own_parts.Forgetful") == 1
    line = error_line(capsys.readouterr().err)
    assert "model.sampler Forgetful.step must return a tensor of the shape of x" in line
    assert not Path("lightning_logs/moons_ncsn/version_0/checkpoints").exists()


@pytest.mark.parametrize("part", OPTIONS)
def test_an_own_part_without_annotations_trains_and_samples(part, cli, own):
    args = (*smoke("moons_ncsn"), *OPTIONS[part])
    assert cli("fit", *args, *QUICK) == 0
    # The options of the training once more, instead of its stored config.
    assert cli("predict", *args, "--ckpt_path", "last", "--num_samples", 10) == 0
    stored = yaml.safe_load(Path("lightning_logs/moons_ncsn/version_0/config.yaml").read_text())
    value = stored["model"]["init_args"][part]
    name = value if isinstance(value, str) else value["class_path"]
    assert name == OPTIONS[part][1]


def test_all_own_parts_together_train_evaluate_and_sample(try_all_commands):
    parts = [option for options in OPTIONS.values() for option in options]
    try_all_commands("moons_ncsn", "--data", "own_data.Ring", *parts)
    samples = np.load("lightning_logs/moons_ncsn/version_3/samples.npz")["samples"]
    assert samples.shape == (10, 2)
    checkpoint = load_last(Path("lightning_logs/moons_ncsn/version_0"))
    assert checkpoint["state_dict"]["network.waves.weight"].shape == (16, 3)


def blocks(text, language):
    """The blocks of a language in a document."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def write_modules(text):
    """Write the blocks that begin with the name of a file; returns the names."""
    named = [re.match(r"# (\w+\.py)\n", block) for block in blocks(text, "python")]
    for match in filter(None, named):
        Path(match[1]).write_text(match.string)
    return {match[1].removesuffix(".py") for match in named if match}


def commands(text):
    """The command lines of a document that take a config, as arguments of a smoke run."""
    for line in "".join(blocks(text, "sh")).replace("\\\n", "").splitlines():
        if match := re.match(r"python -m ncsn (\w+) --config configs/(\w+).yaml(.*)", line):
            command, config, options = match.groups()
            yield command, *smoke(config), *shlex.split(options, comments=True)


EXTEND = sorted(path for path in (ROOT / "docs/extend").glob("*.md") if path.stem != "index")


@pytest.mark.parametrize("page", EXTEND, ids=lambda path: path.stem)
def test_every_snippet_of_a_page_runs(page, server, monkeypatch):
    text = page.read_text()
    assert len(text.splitlines()) < 60
    monkeypatch.syspath_prepend(Path.cwd())
    modules = write_modules(text)
    for args in commands(text):
        run_process(server, *args)
    assert Path("lightning_logs/moons_ncsn/version_0/pictures/samples.png").is_file()
    for name in modules:
        monkeypatch.delitem(sys.modules, name, raising=False)
    names = {"torch": torch}
    for block in blocks(text, "python"):
        exec(block, names)


def test_the_classes_of_the_readme_train_and_sample(server):
    text = (ROOT / "README.md").read_text()
    (module,) = write_modules(text)
    (args,) = (args for args in commands(text) if f"{module}.MyNetwork" in args)
    run_process(server, *args)
    assert Path("lightning_logs/moons_ncsn/version_0/pictures/samples.png").is_file()


def test_the_plain_torch_of_the_readme_learns():
    text = (ROOT / "README.md").read_text()
    (source,) = (block for block in blocks(text, "python") if "optimizer" in block)
    names = {}
    exec(source.replace("range(2000)", "range(500)"), names)
    samples, data = names["samples"], names["data"]
    for statistic in (torch.mean, torch.std):
        torch.testing.assert_close(statistic(samples, 0), statistic(data, 0), atol=0.15, rtol=0)


OWN = """
import torch
from ncsn.networks import MLP

class Bug(MLP):
    def forward(self, x, sigma):
        return x @ torch.ones(3, 3)

class Table(MLP):
    def __init__(self, dim=2):
        super().__init__(dim)
        open("nowhere.txt")
"""


def test_packages_of_a_user_or_of_a_distribution_are_libraries(server, tmp_path):
    packages = tmp_path / "dist-packages"
    packages.mkdir()
    (packages / "installed_networks.py").write_text(OWN)
    args = (*smoke("moons"), "--model.network", "installed_networks.Bug")
    output = run_process(server, "fit", *args, status=1, PYTHONPATH=str(packages))
    assert "Traceback" not in output
    assert "does not fit data of shape (2,)" in error_line(output)


@pytest.mark.parametrize(("name", "error"), [("Bug", "RuntimeError"), ("Table", "FileNotFound")])
def test_a_mistake_in_a_users_own_class_shows_where_it_is(server, tmp_path, name, error):
    (tmp_path / "own_networks.py").write_text(OWN)
    args = (*smoke("moons"), "--model.network", f"own_networks.{name}")
    output = run_process(server, "fit", *args, status=1, PYTHONPATH=str(tmp_path))
    assert "Traceback" in output
    assert "own_networks.py" in output
    assert error in output.strip().splitlines()[-1]
