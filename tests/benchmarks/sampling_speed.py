r"""Sampling throughput: annealed Langevin dynamics, straightforward and ours, on one network.

python tests/benchmarks/sampling_speed.py

The straightforward loop does what a research script does at every step: norms of score, noise and
image for its log, and a copy of every state on the host, in float32 and PyTorch's default memory
format. Weights are random: they do not change the cost. Both take turns, and each keeps its best
round.
"""

import resource
import time
from pathlib import Path

import torch
from jsonargparse import auto_cli
from machine import DEVICE, describe, flops_and_bytes, peak_flops, synchronize
from torch import Tensor

from ncsn.cli import CLI
from ncsn.modules import NCSN
from ncsn.sampling import AnnealedLangevin

ROOT = Path(__file__).parents[2]
CONFIGS = {"ConditionedResNet of mnist.yaml": "mnist", "U-Net of mnist_cpu.yaml": "mnist_cpu"}


@torch.no_grad()
def straightforward_sampling(model: NCSN, num: int, steps_per_level: int) -> list[Tensor]:
    """Annealed Langevin dynamics with a log of norms, and every state kept on the host."""
    x = torch.rand(num, *model.data_shape, device=DEVICE)
    states, log = [], []
    for sigma in model.noise_levels:
        step_size = 0.2 * sigma**2
        for _ in range(steps_per_level):
            score = model.score(x, sigma.expand(num))
            z = torch.randn_like(x)
            x = x + step_size * score + (2 * step_size).sqrt() * z
            norms = [t.flatten(1).norm(dim=1).mean().item() for t in (score, z, x)]
            log.append((*norms, score.mean(0).norm().item()))
            states.append(x.to("cpu"))
    return states


def our_sampling(model: NCSN, num: int, steps_per_level: int) -> Tensor:
    """The same steps as the sampler of the module takes them."""
    return model.sample(num, sampler=AnnealedLangevin(steps_per_level, denoise=False))


def peak_memory() -> float:
    """Peak memory so far, in MB: of the GPU, or of the process."""
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure(num_samples: int = 64, steps_per_level: int = 2, rounds: int = 5) -> None:
    """Print a table in Markdown, and how memory grows with steps and samples.

    Args:
        num_samples: Samples at a time.
        steps_per_level: Langevin steps at each noise level.
        rounds: How often each loop is run.
    """
    peak, rows = peak_flops(), []
    for title, config in CONFIGS.items():
        model = CLI([f"--config={ROOT}/configs/{config}.yaml"], run=False).model.to(DEVICE).eval()
        num_evaluations = steps_per_level * len(model.noise_levels)
        loops = {"straightforward": straightforward_sampling, "ours": our_sampling}
        best = dict.fromkeys(loops, float("inf"))
        for _ in range(rounds):
            for name, loop in loops.items():
                default = name == "straightforward"
                model.network.to(
                    memory_format=torch.contiguous_format if default else torch.channels_last
                )
                synchronize()
                start = time.perf_counter()
                loop(model, num_samples, steps_per_level)
                synchronize()
                best[name] = min(best[name], time.perf_counter() - start)
        flops, _ = flops_and_bytes(lambda model=model: our_sampling(model, num_samples, 1))
        floor = flops * steps_per_level / peak
        rate = [f"{num_samples * num_evaluations / best[name]:.0f}" for name in loops]
        rows.append(
            [
                title,
                *rate,
                f"{best['straightforward'] / best['ours']:.2f}",
                f"{best['ours'] / floor:.1f}",
            ]
        )
    heading = "network | straightforward, evaluations/s | ours | ratio | times the floor"
    print(f"{describe()}: {peak / 1e9:.0f} GFLOP/s (matrix product)")
    print(f"| {heading} |", "|---" * len(rows[0]) + "|", sep="\n")
    print(*(f"| {' | '.join(row)} |" for row in rows), sep="\n")
    our_sampling(model, num_samples, 1)
    before = peak_memory()
    our_sampling(model, num_samples, 4 * steps_per_level)
    print(f"peak memory: {before:.0f} MB, {peak_memory():.0f} MB with four times the steps")


if __name__ == "__main__":
    auto_cli(measure, as_positional=False)
