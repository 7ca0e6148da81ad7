r"""Compare samplers on one trained model: network evaluations, seconds, a grid of samples each.

python tests/benchmarks/samplers.py \
    --ckpt_path lightning_logs/mnist_cpu/version_0/checkpoints/last.ckpt
"""

import time
from pathlib import Path

import torch
from jsonargparse import auto_cli
from machine import DEVICE, synchronize
from rich.progress import track
from shared import print_table

from ncsn import plots
from ncsn.evaluation.codec import to_uint8
from ncsn.modules import NCSN
from ncsn.sampling import (
    Ancestral,
    AnnealedLangevin,
    ConsistentAnnealedSampling,
    DPMSolver,
    Euler,
    Heun,
    Langevin,
    PredictorCorrector,
    Sampler,
)
from ncsn.sampling.langevin import epsilon_from_share


def samplers(sigma_min: float) -> dict[str, Sampler]:
    """What is compared, for a ladder from about 15 to about 0.03."""
    langevin = Langevin(epsilon_from_share(0.2, sigma_min), num_steps=280, denoise=True)
    return {
        "Langevin at the smallest level, from U[-1, 1]": langevin,
        "annealed Langevin, 10 steps a level": AnnealedLangevin(10),
        "annealed Langevin, 4 steps a level, epsilon auto": AnnealedLangevin(4, "auto"),
        "consistent annealed, h = 0.2": ConsistentAnnealedSampling(0.2, num_steps=100),
        "ancestral": Ancestral(num_steps=100),
        "predictor-corrector, r = 0.16": PredictorCorrector(num_steps=50),
        "Euler (DDIM)": Euler(num_steps=50),
        "Heun": Heun(num_steps=13),
        "DPM-Solver++(2M)": DPMSolver(num_steps=20),
        "SDE-DPM-Solver++(2M)": DPMSolver(num_steps=20, eta=1.0),
    }


def compare_samplers(
    ckpt_path: Path, output: Path = Path("samplers.png"), num_samples: int = 1000
) -> None:
    """Draw samples with every sampler, print a table in Markdown and write a picture.

    Args:
        ckpt_path: Checkpoint of an NCSN on images.
        output: The picture.
        num_samples: Samples to draw with each.
    """
    module = NCSN.load_from_checkpoint(ckpt_path, map_location="cpu").eval().to(DEVICE)
    compared = samplers(module.noise_levels[-1].item())
    figure = plots.new_figure(11.2, 5.5)
    panels = figure.subplots(2, len(compared) // 2).flat
    rows = []
    for (name, sampler), axes in zip(compared.items(), panels, strict=True):
        start, batches = time.perf_counter(), []
        for first in track(range(0, num_samples, 250), name):
            stop = min(first + 250, num_samples)
            batches.append(to_uint8(module.draw(first, stop, sampler=sampler)))
        synchronize()
        seconds = time.perf_counter() - start
        evaluations = sampler.num_evaluations  # of one batch: those that each sample took
        rows.append((name, evaluations, f"{seconds:.1f}"))
        axes.imshow(plots.image_grid(torch.cat(batches)[:64], columns=8))
        axes.set_title(f"{name}\n{evaluations} evaluations", fontsize="small")
        axes.set_axis_off()
    figure.savefig(output)
    print_table(("sampler", "evaluations", "seconds"), rows)
    print(f"\nSamples are in {output}")


if __name__ == "__main__":
    auto_cli(compare_samplers, as_positional=False)
