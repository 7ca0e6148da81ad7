"""Do the scripts that make the tables and pictures of the docs still run?"""

import sys
from pathlib import Path

import pytest
from conftest import CONFIGS, OVERLAYS, ROOT

sys.path.insert(0, str(ROOT / "tests/benchmarks"))

pytestmark = pytest.mark.slow


def smoke_checkpoint(cli, config, *options):
    overlay = OVERLAYS / "smoke.yaml"
    assert cli("fit", "--config", CONFIGS / config, "--config", overlay, *options) == 0
    (path,) = Path("lightning_logs").glob("*/version_0/checkpoints/last.ckpt")
    return path


def test_objectives(capsys):
    from objectives import OBJECTIVES, compare_objectives

    compare_objectives(max_epochs=1, num_points=100)
    table = capsys.readouterr().out
    assert all(f"| {name} |" in table for name in OBJECTIVES)


def test_samplers(cli, capsys):
    from samplers import SAMPLERS, compare_samplers

    compare_samplers(smoke_checkpoint(cli, "digits.yaml"), num_samples=2)
    table = capsys.readouterr().out
    assert all(f"| {name} |" in table for name in SAMPLERS)
    assert Path("samplers.png").is_file()


def test_conditioning(cli, mnist_dir):
    from conditioning import draw_conditioning

    path = smoke_checkpoint(cli, "mnist_classes.yaml", "--data.data_dir", mnist_dir)
    draw_conditioning(path, mnist_dir)
    assert all(
        Path(f"{name}.png").is_file() for name in ("classes", "inpainting", "interpolation")
    )
