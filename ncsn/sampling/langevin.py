"""Langevin dynamics: plain, annealed, and consistent annealed.

Langevin dynamics turns a score into samples of its density (Welling & Teh 2011). The chain::

    x ← x + (η/2) s(x) + √η z,    z ~ N(0, I)

has the density as its stationary distribution, up to an error that vanishes with η. It mixes
slowly between separated modes; *annealed* Langevin dynamics (Song & Ermon 2019, algorithm 1)
starts where noise has merged them and follows the noise levels down.

Step sizes
----------

They compare across noise levels as a = η / 2σ², the share of the noise's variance that one step
takes away; a ≥ 2 diverges. Annealed Langevin dynamics keeps it constant. Three ways to write it::

    epsilon     η_t = ε σ_t² / σ_max²                                    a = ε / 2σ_max²
    step_lr     x + α_t s + √(2α_t) z,  α_t = step_lr · σ_t² / σ_min²    a = step_lr / σ_min²
    relative    a itself

``step_lr`` is that of NCSN's code: 2e-5 at σ_min = 0.01 gives a = 0.2.
"""

import math
from itertools import pairwise
from typing import Literal, TypeAlias, get_args

from torch import Tensor

from ncsn.noise import Generator, langevin_step_size, normal_like
from ncsn.sampling.base import LadderSampler, LevelScore, Monitor, Sampler, Sigmas

__all__ = ["AnnealedLangevin", "ConsistentAnnealedSampling", "Langevin", "relative_step_size"]

Convention: TypeAlias = Literal["epsilon", "step_lr", "relative"]


def relative_step_size(
    step_size: float, convention: Convention, sigma_max: float, sigma_min: float
) -> float:
    """The dimensionless step size a = η / 2σ²; see the module's docstring.

    Args:
        step_size: The step size in the given convention.
        convention: ``"epsilon"``, ``"step_lr"`` or ``"relative"``.
        sigma_max: Largest noise level of the ladder.
        sigma_min: Smallest noise level of the ladder.
    """
    match convention:
        case "epsilon":
            return step_size / (2 * sigma_max**2)
        case "step_lr":
            return step_size / sigma_min**2
        case "relative":
            return step_size


class Langevin(Sampler):
    """Langevin dynamics at the smallest noise level.

    Args:
        step_size: The step size, > 0.
        num_steps: Number of steps, at least 1.
        prior: Where to start: ``"uniform"`` for U[-1, 1], ``"normal"`` for N(0, σ_max² I).
        denoise: Whether to end with a Tweedie step, which removes the noise of level σ that the
            samples would otherwise keep.
        convention: What ``step_size`` is: ``"epsilon"`` for η itself, or ``"step_lr"`` (α, half
            of η) or ``"relative"`` (η / 2σ²); see :mod:`ncsn.sampling.langevin`.

    Raises:
        ValueError: If a value is outside its domain.
    """

    def __init__(
        self,
        step_size: float = 0.01,
        num_steps: int = 1000,
        prior: Literal["normal", "uniform"] = "uniform",
        denoise: bool = True,
        convention: Convention = "epsilon",
    ) -> None:
        super().__init__(prior, denoise)
        _check_steps(num_steps, step_size, convention)
        self.step_size, self.num_steps, self.convention = step_size, num_steps, convention

    def ladder(self, noise_levels: Tensor) -> list[float]:
        """The smallest noise level."""
        return [noise_levels[-1].item()]

    def run_evaluations(self, num_levels: int) -> int:
        """One a step."""
        return self.num_steps

    def run(
        self, score: LevelScore, x: Tensor, sigmas: Sigmas, generator: Generator, monitor: Monitor
    ) -> Tensor:
        """See the module's docstring."""
        (sigma,) = sigmas
        eta = 2 * sigma**2 * relative_step_size(self.step_size, self.convention, sigma, sigma)
        return _langevin(score, x, sigma, eta, self.num_steps, generator, monitor)


class AnnealedLangevin(Sampler):
    """Annealed Langevin dynamics, from the largest noise level to the smallest.

    Source:
        Song & Ermon 2019 (arXiv 1907.05600), algorithm 1.

    Args:
        steps_per_level: Number of steps L at each noise level, at least 1.
        step_size: The step size, > 0, by default ε in η_t = ε σ_t² / σ_max². ``None`` means
            ε = 0.4 σ_max², so that a step takes away a fifth of the noise's variance, as in NCSN.
            ``"auto"`` is NCSNv2's technique 4: see :func:`ncsn.noise.langevin_step_size`.
        prior: Where to start: ``"normal"`` for N(0, σ_max² I), ``"uniform"`` for U[-1, 1].
        denoise: Whether to end with a Tweedie step.
        convention: What ``step_size`` is: ``"epsilon"``, ``"step_lr"`` (that of NCSN's code) or
            ``"relative"`` (η / 2σ²); see :mod:`ncsn.sampling.langevin`.

    Raises:
        ValueError: If a value is outside its domain.
    """

    def __init__(
        self,
        steps_per_level: int = 100,
        step_size: float | Literal["auto"] | None = None,
        prior: Literal["normal", "uniform"] = "normal",
        denoise: bool = True,
        convention: Convention = "epsilon",
    ) -> None:
        super().__init__(prior, denoise)
        number = 1.0 if step_size is None or step_size == "auto" else step_size
        _check_steps(steps_per_level, number, convention)
        self.steps_per_level, self.step_size = steps_per_level, step_size
        self.convention = convention

    def relative_step_size(self, sigmas: list[float]) -> float:
        """The share a = η / 2σ² of the noise's variance that a step takes away on a ladder."""
        if self.step_size is None:
            return 0.2
        if self.step_size == "auto":
            return langevin_step_size(sigmas, self.steps_per_level)
        return relative_step_size(self.step_size, self.convention, sigmas[0], sigmas[-1])

    def run_evaluations(self, num_levels: int) -> int:
        """One a step."""
        return num_levels * self.steps_per_level

    def run(
        self, score: LevelScore, x: Tensor, sigmas: Sigmas, generator: Generator, monitor: Monitor
    ) -> Tensor:
        """Song & Ermon 2019, algorithm 1."""
        a = self.relative_step_size(sigmas)
        for sigma in sigmas:
            eta = 2 * a * sigma**2
            x = _langevin(score, x, sigma, eta, self.steps_per_level, generator, monitor)
        return x


class ConsistentAnnealedSampling(LadderSampler):
    """Annealed Langevin sampling whose noise falls exactly as the ladder does.

    With g = σ_{i+1} / σ_i, a step takes the share h of the noise away and adds as much as the next
    level asks for::

        x ← x + h σ_i² s(x, σ_i) + β σ_{i+1} z,    β = √(1 − ((1 − h) / g)²).

    h = 1 − g needs no noise and is Euler's method along the probability flow (DDIM); h = 1 − g² is
    ancestral sampling; h = 1 denoises and adds fresh noise.

    Source:
        Jolicoeur-Martineau et al. 2020 (arXiv 2009.05475), algorithm 2.

    Args:
        step_size: h, with 1 − g <= h <= 1 + g; ``None`` for 1 − g².
        num_steps: Number of noise levels, at least 2; ``None`` for those of training.
        denoise: Whether to end with a Tweedie step.

    Raises:
        ValueError: If a value is outside its domain.
    """

    def __init__(
        self, step_size: float | None = None, num_steps: int | None = None, denoise: bool = True
    ) -> None:
        super().__init__(num_steps, denoise)
        self.step_size = step_size

    def ladder(self, noise_levels: Tensor) -> list[float]:
        """The noise levels that the sampler visits.

        Raises:
            ValueError: If ``step_size`` is outside what their ratio allows.
        """
        sigmas = super().ladder(noise_levels)
        if self.step_size is not None:
            g = (sigmas[-1] / sigmas[0]) ** (1 / (len(sigmas) - 1))
            if not 1 - g - 1e-6 <= self.step_size <= 1 + g:
                raise ValueError(
                    f"step_size of ConsistentAnnealedSampling must be between {1 - g:.4g} and "
                    f"{1 + g:.4g} for {len(sigmas)} levels of ratio {g:.4g}, got {self.step_size}"
                )
        return sigmas

    def run(
        self, score: LevelScore, x: Tensor, sigmas: Sigmas, generator: Generator, monitor: Monitor
    ) -> Tensor:
        """Jolicoeur-Martineau et al. 2020, algorithm 2."""
        for sigma, sigma_next in pairwise(sigmas):
            g = sigma_next / sigma
            h = 1 - g**2 if self.step_size is None else self.step_size
            beta = math.sqrt(max(1 - ((1 - h) / g) ** 2, 0))
            z = normal_like(x, generator)
            x = x + h * sigma**2 * score(x, sigma) + beta * sigma_next * z
            monitor(sigma_next, x)
        return x


def _langevin(
    score: LevelScore,
    x: Tensor,
    sigma: float,
    eta: float,
    num_steps: int,
    generator: Generator,
    monitor: Monitor,
) -> Tensor:
    """Steps of Langevin dynamics at one noise level."""
    for _ in range(num_steps):
        z = normal_like(x, generator)
        x = x + eta / 2 * score(x, sigma) + math.sqrt(eta) * z
        monitor(sigma, x)
    return x


def _check_steps(num_steps: int, step_size: float | str, convention: Convention) -> None:
    if num_steps < 1:
        raise ValueError(f"the number of Langevin steps must be at least 1, got {num_steps}")
    if isinstance(step_size, str) or not 0 < step_size < math.inf:
        raise ValueError(f"step_size must be a positive number, got {step_size!r}")
    if convention not in get_args(Convention):
        raise ValueError(f"convention must be one of {get_args(Convention)}, got {convention!r}")
