"""Noise levels, perturbation, and noise that can be drawn again.

A score network is trained on data perturbed at several *noise levels* (Song & Ermon 2019)::

    x_σ = x + σ z,    z ~ N(0, I),

with the levels in geometric progression from σ_max down to σ_min, the order in which annealed
sampling visits them. How to choose them is the subject of Song & Ermon 2020, "Improved Techniques
for Training Score-Based Generative Models" (NCSNv2, arXiv 2006.09011), whose techniques 1, 2 and 4
are here as :func:`largest_distance`, :func:`noise_level_ratio` and :func:`langevin_step_size`.

Everything that draws noise takes a ``generator`` and leaves the global random state alone. Two
kinds are understood: a :class:`torch.Generator`, and a :class:`NoiseSource` such as
:class:`SampleGenerator`, whose row ``i`` depends on the seed and on ``i`` alone, so that sample
number ``i`` is the same in any batch, on any number of processes.
"""

import math
import os
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "Generator",
    "InterpolatedGenerator",
    "NoiseSource",
    "SampleGenerator",
    "ScoreFunction",
    "Stream",
    "expand_as",
    "geometric_noise_levels",
    "global_seed",
    "langevin_step_size",
    "largest_distance",
    "noise_level_ratio",
    "normal_like",
    "perturb",
    "seeded_generator",
    "uniform_like",
]

ScoreFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""``score(x, sigma)``: x of shape (batch, *event), sigma of shape (batch,), result like x."""


def geometric_noise_levels(sigma_max: float, sigma_min: float, num_levels: int) -> Tensor:
    """Noise levels in geometric progression, σ_i = σ_max (σ_min / σ_max)^{i / (T − 1)}, i < T.

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


def largest_distance(x: Tensor) -> float:
    """NCSNv2's technique 1: σ_max as the largest distance between two examples.

    Noise of this level lets a sample move from any example to any other.

    Source:
        Song & Ermon 2020 (arXiv 2006.09011), technique 1.

    Args:
        x: Examples, shape ``(n, *event)``, n >= 2. The cost is that of n² / 2 distances.
    """
    x = x.flatten(1)
    starts = range(0, len(x), 1024)
    return max(torch.cdist(x[i : i + 1024], x[i:]).max().item() for i in starts)


def noise_level_ratio(dim: int) -> float:
    """NCSNv2's technique 2: the ratio γ = σ_{i−1} / σ_i of neighbouring noise levels.

    In D dimensions, noise of level σ lies in a thin shell of radius √D σ. γ is chosen so that half
    of the shell of one level lies within three standard deviations of the next::

        Φ(√(2D) (γ − 1) + 3γ) − Φ(√(2D) (γ − 1) − 3γ) = 1/2.

    Source:
        Song & Ermon 2020 (arXiv 2006.09011), technique 2.

    Args:
        dim: The dimension D, at least 5: below, the shells overlap whatever the ratio.

    Returns:
        γ > 1: 1.08 for D = 784.

    Raises:
        ValueError: If ``dim`` is below 5.
    """
    if dim < 5:
        raise ValueError(
            f"NCSNv2's technique 2 has no answer in {dim} dimensions, only from 5 on: "
            "give num_levels as a number"
        )
    from scipy.optimize import brentq
    from scipy.stats import norm

    def excess_overlap(gamma: float) -> float:
        shift = math.sqrt(2 * dim) * (gamma - 1)
        return norm.cdf(shift + 3 * gamma) - norm.cdf(shift - 3 * gamma) - 0.5

    return brentq(excess_overlap, 1.0, 100.0)


def langevin_step_size(noise_levels: Sequence[float], steps_per_level: int) -> float:
    """NCSNv2's technique 4: the relative step size a = η / 2σ² of annealed Langevin dynamics.

    If samples at level σ_{i−1} have the right variance for one data point, then after T steps at
    the next level their variance is, relative to σ_i² and with γ = σ_{i−1} / σ_i::

        (1 − a)^{2T} (γ² − 2 / (2 − a)) + 2 / (2 − a),

    and a is chosen to make this as close to 1 as it can be, which is from above. (The paper writes
    ε / σ_min² for a, and 2a / (1 − (1 − a)²) for 2 / (2 − a).)

    Source:
        Song & Ermon 2020 (arXiv 2006.09011), technique 4 and proposition 3.

    Args:
        noise_levels: The ladder, descending, in geometric progression.
        steps_per_level: T, the number of Langevin steps at each noise level.

    Returns:
        a in (0, 1): 0.062 for 232 levels from 50 to 0.01 and 5 steps (CIFAR-10).

    Raises:
        ValueError: If there is only one noise level.
    """
    if len(noise_levels) < 2:
        raise ValueError("NCSNv2's technique 4 needs two noise levels: give step_size as a number")
    from scipy.optimize import minimize_scalar

    gamma = (noise_levels[0] / noise_levels[-1]) ** (1 / (len(noise_levels) - 1))

    def relative_variance(a: float) -> float:
        limit = 2 / (2 - a)
        return (1 - a) ** (2 * steps_per_level) * (gamma**2 - limit) + limit

    return float(minimize_scalar(relative_variance, bounds=(0, 1), method="bounded").x)


def expand_as(sigma: Tensor, x: Tensor) -> Tensor:
    """Reshape ``sigma`` of shape ``(batch,)`` so that it broadcasts over ``x`` (batch, *event)."""
    return sigma.view(-1, *[1] * (x.ndim - 1))


def perturb(x: Tensor, sigma: Tensor, generator: "Generator" = None) -> tuple[Tensor, Tensor]:
    """Draw from the perturbation kernel q(x_σ | x) = N(x, σ² I).

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
    TEST = 4


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


class NoiseSource(Protocol):
    """What may be passed as ``generator`` beside torch's own."""

    def normal_like(self, x: Tensor) -> Tensor:
        """Standard normal noise of the shape, dtype and device of ``x``."""
        ...

    def uniform_like(self, x: Tensor) -> Tensor:
        """Noise uniform on [-1, 1] of the shape, dtype and device of ``x``."""
        ...


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


class InterpolatedGenerator:
    """Noise on the arc from that of one sample to that of another.

    Row k is cos θ_k z_a + sin θ_k z_b, with θ_k from 0 to π/2: each row is standard normal, the
    first and the last are those of the samples a and b. Any sampler that draws from it turns into
    an interpolation between the two.

    Source:
        Song & Ermon 2020 (arXiv 2006.09011), the interpolations of its appendix.

    Args:
        seed: Seed of the samples, non-negative.
        first: Number a of the first sample.
        second: Number b of the last sample.
        num: Number of rows.
        device: Where the noise is drawn.
    """

    def __init__(
        self, seed: int, first: int, second: int, num: int, device: torch.device | str = "cpu"
    ) -> None:
        self._ends = [SampleGenerator(seed, i, i + 1, device) for i in (first, second)]
        theta = torch.linspace(0, math.pi / 2, num, device=device)
        self._cos, self._sin = theta.cos(), theta.sin()

    def normal_like(self, x: Tensor) -> Tensor:
        """Standard normal noise of the shape of ``x``, whose rows are dependent."""
        z_a, z_b = (end.normal_like(x[:1]) for end in self._ends)
        return expand_as(self._cos, x) * z_a + expand_as(self._sin, x) * z_b

    def uniform_like(self, x: Tensor) -> Tensor:
        """Noise uniform on [-1, 1] of the shape of ``x``: on the arc between the normal scores."""
        limit = 1 - 1e-6  # beyond, the normal score is infinite in float32
        y_a, y_b = (end.uniform_like(x[:1]).clamp(-limit, limit).erfinv() for end in self._ends)
        return torch.erf(expand_as(self._cos, x) * y_a + expand_as(self._sin, x) * y_b)


Generator: TypeAlias = torch.Generator | NoiseSource | None
"""What may be passed as ``generator``; ``None`` draws from torch's global random state."""


def normal_like(x: Tensor, generator: Generator = None) -> Tensor:
    """Standard normal noise of the shape, dtype and device of ``x``."""
    if generator is None or isinstance(generator, torch.Generator):
        return torch.empty_like(x).normal_(generator=generator)
    return generator.normal_like(x)


def uniform_like(x: Tensor, generator: Generator = None) -> Tensor:
    """Noise uniform on [-1, 1] of the shape, dtype and device of ``x``."""
    if generator is None or isinstance(generator, torch.Generator):
        return torch.empty_like(x).uniform_(-1, 1, generator=generator)
    return generator.uniform_like(x)
