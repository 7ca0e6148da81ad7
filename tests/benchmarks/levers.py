r"""What makes training faster: trainings of MNIST's U-Net of equal length, with one thing changed.

python tests/benchmarks/levers.py --data_dir data --setting.optimizer adam --seeds '[0,1]'

A loop of plain torch on one thread, so that several can run side by side. It prints the Fréchet
distance in MNIST features of 2,000 samples (SDE-DPM-Solver++, 20 evaluations) from the images held
out for validation, and the loss at each of twelve noise levels. Time is that of the processor,
for what changes the cost of a step.
"""

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from jsonargparse import auto_cli
from machine import describe
from shared import build, data_options, print_table
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ncsn.evaluation.codec import to_float, to_uint8
from ncsn.evaluation.features import extract_features, load_features
from ncsn.evaluation.metrics import frechet_distance
from ncsn.levels import expand_as, perturb
from ncsn.modules import NCSN
from ncsn.networks import UNet
from ncsn.networks.unet import NoiseLevelEmbedding, ResBlock, zero_
from ncsn.optimizers import Muon
from ncsn.parametrisation import EDM
from ncsn.runtime import keep_freed_memory

LEVELS = torch.logspace(math.log10(0.03), math.log10(15), 12)
HEADING = ("seed", "FD", "loss per dimension", *(f"σ = {s:.2g}" for s in LEVELS), "processor, s")


@dataclass(frozen=True)
class Setting:
    """How to train.

    Args:
        optimizer: Adam, Muon, or SOAP (``pip install pytorch-optimizer``).
        lr: Its largest learning rate; Muon's for vectors.
        matrix_lr_ratio: Muon's for matrices, as a multiple.
        scheduler: How the learning rate falls, after a warm-up of a twentieth.
        level_density: Mean and standard deviation of ln σ.
        weight: Exponent a of the weight (1 + σ²/σ_d²)^a of the loss: 0 is σ², 1 is EDM's.
        stable: Number of other images that may be the clean one; 0 takes the noise itself.
        antithetic: Whether the second half of a batch is the first, with the noise negated.
        log_variance: Whether all levels count alike, by a learned size of their loss.
        batch_size: Images in a batch.
        num_images: Length of the training.
        network: Arguments of the U-Net that differ from those of mnist_cpu.yaml.
        attention: Whether the middle block attends over its 4x4 positions.
        bf16: Whether networks compute in bfloat16.
        compiled: Whether the network is compiled, with ``torch.compile``.
        stratified: Whether the levels of a batch are spread evenly over their distribution, as
            the package does it, or drawn independently.
    """

    optimizer: Literal["adam", "muon", "soap"] = "muon"
    lr: float = 2e-3
    matrix_lr_ratio: float = 10.0
    scheduler: Literal["one_cycle", "linear", "trapezoid"] = "one_cycle"
    level_density: tuple[float, float] = (0.4, 1.0)
    weight: float = 0.0
    stable: int = 0
    antithetic: bool = False
    log_variance: bool = False
    batch_size: int = 128
    num_images: int = 98_000
    network: dict[str, int | list[int]] = field(default_factory=dict)
    attention: bool = False
    bf16: bool = True
    compiled: bool = False
    stratified: bool = True


def batches(images: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Random batches without end."""
    while True:
        order = torch.randperm(len(images), generator=generator)
        for rows in order.split(size)[: len(images) // size]:
            yield to_float(images[rows])


def posterior_noise(
    x_sigma: Tensor, sigma: Tensor, x: Tensor, images: Tensor, generator: torch.Generator, num: int
) -> Tensor:
    """The mean noise in ``x_sigma`` if the clean image is one of the batch or of ``num`` others.

    Source: Xu et al. 2023, "Stable target field for reduced variance score estimation".
    """
    rows = torch.randint(len(images), (num,), generator=generator)
    candidates = torch.cat([x, to_float(images[rows])]).flatten(1)
    squares = torch.cdist(x_sigma.flatten(1), candidates).square()
    weights = (-squares / (2 * sigma[:, None] ** 2)).softmax(1)
    return (x_sigma - (weights @ candidates).view_as(x)) / expand_as(sigma, x)


class LogVariance(nn.Module):
    """Has all levels count alike, whatever the size of their loss, by a learned u(σ).

    The loss L of an example becomes L / exp(u(σ)) + u(σ). Its mean is least where u is the
    logarithm of the mean of L at that level.

    Source: Karras et al. 2024, "Analyzing and improving the training dynamics of diffusion
    models" (EDM2, arXiv 2312.02696).
    """

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = NoiseLevelEmbedding(128), nn.Linear(128, 1)
        zero_(self.linear)

    def forward(self, loss: Tensor, sigma: Tensor) -> Tensor:
        """The loss, divided by what is expected at this level; shapes ``(batch,)``."""
        u = self.linear(self.embedding(sigma))[:, 0]
        return loss / u.exp() + u


class AttentiveBlock(ResBlock):
    """A residual block followed by self-attention over positions, at first the identity.

    Source: Ho et al. 2020 (arXiv 2006.11239), appendix B.
    """

    def __init__(self, channels: int, dim_embedding: int) -> None:
        super().__init__(channels, channels, dim_embedding)
        self.norm = nn.GroupNorm(8, channels)
        self.attention = nn.MultiheadAttention(channels, 4, batch_first=True)
        zero_(self.attention.out_proj)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """As :class:`ResBlock`; the channels stay as they are."""
        h = super().forward(x, embedding)
        tokens = self.norm(h).flatten(2).mT
        attended, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return h + attended.mT.view_as(h)


def make_optimizer(setting: Setting, parameters: list[nn.Parameter]) -> Optimizer:
    """The optimizer of a setting."""
    if setting.optimizer == "soap":
        from pytorch_optimizer import SOAP

        return SOAP(parameters, setting.lr, weight_decay=0.0)
    if setting.optimizer == "adam":
        return torch.optim.Adam(parameters, setting.lr, fused=True)
    return Muon(parameters, setting.lr, matrix_lr_ratio=setting.matrix_lr_ratio)


def schedule(name: str, done: float) -> float:
    """The learning rate after a share of the training, relative to the largest."""
    warmup = min(1.0, done / 0.05)
    if name == "linear":
        return warmup * (1 - done)
    if name == "trapezoid":
        return min(warmup, (1 - done) / 0.3)
    rise, fall = math.pi * warmup, math.pi * (done - 0.05) / 0.95
    return 0.04 + 0.48 * (1 - math.cos(rise)) if warmup < 1 else 0.5 * (1 + math.cos(fall))


def evaluate(module: NCSN, held_out: Tensor, bf16: bool) -> tuple[float, Tensor]:
    """The Fréchet distance of samples, and the loss at each of the levels."""
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=bf16)
    with torch.no_grad(), autocast:
        x = to_float(held_out[: 168 * len(LEVELS)])
        z = torch.randn(x.shape, generator=torch.Generator().manual_seed(77))
        losses = []
        for rows in torch.arange(len(x)).split(42 * len(LEVELS)):
            sigma = LEVELS.repeat(42)
            score = module.score(x[rows] + expand_as(sigma, x) * z[rows], sigma)
            losses.append((expand_as(sigma, x) * score + z[rows]).square().mean((1, 2, 3)))
        sampler, samples = module.preview_sampler, []
        for start in range(0, 2000, 250):
            generator = torch.Generator().manual_seed(500 + start)
            samples.append(module.sample(250, sampler=sampler, generator=generator))
    network = load_features("mnist")
    ours = extract_features(network, to_uint8(torch.cat(samples))).features
    fd = frechet_distance(ours, extract_features(network, held_out).features)
    return fd, torch.cat(losses).view(-1, len(LEVELS)).mean(0)


def train(module: NCSN, images: Tensor, setting: Setting, seed: int) -> None:
    """Train; the network is left with the average of its weights."""
    parameters = list(module.network.parameters())
    log_variance = LogVariance()
    own = log_variance.parameters() if setting.log_variance else ()
    optimizer = make_optimizer(setting, [*parameters, *own])
    num_steps = setting.num_images // setting.batch_size
    falling = LambdaLR(optimizer, lambda step: schedule(setting.scheduler, step / num_steps))
    average = [parameter.detach().clone() for parameter in parameters]
    generator = torch.Generator().manual_seed(seed + 1000)
    source = batches(images, setting.batch_size, generator)
    for step in range(num_steps):
        x = next(source)
        sigma = module.sample_noise_levels(len(x), generator)
        if not setting.stratified:
            p = module.level_probabilities
            sigma = module.noise_levels[p.multinomial(len(x), True, generator=generator)]
        x_sigma, z = perturb(x, sigma, generator)
        if setting.antithetic:
            x, sigma, z = (each[: len(x) // 2] for each in (x, sigma, z))
            x, sigma, z = x.repeat(2, 1, 1, 1), sigma.repeat(2), torch.cat([z, -z])
            x_sigma = x + expand_as(sigma, x) * z
        if setting.stable:
            z = posterior_noise(x_sigma, sigma, x, images, generator, setting.stable)
        with torch.autocast("cpu", torch.bfloat16, enabled=setting.bf16):
            residual = expand_as(sigma, x) * module.score(x_sigma, sigma) + z
        loss = (1 + (sigma / module.data_std) ** 2) ** setting.weight
        loss = loss * residual.square().flatten(1).mean(1)
        if setting.log_variance:
            loss = log_variance(loss, sigma)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        falling.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1 - min(0.995, (1 + step) / (10 + step)))
    with torch.no_grad():
        torch._foreach_copy_(parameters, average)


def measure(
    data_dir: Path | None = None,
    setting: Setting = Setting(),
    seeds: tuple[int, ...] = (0,),
) -> None:
    """Print a row for each seed.

    Args:
        data_dir: Directory with MNIST/raw.
        setting: What is changed.
        seeds: Seeds of the trainings.
    """
    keep_freed_memory()
    torch.set_num_threads(1)
    data = build("mnist_cpu", *data_options(data_dir)).datamodule
    data.setup("fit")
    reference, rows = data.reference("val"), []
    for seed in seeds:
        torch.manual_seed(seed)
        module = NCSN(
            UNet(**{"multipliers": (1, 2, 2), "num_blocks": 1, **setting.network}),
            **{"sigma_max": 15.0, "sigma_min": 0.03, "num_levels": 28, "parametrisation": EDM()},
            level_density=setting.level_density,
            data_shape=data.data_shape,
            data_mean=data.data_mean,
            data_std=data.data_std,
        )
        if setting.attention:
            widths = (
                module.network.middle.conv1.in_channels,
                module.network.embedding.mlp[0].out_features,
            )
            module.network.middle = AttentiveBlock(*widths)
        if setting.compiled:
            module.network.compile()
        start = time.process_time()
        train(module, reference.train, setting, seed)
        seconds = time.process_time() - start
        fd, losses = evaluate(module.eval(), reference.held_out, setting.bf16)
        levels = (f"{each:.4f}" for each in losses)
        rows.append((seed, f"{fd:.3f}", f"{losses.mean():.4f}", *levels, f"{seconds:.0f}"))
        print(*rows[-1], file=sys.stderr, flush=True)
    print(f"{setting}\n\n{describe()}\n")
    print_table(HEADING, rows)


if __name__ == "__main__":
    auto_cli(measure, as_positional=False)
