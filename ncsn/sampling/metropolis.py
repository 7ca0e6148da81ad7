"""The Metropolis-adjusted Langevin algorithm (MALA), and correctors.

The stationary density of Langevin dynamics is the wanted p only in the limit of small steps. It is
p for any step size η if each step is a proposal (Besag 1994; Roberts & Tweedie 1996)::

    x' = x + (η/2) s(x) + √η z,

accepted with the probability min(1, α), where q is the normal density of the proposal::

    log α = log p(x') − log p(x) + log q(x|x') − log q(x'|x).

A score does not say what p is, but what it changes by. With d = x' − x and s' = s(x')::

    log p(x') − log p(x) = ∫₀¹ s(x + t d) · d dt,
    log q(x|x') − log q(x'|x) = −½ (s + s') · d − (η/8) (‖s'‖² − ‖s‖²).

The integral is taken by the Gauss-Lobatto rule with n nodes, two of which are x and x', whose
scores the proposals need anyway: a step costs n − 1 evaluations. The rule is exact if the score
is a polynomial of degree up to 2n − 3 along the segment, so for a Gaussian at any n. Otherwise its
error is, for some t in (0, 1) (Abramowitz & Stegun, 25.4.32)::

    −n (n−1)³ (n−2)!⁴ / ((2n−1) (2n−2)!³) (d/dt)^{2n−2} s(x + t d) · d:

of order ‖d‖^{2n−1}, or η^{n−½}, with the factor 1/2880 for n = 3 (Simpson's rule) and 1/1,512,000
for n = 4. With n = 2 the integral cancels against the first term of log q, and the error is of the
order of log α itself.

A learned score is not a gradient: no p belongs to it. The integral is then the work of the field
along the segment, and depends on the path. It still changes its sign with the direction. Along a
closed path of segments the log ratios sum to the circulation of the field (what its curl is in the
plane), not to 0, so detailed balance holds up to that: if s = ∇log p + r, each log ratio differs
from p's by the work of r, at most ‖d‖ max ‖r‖, while Langevin dynamics feels r in its drift alone.

Source: Sjöberg et al. 2023 (arXiv 2307.14012), for the line integral of a score.
"""

import math
from collections.abc import Iterator
from copy import copy
from functools import cache
from itertools import pairwise
from typing import Any, Literal

import torch
from numpy.polynomial import Legendre
from torch import Tensor

from ncsn.levels import expand_as
from ncsn.random import Generator, normal_like, uniform_like
from ncsn.sampling.base import LevelScore, Sampler
from ncsn.sampling.langevin import AnnealedLangevin


def metropolis_share(dim: int) -> float:
    """The share a = η / 2σ² at which a Gaussian of variance σ² accepts 0.574 of the proposals.

    In many dimensions D, it accepts 2 Φ(−√(D (η/σ²)³) / 8) of them, and 0.574 makes the chain mix
    fastest. The noised data is nowhere narrower than the noise, so it accepts more.

    Source: Roberts & Rosenthal 1998, "Optimal scaling of discrete approximations to Langevin
    diffusions".
    """
    return 1.362 * dim ** (-1 / 3)


@cache
def gauss_lobatto(num_nodes: int) -> list[tuple[float, float]]:
    """Nodes and weights on [0, 1] of the rule that has both ends among its nodes, ascending."""
    polynomial = Legendre.basis(num_nodes - 1)
    nodes = [-1.0, *polynomial.deriv().roots().real.tolist(), 1.0]
    scale = num_nodes * (num_nodes - 1)
    return [((1 + t) / 2, 1 / (scale * float(polynomial(t)) ** 2)) for t in nodes]


def line_integral(
    score: LevelScore,
    ends: tuple[Tensor, Tensor],
    scores: tuple[Tensor, Tensor],
    sigma: float,
    num_nodes: int,
) -> Tensor:
    """∫ s · dx along segments: log p(x') − log p(x) if s is the score of p.

    Args:
        score: The score function, called at the inner nodes.
        ends: The ends x and x' of the segments, shape ``(batch, *event)``.
        scores: The scores there.
        sigma: Noise level.
        num_nodes: n >= 2.

    Returns:
        Shape ``(batch,)``.
    """
    (_, weight), *inner, _ = gauss_lobatto(num_nodes)
    d = ends[1] - ends[0]
    mean = weight * (scores[0] + scores[1])
    for t, inner_weight in inner:
        mean = mean + inner_weight * score(ends[0] + t * d, sigma)
    return _dot(mean, d)


class MetropolisLangevin(AnnealedLangevin):
    """MALA: Langevin steps that are accepted or rejected, each sample on its own.

    On a ladder it anneals; at one level it is a chain whose stationary density is that of the
    score for any step size, up to the error of the integral: see the module's docstring. The
    share of accepted proposals at each level is in ``acceptance`` after a call.

    Args:
        steps_per_level: Number of steps at each noise level, at least 1.
        epsilon: See :class:`AnnealedLangevin`; a good choice in many dimensions is
            ``epsilon_from_share(metropolis_share(dim), sigma_max)``. In 10,000 dimensions,
            ``None`` accepts fewer than 1 % of the proposals.
        num_nodes: Nodes n of the line integral, at least 2; n − 1 evaluations a step.
        kwargs: See :class:`AnnealedLangevin`. At one level, ``denoise=False`` leaves the samples
            at the noise level of the score.
    """

    _last: tuple[Tensor, float, Tensor] | None = None
    """The states that a step has returned, their level, and their score, within one call."""

    def __init__(
        self,
        steps_per_level: int = 100,
        epsilon: float | Literal["auto"] | None = None,
        num_nodes: int = 4,
        **kwargs: Any,
    ) -> None:
        super().__init__(steps_per_level, epsilon, **kwargs)
        if num_nodes < 2:
            raise ValueError(f"num_nodes must be at least 2, for both ends, got {num_nodes}")
        self.num_nodes = num_nodes

    def step(
        self, score: LevelScore, x: Tensor, sigma: float, sigma_next: float, generator: Generator
    ) -> Tensor:
        """Roberts & Tweedie 1996, with the line integral of the score; see the docstring."""
        sigma, eta = sigma_next, 2 * self._share * sigma_next**2
        last = self._last
        s = last[2] if last and last[0] is x and last[1] == sigma else score(x, sigma)
        x_new = x + eta / 2 * s + math.sqrt(eta) * normal_like(x, generator)
        s_new = score(x_new, sigma)
        work = line_integral(score, (x, x_new), (s, s_new), sigma, self.num_nodes)
        log_q = -_dot(s + s_new, x_new - x) / 2 - eta / 8 * (_dot(s_new, s_new) - _dot(s, s))
        log_u = ((uniform_like(work, generator) + 1) / 2).log()
        accepted = log_u < work + log_q  # a proposal that is not finite is rejected
        rate = accepted.float().mean() / self.steps_per_level
        self.acceptance[sigma] = self.acceptance.get(sigma, 0) + rate
        x, s = (
            torch.where(expand_as(accepted, x), new, old) for new, old in ((x_new, x), (s_new, s))
        )
        self._last = x, sigma, s
        return x


class Corrected(Sampler):
    """A sampler that is followed, at each level it reaches, by steps of a corrector.

    Predictor-corrector sampling (Song et al. 2021, arXiv 2011.13456, section 4.2) with any of
    both: ``Corrected(DPMSolver(20), MetropolisLangevin(5))``. Prior and Tweedie step are the
    predictor's.

    Args:
        predictor: The sampler, on its own ladder.
        corrector: Its ``steps_per_level`` are the steps at each level.
    """

    def __init__(self, predictor: Sampler, corrector: AnnealedLangevin) -> None:
        super().__init__(predictor.prior, predictor.denoise)
        self.predictor, self.corrector = predictor, corrector

    def initial(self, x: Tensor, noise_levels: Tensor, generator: Generator = None) -> Tensor:
        """The predictor's."""
        return self.predictor.initial(x, noise_levels, generator)

    def auto_values(self, noise_levels: Tensor) -> dict[str, float]:
        """Those of both."""
        parts = {"predictor": self.predictor, "corrector": self.corrector}
        return {
            f"{part}.{name}": value
            for part, sampler in parts.items()
            for name, value in sampler.auto_values(noise_levels).items()
        }

    def path(self, noise_levels: Tensor) -> list[float]:
        """The predictor's, with the corrector's steps at the end of each level."""
        predictor, corrector = copy(self.predictor), copy(self.corrector)
        chain = corrector if isinstance(corrector, MetropolisLangevin) else predictor
        predictor.acceptance, corrector.acceptance = {}, {}
        chain.acceptance = self.acceptance
        corrector.path(noise_levels)
        start, *levels = predictor.path(noise_levels)
        path, steps = [start], list[Sampler]()
        for sigma, following in pairwise([*levels, math.nan]):
            num = self.corrector.steps_per_level if sigma != following else 0
            path += [sigma] * (1 + num)
            steps += [predictor, *[corrector] * num]
        self._steps: Iterator[Sampler] = iter(steps)
        return path

    def step(
        self, score: LevelScore, x: Tensor, sigma: float, sigma_next: float, generator: Generator
    ) -> Tensor:
        """The predictor's, or the corrector's."""
        return next(self._steps).step(score, x, sigma, sigma_next, generator)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """The scalar products of examples, shape ``(batch,)``."""
    return (x * y).flatten(1).sum(1)
