r"""Samplers that follow the probability flow.

Without noise, samples move from one noise level to the next along

.. math:: \frac{dx}{d\sigma} = -\sigma\, s(x, \sigma) = \frac{x - D(x, \sigma)}{\sigma},
          \qquad D(x, \sigma) = x + \sigma^2 s(x, \sigma)

(Song et al. 2021, arXiv 2011.13456, equation 13; Karras et al. 2022, arXiv 2206.00364,
equation 1), whose marginals are those of the noised data. It takes tens of network evaluations
where Langevin dynamics takes hundreds.
"""

from itertools import pairwise

from torch import Tensor

from ncsn.noise import Generator, geometric_noise_levels
from ncsn.objectives import ScoreFunction
from ncsn.sampling.base import Monitor, Sampler, tweedie

__all__ = ["DPMSolver"]


class DPMSolver(Sampler):
    r"""DPM-Solver++(2M) on a geometric ladder.

    A linear multistep method of second order in :math:`\log \sigma`: with
    :math:`g = \sigma_{i+1} / \sigma_i`, constant on the ladder,

    .. math:: x \leftarrow g x + (1 - g) (\tfrac32 D_i - \tfrac12 D_{i-1}),

    whose first step uses :math:`D_0` alone, and whose last state is denoised once more.

    Source:
        Lu et al. 2022, "DPM-Solver++" (arXiv 2211.01095), algorithm 2, for alpha = 1.

    Args:
        num_steps: Number of noise levels that the solver visits, from sigma_max to sigma_min, at
            least 2; also the number of network evaluations. They need not be the levels of
            training.

    Raises:
        ValueError: If ``num_steps`` is below 2.
    """

    def __init__(self, num_steps: int = 20) -> None:
        super().__init__(prior="normal")
        if num_steps < 2:
            raise ValueError(f"DPMSolver needs num_steps of at least 2, got {num_steps}")
        self.num_steps = num_steps

    def num_evaluations(self, num_levels: int) -> int:
        """One a level visited."""
        return self.num_steps

    def __call__(
        self,
        score: ScoreFunction,
        x: Tensor,
        noise_levels: Tensor,
        generator: Generator = None,
        monitor: Monitor | None = None,
    ) -> Tensor:
        """See :meth:`Sampler.__call__`; draws no noise."""
        sigma_max, sigma_min = noise_levels[0].item(), noise_levels[-1].item()
        sigmas = geometric_noise_levels(sigma_max, sigma_min, self.num_steps).tolist()
        previous = None
        for sigma, sigma_next in pairwise(sigmas):
            denoised = tweedie(score, x, sigma)
            g = sigma_next / sigma
            target = denoised if previous is None else 1.5 * denoised - 0.5 * previous
            x, previous = g * x + (1 - g) * target, denoised
            if monitor:
                monitor(sigma_next, x)
        x = tweedie(score, x, sigmas[-1])
        if monitor:
            monitor(sigmas[-1], x)
        return x
