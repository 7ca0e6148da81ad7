"""The commands of the guides on data and evaluation work as they are written.

They run in their order, in one directory with the configs and a user's files; trainings and
samples are short.
"""

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import QUICK
from support.own_data import write_fashion, write_images, write_points
from support.paths import ROOT, SMOKE

from ncsn.data import DigitsDataModule
from ncsn.evaluation import classifier

GUIDES = ROOT / "docs/guide"
SMALL = ("--model.network.filters", 8, "--model.num_levels", 4)
SHORT = {  # by command and by config: options that come last
    "fit": (*SMOKE, *QUICK),
    "features": ("--trainer.max_epochs", 1, "--trainer.accelerator", "cpu"),
    "predict": ("--model.sampler.num_steps", 2),
    "configs/folder.yaml": SMALL,
    "configs/fashion_mnist_cpu.yaml": SMALL,
}


def commands(page):
    """The command lines in the blocks of a page, without ``python -m ncsn``."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (GUIDES / page).read_text(), re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    assert all(line.startswith("python -m ncsn ") for line in lines), lines
    return [shlex.split(line)[3:] for line in lines]


def run_all(page, cli, skip=()):
    """Run the commands of a page; returns how many there were."""
    found = [args for args in commands(page) if not set(skip) & set(args)]
    for args in found:
        named = [args[0], *(arg for arg in args if arg.startswith("configs/"))]
        more = [option for name in named for option in SHORT.get(name, ())]
        assert cli(*args, *more) == 0, args
    return len(found)


def run_number(run):
    """N of version_N."""
    return int(run.name.removeprefix("version_"))


def write_module(page, name, monkeypatch):
    """Write the Python of a page to a module here; returns its number of lines."""
    text = (GUIDES / page).read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    Path(f"{name}.py").write_text(code)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return sum(bool(line) for line in code.splitlines())


@pytest.fixture(autouse=True)
def a_users_directory(tmp_path, monkeypatch):
    """The configs, and the files that the pages name."""
    Path("configs").symlink_to(ROOT / "configs")
    monkeypatch.syspath_prepend(tmp_path)
    write_images()
    write_points()
    write_fashion()
    write_fashion("data/KMNIST/raw")
    train = DigitsDataModule().splits["train"]
    np.savez("labelled.npz", samples=train.data[:100].numpy(), labels=train.labels[:100].numpy())


def test_the_commands_on_data_train_models(cli, monkeypatch):
    assert write_module("data.md", "my_data", monkeypatch) < 10
    assert run_all("data.md", cli, skip=["HuggingFaceDataModule"]) == 6


def test_the_command_on_hugging_face_trains_a_model(cli, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", Path("cache"))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    columns = {"image": [f"images/ash/{2 * i}.jpg" for i in range(1, 100) if 2 * i % 3]}
    columns["label"] = [i % 2 for i in range(len(columns["image"]))]
    datasets.Dataset.from_dict(columns, features=features).save_to_disk("ylecun/mnist")
    (args,) = [args for args in commands("data.md") if "HuggingFaceDataModule" in args]
    assert cli(*args, *SHORT["fit"], *SMALL) == 0


def test_the_commands_on_evaluation_evaluate(cli, capsys, monkeypatch):
    monkeypatch.setattr(classifier, "NUM_EPOCHS", 1)
    monkeypatch.setattr(classifier, "NUM_SPLITS", 1)
    write_module("evaluate.md", "memory", monkeypatch)
    Path("pngs").mkdir()
    for i, image in enumerate(np.random.default_rng(0).integers(256, size=(30, 16, 16))):
        Image.fromarray(image.astype(np.uint8)).save(f"pngs/{i}.png")
    assert run_all("evaluate.md", cli) == 11
    output = capsys.readouterr().out
    for text in ("in pixels", "TREES-FD", "classifier accuracy", "memorisation rate"):
        assert text in output
    runs = Path("lightning_logs/evaluation").iterdir()
    report = json.loads((max(runs, key=run_number) / "evaluation.json").read_text())
    copies = report["estimates"]["memorisation_rate"]
    assert copies["value"] > 0.95
    assert copies["floor"] < 0.05
