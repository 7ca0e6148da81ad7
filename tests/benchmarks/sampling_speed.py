r"""Sampling throughput: annealed Langevin dynamics, straightforward and ours, on one network.

python tests/benchmarks/sampling_speed.py

The straightforward loop does what a research script does at every step: norms of score, noise and
image for its log, and a copy of every state on the host, in float32 and PyTorch's default memory
format. Weights are random: they do not change the cost. Both take turns, each in a process of its
own, and each keeps its best round.
"""

import resource
import time

import shared
import torch
from jsonargparse import auto_cli
from machine import DEVICE, alone, describe, flops_and_bytes, peak_flops, synchronize
from torch import Tensor
from tqdm import tqdm

from ncsn.modules import NCSN
from ncsn.runtime import keep_freed_memory
from ncsn.sampling import AnnealedLangevin

CONFIGS = {"mnist": "ConditionedResNet of mnist.yaml", "mnist_cpu": "U-Net of mnist_cpu.yaml"}


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
            states.append(x.to("cpu", copy=True))
    return states


def our_sampling(model: NCSN, num: int, steps_per_level: int) -> Tensor:
    """The same steps as the sampler of the module takes them."""
    return model.sample(num, sampler=AnnealedLangevin(steps_per_level, denoise=False))


def build(config: str) -> NCSN:
    """The model of a config, with random weights."""
    return shared.build(config).model.to(DEVICE).eval()


LOOPS = {"straightforward": straightforward_sampling, "ours": our_sampling}


def seconds_of(loop: str, config: str, num: int, steps_per_level: int) -> float:
    """Seconds of a loop after a warm-up, the better of two, in a process that must be new."""
    if loop == "ours":
        keep_freed_memory()
    model = build(config)
    if loop == "straightforward":
        model.network.to(memory_format=torch.contiguous_format)
    times = []
    for _ in range(3):
        synchronize()
        start = time.perf_counter()
        LOOPS[loop](model, num, steps_per_level)
        synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def peak_memory(num: int, steps_per_level: int) -> float:
    """Peak memory in MB of sampling: of the GPU, or of the process, which must be a new one."""
    keep_freed_memory()
    our_sampling(build("mnist_cpu"), num, steps_per_level)
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure(
    num_samples: int = 64,
    steps_per_level: int = 2,
    rounds: int = 3,
    configs: tuple[str, ...] = tuple(CONFIGS),
) -> None:
    """Print a table in Markdown, and how memory grows with steps and samples.

    Args:
        num_samples: Samples at a time.
        steps_per_level: Langevin steps at each noise level.
        rounds: How often each loop is run.
        configs: Which configs to sample from.
    """
    peak, measured = peak_flops(), []
    for config in configs:
        best = dict.fromkeys(LOOPS, float("inf"))
        for _ in tqdm(range(rounds), desc=config):
            for loop in LOOPS:
                arguments = (loop, config, num_samples, steps_per_level)
                best[loop] = min(best[loop], alone(seconds_of, *arguments))
            peak = max(peak, peak_flops())
        model = build(config)
        flops, _ = flops_and_bytes(lambda m=model: our_sampling(m, num_samples, 1))
        evaluations = num_samples * steps_per_level * len(model.noise_levels)
        measured.append((CONFIGS[config], *best.values(), evaluations, flops * steps_per_level))
    print(f"{describe()}: {peak / 1e9:.0f} GFLOP/s (matrix product)")
    shared.print_table(
        ("network", "straightforward, evaluations/s", "ours", "ratio", "times the floor"),
        [
            (
                *(title, f"{evaluations / straightforward:.0f}", f"{evaluations / ours:.0f}"),
                *(f"{straightforward / ours:.2f}", f"{ours * peak / flops:.1f}"),
            )
            for title, straightforward, ours, evaluations, flops in measured
        ],
    )
    for times in (1, 4):
        memory = alone(peak_memory, num_samples, times * steps_per_level)
        print(f"peak memory with {times * steps_per_level} steps a level: {memory:.0f} MB")


if __name__ == "__main__":
    auto_cli(measure, as_positional=False)
