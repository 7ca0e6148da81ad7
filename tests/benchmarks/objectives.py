"""Compare score matching objectives on two moons: loss, distance to the exact score, time.

python tests/benchmarks/objectives.py
"""

import sys
import tempfile
import time
from pathlib import Path

import torch
from jsonargparse import auto_cli
from shared import config_path, print_table
from torch import Tensor

from ncsn.cli import main
from ncsn.exact import TwoMoons
from ncsn.levels import ScoreFunction, perturb
from ncsn.modules import DSM
from ncsn.objectives import sliced_score_matching
from ncsn.random import Generator


def plain_sliced_score_matching(
    score: ScoreFunction, x: Tensor, sigma: Tensor, generator: Generator = None
) -> Tensor:
    """Sliced score matching without the reduction of its variance."""
    return sliced_score_matching(score, x, sigma, generator, variance_reduced=False)


OBJECTIVES = {
    "denoising": "ncsn.objectives.denoising_score_matching",
    "implicit, exact divergence": "ncsn.objectives.implicit_score_matching",
    "sliced, variance reduced": "ncsn.objectives.sliced_score_matching",
    "sliced": f"{Path(__file__).stem}.plain_sliced_score_matching",
}


def train(objective: str, max_epochs: int) -> tuple[DSM, float]:
    """Train ``configs/moons.yaml`` with an objective; returns the model and the seconds."""
    with tempfile.TemporaryDirectory() as directory:
        start = time.perf_counter()
        args = {
            "config": config_path("moons"),
            "model.objective": objective,
            "model.preview.every_n_epochs": 0,
            "trainer.max_epochs": max_epochs,
            "trainer.check_val_every_n_epoch": max_epochs,
            "trainer.logger": f"{{class_path: CSVLogger, init_args: {{save_dir: {directory}}}}}",
            "trainer.enable_model_summary": False,
        }
        main(["fit", *(f"--{name}={value}" for name, value in args.items())])
        seconds = time.perf_counter() - start
        (checkpoint,) = Path(directory).rglob("last.ckpt")
        return DSM.load_from_checkpoint(checkpoint, map_location="cpu").eval(), seconds


def compare_objectives(max_epochs: int = 100, num_points: int = 20_000) -> None:
    """Train with every objective and print a table in Markdown.

    All rows, that of the exact score among them, have the same fresh points and the same noise.

    Args:
        max_epochs: Epochs of training.
        num_points: Fresh points on which the scores are evaluated.
    """
    sys.path.insert(0, str(Path(__file__).parent))  # where the last objective is
    moons, generator = TwoMoons(num_points=512), torch.Generator().manual_seed(0)
    trained = {name: train(objective, max_epochs) for name, objective in OBJECTIVES.items()}
    level = next(iter(trained.values()))[0].noise_levels[0]
    sigma = level.expand(num_points)
    x, z = perturb(moons.sample(num_points, generator).float(), sigma, generator)
    exact = moons(x, sigma)

    def row(name: str, score: Tensor, seconds: str) -> tuple[str, ...]:
        loss = (level * score + z).square().sum(1).mean()
        excess = (level * (score - exact)).square().sum(1).mean()
        return name, f"{loss:.4f}", f"{excess:.4f}", seconds

    with torch.no_grad():
        rows = [
            row(name, module.score(x, sigma), f"{seconds:.0f}")
            for name, (module, seconds) in trained.items()
        ]
    heading = ("objective", "loss", "excess Fisher divergence · 2σ²", "seconds")
    print_table(heading, [*rows, row("none: the exact score", exact, "")])


if __name__ == "__main__":
    auto_cli(compare_objectives, as_positional=False)
