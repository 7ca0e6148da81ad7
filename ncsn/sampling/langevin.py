r"""Langevin dynamics, plain and annealed.

Langevin dynamics turns a score into samples of its density (Welling & Teh 2011): the chain

.. math:: x \leftarrow x + \frac\eta2 s(x) + \sqrt\eta\, z, \qquad z \sim \mathcal N(0, I)

has the density as its stationary distribution, up to an error that vanishes with :math:`\eta`.
It mixes slowly between separated modes; *annealed* Langevin dynamics (Song & Ermon 2019,
algorithm 1) starts where noise has merged them and follows the noise levels down.

Step sizes compare across noise levels as :math:`a = \eta / (2\sigma^2)`, the share of the noise's
variance that one step takes away; :math:`a \ge 2` diverges. Annealed Langevin keeps it constant:
:math:`\eta_t = \epsilon \sigma_t^2 / \sigma_{\max}^2`, so :math:`a = \epsilon / (2
\sigma_{\max}^2)`. NCSN's code writes :math:`x + \alpha s + \sqrt{2\alpha} z` with
:math:`\alpha_t = \mathrm{step\_lr}\, \sigma_t^2 / \sigma_{\min}^2`, that is
:math:`\eta = 2\alpha` and :math:`a = \mathrm{step\_lr} / \sigma_{\min}^2`: NCSN's 2e-5 at
:math:`\sigma_{\min} = 0.01` gives a = 0.2.
"""

import math
from typing import Literal

from torch import Tensor

from ncsn.noise import Generator, normal_like
from ncsn.objectives import ScoreFunction
from ncsn.sampling.base import Monitor, Sampler, tweedie

__all__ = ["AnnealedLangevin", "Langevin", "langevin_dynamics"]


def langevin_dynamics(
    score: ScoreFunction,
    x: Tensor,
    sigma: float,
    step_size: float,
    num_steps: int,
    generator: Generator = None,
    monitor: Monitor | None = None,
) -> Tensor:
    r"""Take ``num_steps`` steps of Langevin dynamics at one noise level.

    Args:
        score: The score function.
        x: Starting points, shape ``(batch, *event)``.
        sigma: The noise level at which the score is evaluated, > 0.
        step_size: :math:`\eta` > 0.
        num_steps: Number of steps, >= 0.
        generator: Source of the noise.
        monitor: Called after each step.

    Returns:
        The last state of each chain, of the shape of ``x``.
    """
    levels = x.new_full((len(x),), sigma)
    for _ in range(num_steps):
        z = normal_like(x, generator)
        x = x + step_size / 2 * score(x, levels) + math.sqrt(step_size) * z
        if monitor:
            monitor(sigma, x)
    return x


class Langevin(Sampler):
    """Langevin dynamics at the smallest noise level.

    Args:
        step_size: The step size eta, > 0.
        num_steps: Number of steps, at least 1.
        prior: Where to start: ``"uniform"`` for U[-1, 1], ``"normal"`` for N(0, sigma_max² I).
        denoise: Whether to end with a Tweedie step, which removes the noise of level sigma that
            the samples would otherwise keep.

    Raises:
        ValueError: If a value is outside its domain.
    """

    def __init__(
        self,
        step_size: float = 0.01,
        num_steps: int = 1000,
        prior: Literal["normal", "uniform"] = "uniform",
        denoise: bool = True,
    ) -> None:
        super().__init__(prior)
        _check_steps(num_steps, step_size)
        self.step_size, self.num_steps, self.denoise = step_size, num_steps, denoise

    def num_evaluations(self, num_levels: int) -> int:
        """One a step, and one for the Tweedie step."""
        return self.num_steps + self.denoise

    def __call__(
        self,
        score: ScoreFunction,
        x: Tensor,
        noise_levels: Tensor,
        generator: Generator = None,
        monitor: Monitor | None = None,
    ) -> Tensor:
        """See :meth:`Sampler.__call__`."""
        sigma = noise_levels[-1].item()
        x = langevin_dynamics(score, x, sigma, self.step_size, self.num_steps, generator, monitor)
        return _finish(score, x, sigma, monitor) if self.denoise else x


class AnnealedLangevin(Sampler):
    r"""Annealed Langevin dynamics, from the largest noise level to the smallest.

    Source:
        Song & Ermon 2019 (arXiv 1907.05600), algorithm 1.

    Args:
        steps_per_level: Number of steps L at each noise level, at least 1.
        step_size: :math:`\epsilon` in :math:`\eta_t = \epsilon \sigma_t^2 / \sigma_{\max}^2`, > 0.
            ``None`` means :math:`0.4\, \sigma_{\max}^2`, so that a step takes away a fifth of the
            noise's variance, as in NCSN.
        prior: Where to start: ``"normal"`` for N(0, sigma_max² I), ``"uniform"`` for U[-1, 1].
        denoise: Whether to end with a Tweedie step.

    Raises:
        ValueError: If a value is outside its domain.
    """

    def __init__(
        self,
        steps_per_level: int = 100,
        step_size: float | None = None,
        prior: Literal["normal", "uniform"] = "normal",
        denoise: bool = True,
    ) -> None:
        super().__init__(prior)
        _check_steps(steps_per_level, 1.0 if step_size is None else step_size)
        self.steps_per_level, self.step_size, self.denoise = steps_per_level, step_size, denoise

    def num_evaluations(self, num_levels: int) -> int:
        """One a step, and one for the Tweedie step."""
        return num_levels * self.steps_per_level + self.denoise

    def __call__(
        self,
        score: ScoreFunction,
        x: Tensor,
        noise_levels: Tensor,
        generator: Generator = None,
        monitor: Monitor | None = None,
    ) -> Tensor:
        """See :meth:`Sampler.__call__`."""
        sigmas = noise_levels.tolist()
        epsilon = 0.4 * sigmas[0] ** 2 if self.step_size is None else self.step_size
        for sigma in sigmas:
            eta = epsilon * sigma**2 / sigmas[0] ** 2
            x = langevin_dynamics(score, x, sigma, eta, self.steps_per_level, generator, monitor)
        return _finish(score, x, sigmas[-1], monitor) if self.denoise else x


def _finish(score: ScoreFunction, x: Tensor, sigma: float, monitor: Monitor | None) -> Tensor:
    x = tweedie(score, x, sigma)
    if monitor:
        monitor(sigma, x)
    return x


def _check_steps(num_steps: int, step_size: float) -> None:
    if num_steps < 1:
        raise ValueError(f"the number of Langevin steps must be at least 1, got {num_steps}")
    if not 0 < step_size < math.inf:
        raise ValueError(f"step_size must be a positive number, got {step_size}")
