"""The configs: each is short, is one experiment, and works from training to samples."""

from pathlib import Path

import pytest
import yaml
from support.commands import smoke
from support.own_data import accept_cifar, write_data
from support.paths import CONFIGS, OVERLAYS

EXPERIMENTS = sorted(path.stem for path in CONFIGS.glob("*.yaml"))

SMALL = "--model.network.filters 8"
LARGE = {  # what makes them smaller: whole, they take a minute
    **dict.fromkeys((name for name in EXPERIMENTS if name.startswith("mnist")), SMALL),
    "cifar10": f"{SMALL} --model.num_levels 4",
    "fashion_mnist_cpu": SMALL,
    "folder": f"{SMALL} --data.size 16",
}


@pytest.mark.parametrize("config", EXPERIMENTS)
def test_every_config_trains_evaluates_and_samples(config, cli, request, trained, monkeypatch):
    if config == "cifar10":
        accept_cifar(monkeypatch)
    write_data(config)
    if config in LARGE:
        options = LARGE[config].split()
        if config.startswith("mnist"):
            options += ["--data.data_dir", request.getfixturevalue("mnist_dir")]
        assert cli("fit", *smoke(config), *options) == 0
        run = Path(f"lightning_logs/{config}/version_0")
    else:
        run = trained(config)
    pictures = {path.name for path in (run / "pictures").iterdir()}
    samples = {"samples.png", "samples_step=0000002.png"}
    images = samples | {"data.png", "annealing.png", "annealing.gif"}
    expected = {"moons": samples | {"score.png"}, "points5d": set()}  # no picture of 5 dimensions
    assert expected.get(config.partition("_")[0], images) | {"losses.png"} <= pictures
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert "val/loss_per_dim" in (run / "metrics.csv").read_text()
    # The stored config is enough to evaluate the stored weights.
    checkpoint = run / "checkpoints/best.ckpt"
    args = ["--config", run / "config.yaml", "--ckpt_path", checkpoint]
    assert cli("validate", *args) == 0
    assert cli("test", *args, "--num_samples", 20, "--num_likelihood_examples", 2) == 0
    assert cli("predict", *args, "--num_samples", 10) == 0


def assert_contains(whole, part, path="config"):
    """All values of a nested config are in another one, which may name more classes."""
    if isinstance(part, dict):
        for key, value in part.items():
            name = key.removesuffix("+")  # which adds to a list
            inner = whole if name in whole else whole["init_args"]
            value = value if name == key else inner[name][: -len(value)] + value
            assert_contains(inner[name], value, f"{path}.{name}")
    elif isinstance(part, list):
        assert len(whole) == len(part), path
        for i, pair in enumerate(zip(whole, part, strict=True)):
            assert_contains(*pair, f"{path}.{i}")
    else:
        assert whole == part, path


@pytest.mark.parametrize("overlay", sorted(path.name for path in OVERLAYS.glob("*.yaml")))
def test_every_overlay_fits_every_config(overlay, cli, capsys):
    for config in EXPERIMENTS:
        args = ["--config", CONFIGS / f"{config}.yaml", "--config", OVERLAYS / overlay]
        assert cli("fit", *args, "--print_config") == 0
        merged = yaml.safe_load(capsys.readouterr().out)
        assert_contains(merged, yaml.safe_load((OVERLAYS / overlay).read_text()))


def keys(config):
    """All keys in nested containers."""
    if isinstance(config, dict):
        yield from config
    for value in config.values() if isinstance(config, dict) else config:
        if isinstance(value, dict | list):
            yield from keys(value)


@pytest.mark.parametrize("config", EXPERIMENTS)
def test_a_config_is_one_experiment_and_leaves_the_rest_to_the_defaults(config):
    text = (CONFIGS / f"{config}.yaml").read_text()
    assert f"python -m ncsn fit --config configs/{config}.yaml" in text
    assert len(text.splitlines()) <= 45
    values = yaml.safe_load(text)
    # What all runs share is a default, and what can be computed is.
    assert values.keys() <= {"data", "model", "trainer", "ema", "progress_bar"}
    assert not {"logger", "callbacks"} & values["trainer"].keys()
    assert values.get("progress_bar", {}).keys() <= {"refresh_rate"}
    assert not {"channels", "dim", "total_steps"} & set(keys(values))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: path.stem)
def test_an_overlay_or_a_sweep_names_a_command_that_uses_it(path):
    option = "wandb sweep" if path.parent.name == "sweeps" else "--config"
    assert f"{option} configs/{path.relative_to(CONFIGS)}" in path.read_text()
