r"""Noise levels, perturbation, and noise that can be drawn again.

A score network is trained on data perturbed at several *noise levels* (Song & Ermon 2019),

.. math:: x_\sigma = x + \sigma z, \qquad z \sim \mathcal N(0, I),

with the levels in geometric progression from :math:`\sigma_{\max}` down to :math:`\sigma_{\min}`,
the order in which annealed sampling visits them.

Everything that draws noise takes a ``generator`` and leaves the global random state alone. Two
kinds are understood: a :class:`torch.Generator`, and a :class:`SampleGenerator`, whose row ``i``
depends on the seed and on ``i`` alone, so that sample number ``i`` is the same in any batch, on
any number of processes.
"""

import math
import os
from enum import IntEnum
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "Generator",
    "SampleGenerator",
    "Stream",
    "expand_as",
    "geometric_noise_levels",
    "global_seed",
    "normal_like",
    "perturb",
    "seeded_generator",
    "uniform_like",
]


def geometric_noise_levels(sigma_max: float, sigma_min: float, num_levels: int) -> Tensor:
    r"""Noise levels in geometric progression, largest first.

    :math:`\sigma_i = \sigma_{\max} (\sigma_{\min} / \sigma_{\max})^{i / (T - 1)}`,
    :math:`i = 0, \dots, T - 1`.

    Source:
        Song & Ermon 2019, "Generative Modeling by Estimating Gradients of the Data
        Distribution" (arXiv 1907.05600), section 4.1.

    Args:
        sigma_max: The largest level, > 0, in the units of the data.
        sigma_min: The smallest level, 0 < sigma_min <= sigma_max. With one level, it must be
            equal to ``sigma_max``.
        num_levels: T >= 1.

    Returns:
        The levels, shape ``(num_levels,)``, float32, descending.

    Raises:
        ValueError: If a value is outside its domain.
    """
    if num_levels < 1:
        raise ValueError(f"num_levels must be at least 1, got {num_levels}")
    if not 0 < sigma_min <= sigma_max < math.inf:
        raise ValueError(
            "noise levels need 0 < sigma_min <= sigma_max < inf, "
            f"got sigma_min={sigma_min} and sigma_max={sigma_max}"
        )
    if num_levels == 1 and sigma_min != sigma_max:
        raise ValueError(
            f"one noise level cannot span sigma_min={sigma_min} to sigma_max={sigma_max}: "
            "make them equal or raise num_levels"
        )
    ends = math.log(sigma_max), math.log(sigma_min)
    return torch.linspace(*ends, num_levels, dtype=torch.float64).exp().float()


def expand_as(sigma: Tensor, x: Tensor) -> Tensor:
    """Reshape ``sigma`` of shape ``(batch,)`` so that it broadcasts over ``x`` (batch, *event)."""
    return sigma.view(-1, *[1] * (x.ndim - 1))


def perturb(x: Tensor, sigma: Tensor, generator: "Generator" = None) -> tuple[Tensor, Tensor]:
    r"""Draw from the perturbation kernel :math:`q(x_\sigma | x) = \mathcal N(x, \sigma^2 I)`.

    Args:
        x: Clean data, shape ``(batch, *event)``.
        sigma: Noise level of each example, shape ``(batch,)``, > 0.
        generator: Source of the noise.

    Returns:
        ``(x_sigma, z)``, both of the shape of ``x``, with ``x_sigma = x + sigma * z``.
    """
    z = normal_like(x, generator)
    return x + expand_as(sigma, x) * z, z


class Stream(IntEnum):
    """What noise is drawn for; the first number of a generator's key, so that streams differ."""

    TRAINING = 1
    VALIDATION = 2
    SAMPLING = 3


def global_seed() -> int:
    """The seed of the run, as Lightning's ``seed_everything`` left it; 0 if it was not called."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def seeded_generator(
    stream: Stream, *key: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator for a purpose and a tuple of non-negative integers: seed, rank, epoch, batch...

    Different keys of one length give independent streams (NumPy's ``SeedSequence`` does the
    mixing), and nothing has to be stored to draw the same noise again: a resumed run rebuilds it.
    """
    seed = np.random.SeedSequence((stream, *key)).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(seed))


class SampleGenerator:
    """Noise for the samples ``start <= i < stop``, where row ``i`` depends on ``(seed, i)`` alone.

    The samples are drawn in blocks of 64, each with its own generator, so the cost is that of
    plain noise when ``start`` is a multiple of 64. The guarantee holds for one kind of device:
    CPU and GPU generators are different algorithms.

    Args:
        seed: Non-negative.
        start: Number of the first sample.
        stop: One past the number of the last sample, > start.
        device: Where the noise is drawn.

    Raises:
        ValueError: If ``start`` and ``stop`` do not span at least one sample.
    """

    BLOCK = 64

    def __init__(
        self, seed: int, start: int, stop: int, device: torch.device | str = "cpu"
    ) -> None:
        if not 0 <= start < stop:
            raise ValueError(f"need 0 <= start < stop, got start={start} and stop={stop}")
        first, last = start // self.BLOCK, math.ceil(stop / self.BLOCK)
        self._rows = slice(start - first * self.BLOCK, stop - first * self.BLOCK)
        self._generators = [
            seeded_generator(Stream.SAMPLING, seed, block, device=device)
            for block in range(first, last)
        ]

    def normal_like(self, x: Tensor) -> Tensor:
        """Standard normal noise of the shape of ``x``, one row a sample."""
        noise = self._empty_blocks(x)
        for block, generator in zip(noise.split(self.BLOCK), self._generators, strict=True):
            block.normal_(generator=generator)
        return noise[self._rows]

    def uniform_like(self, x: Tensor) -> Tensor:
        """Noise uniform on [-1, 1] of the shape of ``x``, one row a sample."""
        noise = self._empty_blocks(x)
        for block, generator in zip(noise.split(self.BLOCK), self._generators, strict=True):
            block.uniform_(-1, 1, generator=generator)
        return noise[self._rows]

    def _empty_blocks(self, x: Tensor) -> Tensor:
        return x.new_empty(len(self._generators) * self.BLOCK, *x.shape[1:])


Generator: TypeAlias = torch.Generator | SampleGenerator | None
"""What may be passed as ``generator``; ``None`` draws from torch's global random state."""


def normal_like(x: Tensor, generator: Generator = None) -> Tensor:
    """Standard normal noise of the shape, dtype and device of ``x``."""
    if isinstance(generator, SampleGenerator):
        return generator.normal_like(x)
    return torch.empty_like(x).normal_(generator=generator)


def uniform_like(x: Tensor, generator: Generator = None) -> Tensor:
    """Noise uniform on [-1, 1] of the shape, dtype and device of ``x``."""
    if isinstance(generator, SampleGenerator):
        return generator.uniform_like(x)
    return torch.empty_like(x).uniform_(-1, 1, generator=generator)
