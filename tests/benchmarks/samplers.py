r"""Compare samplers on one trained model: network evaluations, seconds, a grid of samples each.

python tests/benchmarks/samplers.py \
    --ckpt_path lightning_logs/mnist_cpu/version_0/checkpoints/last.ckpt
"""

import time
from pathlib import Path

import torch
from jsonargparse import auto_cli
from matplotlib.figure import Figure
from rich.progress import track

from ncsn import plots
from ncsn.modules import NCSN
from ncsn.noise import SampleGenerator
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

# For a ladder from 15 to 0.03; evaluations include the Tweedie step.
SAMPLERS: dict[str, Sampler] = {
    "Langevin at the smallest level, from U[-1, 1]": Langevin(0.2, 280, convention="relative"),
    "annealed Langevin, 10 steps a level": AnnealedLangevin(10),
    "annealed Langevin, 4 steps a level, step auto": AnnealedLangevin(4, "auto"),
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
    module = NCSN.load_from_checkpoint(ckpt_path, map_location="cpu").eval()
    if torch.cuda.is_available():
        module.cuda()
    figure = Figure(figsize=(13.4, 6.6), dpi=100, layout="constrained")
    panels = figure.subplots(2, 5).flat
    rows = ["| sampler | evaluations | seconds |", "|---|---|---|"]
    for (name, sampler), axes in zip(SAMPLERS.items(), panels, strict=True):
        start, batches = time.perf_counter(), []
        for first in track(range(0, num_samples, 250), name):
            stop = min(first + 250, num_samples)
            generator = SampleGenerator(0, first, stop, module.device)
            batches.append(
                module.sample(
                    stop - first,
                    module.labels_of_samples(first, stop),
                    sampler=sampler,
                    generator=generator,
                ).cpu()
            )
        seconds = time.perf_counter() - start
        evaluations = sampler.num_evaluations(len(module.noise_levels))
        rows.append(f"| {name} | {evaluations} | {seconds:.1f} |")
        axes.imshow(plots.image_grid(torch.cat(batches)[:64], columns=8).permute(1, 2, 0))
        axes.set_title(f"{name}\n{evaluations} evaluations", fontsize="medium")
        axes.set_axis_off()
    figure.savefig(output)
    print("\n".join(rows), f"Samples are in {output}", sep="\n\n")


if __name__ == "__main__":
    auto_cli(compare_samplers, as_positional=False)
