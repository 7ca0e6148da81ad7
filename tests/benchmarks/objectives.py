"""Compare score matching objectives on two moons: loss, distance to the exact score, time.

python tests/benchmarks/objectives.py
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import torch
from jsonargparse import auto_cli
from torch import Tensor

from ncsn.cli import main
from ncsn.exact import TwoMoons
from ncsn.modules import DSM
from ncsn.noise import Generator, ScoreFunction, perturb
from ncsn.objectives import denoising_score_matching, sliced_score_matching

MOONS = Path(__file__).parents[2] / "configs/moons.yaml"


def plain_sliced_score_matching(
    score: ScoreFunction,
    x: Tensor,
    sigma: Tensor,
    *,
    reduction: Literal["none", "mean"] = "mean",
    generator: Generator = None,
) -> Tensor:
    """Sliced score matching without the reduction of its variance."""
    return sliced_score_matching(
        score, x, sigma, variance_reduced=False, reduction=reduction, generator=generator
    )


OBJECTIVES = {
    "denoising": "ncsn.objectives.denoising_score_matching",
    "implicit, exact divergence": "ncsn.objectives.implicit_score_matching",
    "sliced, variance reduced": "ncsn.objectives.sliced_score_matching",
    "sliced": f"{Path(__file__).stem}.plain_sliced_score_matching",
}


def compare_objectives(max_epochs: int = 100, num_points: int = 20_000) -> None:
    """Train ``configs/moons.yaml`` with every objective and print a table in Markdown.

    Args:
        max_epochs: Epochs of training.
        num_points: Fresh points on which the trained scores are evaluated.
    """
    sys.path.insert(0, str(Path(__file__).parent))  # where the last objective is
    sys.argv[1:] = []  # LightningCLI warns of two sets of arguments
    moons, generator = TwoMoons(num_points=512), torch.Generator().manual_seed(0)
    clean = moons.sample(num_points, generator).float()
    rows = ["| objective | loss | excess Fisher divergence · 2σ² | seconds |", "|---|---|---|---|"]
    for name, objective in OBJECTIVES.items():
        with tempfile.TemporaryDirectory() as directory:
            start = time.perf_counter()
            logger = f"{{class_path: CSVLogger, init_args: {{save_dir: {directory}}}}}"
            args = {
                "config": MOONS,
                "model.objective": objective,
                "model.preview_every_n_epochs": 0,
                "trainer.max_epochs": max_epochs,
                "trainer.check_val_every_n_epoch": max_epochs,
                "trainer.logger": logger,
                "trainer.enable_model_summary": False,
            }
            main(["fit", *(f"--{name}={value}" for name, value in args.items())])
            seconds = time.perf_counter() - start
            (checkpoint,) = Path(directory).rglob("last.ckpt")
            module = DSM.load_from_checkpoint(checkpoint, map_location="cpu").eval()
        generator.manual_seed(1)  # the same noise for all
        sigma = module.noise_levels[:1].expand(num_points)
        with torch.no_grad():
            loss = denoising_score_matching(module.score, clean, sigma, generator=generator)
            x, _ = perturb(clean, sigma, generator)
            difference = module.score(x, sigma) - moons(x, sigma)
        excess = (sigma[:, None] * difference).square().sum(1).mean()
        rows.append(f"| {name} | {loss:.4f} | {excess:.4f} | {seconds:.0f} |")
    print("\n".join(rows))


if __name__ == "__main__":
    auto_cli(compare_objectives, as_positional=False)
