"""Reproducible noise: streams, seeded generators, and samples that know their number.

Everything that draws noise takes a ``generator`` and leaves the global random state alone. Two
kinds are accepted: a :class:`torch.Generator`, and a :class:`NoiseSource` such as
:class:`SampleGenerator`, whose row ``i`` depends on the seed and on ``i`` alone, so that sample
number ``i`` is the same in any batch, on any number of processes.
"""

import math
import os
from collections.abc import Callable
from enum import IntEnum
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor


class Stream(IntEnum):
    """What the noise is for; the first number of a generator's key, so that streams differ."""

    TRAINING = 1
    VALIDATION = 2
    SAMPLING = 3
    TEST = 4
    LEVELS = 5
    GLOBAL = 6
    FIELD = 7
    NOISED_DATA = 8
    MEASUREMENT = 9


def global_seed() -> int:
    """The seed set by Lightning's ``seed_everything``; 0 if it was not called."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def seeded_generator(
    stream: Stream, *key: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator for a purpose and a tuple of non-negative integers: seed, rank, epoch, batch...

    Different keys of the same length give independent streams (NumPy's ``SeedSequence`` mixes
    them), barring collisions: on a CPU torch uses 32 bits of the seed, so among 2·10⁵ steps about
    5 repeat the noise of another. Nothing has to be stored: a resumed run rebuilds its generators.
    """
    seed = np.random.SeedSequence((stream, *key)).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(seed))


class NoiseSource(Protocol):
    """What may be passed as ``generator`` in addition to torch's own."""

    def normal_like(self, x: Tensor) -> Tensor:
        """Standard normal noise of the shape, dtype and device of ``x``."""

    def uniform_like(self, x: Tensor) -> Tensor:
        """Noise uniform on [-1, 1] of the shape, dtype and device of ``x``."""


Generator: TypeAlias = torch.Generator | NoiseSource | None
"""What may be passed as ``generator``; ``None`` draws from torch's global random state."""


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
        """See :class:`NoiseSource`; one row per sample."""
        return self._draw(normal_like, x)

    def uniform_like(self, x: Tensor) -> Tensor:
        """See :class:`NoiseSource`; one row per sample."""
        return self._draw(uniform_like, x)

    def _draw(self, draw: Callable[[Tensor, Generator], Tensor], x: Tensor) -> Tensor:
        block = x.new_empty(self.BLOCK, *x.shape[1:])
        return torch.cat([draw(block, each) for each in self._generators])[self._rows]


class InterpolatedGenerator:
    """Spherical interpolation between the noise of two samples.

    Row k is cos θ_k z_a + sin θ_k z_b, with θ_k from 0 to π/2: each row is standard normal, the
    first and the last are those of the samples a and b. Any sampler that draws from it turns into
    an interpolation between the two.

    Source: Song & Ermon 2020 (arXiv 2006.09011), the interpolations of its appendix.

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

    def _arc(self, a: Tensor, b: Tensor) -> Tensor:
        shape = -1, *[1] * (a.ndim - 1)
        return self._cos.view(shape) * a + self._sin.view(shape) * b

    def normal_like(self, x: Tensor) -> Tensor:
        """See :class:`NoiseSource`; the rows are dependent."""
        z_a, z_b = (end.normal_like(x[:1]) for end in self._ends)
        return self._arc(z_a, z_b)

    def uniform_like(self, x: Tensor) -> Tensor:
        """See :class:`NoiseSource`; drawn through the normal quantiles."""
        limit = 1 - 1e-6  # beyond it, the quantile is infinite in float32
        y_a, y_b = (end.uniform_like(x[:1]).clamp(-limit, limit).erfinv() for end in self._ends)
        return self._arc(y_a, y_b).erf()


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
