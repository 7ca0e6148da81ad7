"""Multistep methods of high order: iPNDM along the probability flow, SA-Solver with noise.

Each step costs one network evaluation. Its order comes from the evaluations of the steps before:
the polynomial through them is integrated exactly (Adams & Bashforth), with the weights of the
actual levels in some variable t, so that the order holds on any ladder::

    ∫ f(t) k(t) dt ≈ Σ_j w_j f(t_j),    w_j = ∫ l_j(t) k(t) dt,    l_j Lagrange's polynomials.

The first steps, which have fewer evaluations to look back on, are of lower order.
"""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ncsn.random import Generator, normal_like
from ncsn.sampling.base import LadderSampler, LevelScore

Past = tuple[tuple[float, Tensor], ...]
"""What was evaluated so far within one call, and where: the latest first."""

Kernel = Callable[[np.ndarray], np.ndarray | float]

NODES, WEIGHTS = np.polynomial.legendre.leggauss(16)


def adams_weights(
    times: Sequence[float], start: float, stop: float, kernel: Kernel
) -> list[float]:
    """The weights w_j of the module's docstring, by Gauss's quadrature with 16 nodes.

    Args:
        times: The t_j, all different.
        start: Lower end of the integral.
        stop: Upper end, which may be below it.
        kernel: k, of an array of times.
    """
    t = (start + stop) / 2 + (stop - start) / 2 * NODES
    factors = (stop - start) / 2 * WEIGHTS * kernel(t)
    basis = (
        math.prod((t - other) / (own - other) for other in times if other != own) for own in times
    )
    return [float((factors * each).sum()) for each in basis]


def _integral(past: Past, start: float, stop: float, kernel: Kernel) -> Tensor:
    """Σ_j w_j f(t_j); see :func:`adams_weights`."""
    weights = adams_weights([time for time, _ in past], start, stop, kernel)
    terms = (weight * value for weight, (_, value) in zip(weights, past, strict=True))
    return reduce(torch.add, terms)


class IPNDM(LadderSampler):
    """IPNDM: an Adams-Bashforth method along the probability flow. Draws no noise.

    It integrates the slope d = dx/dσ = −σ s(x, σ), which hardly changes where samples move along
    nearly straight lines. The polynomial through its last values is one in u = σ^{1/7}, in which
    the levels of Karras's ladder are even::

        x' = x + ∫ d dσ = x + ∫ d(u) 7 u⁶ du.

    (Zhang & Chen's code takes the weights of even steps whatever the ladder, 55/24, −59/24, 37/24,
    −9/24: nearly as accurate on that ladder, but of second order only. A polynomial in σ itself is
    of the full order too, but several times less accurate in few steps.)

    Source: Zhang & Chen 2022, "Fast Sampling of Diffusion Models with Exponential Integrator"
    (arXiv 2204.13902); DEIS there has a polynomial in a variable of one's choice.

    Args:
        num_steps: Number of noise levels; see :class:`LadderSampler`.
        order: Evaluations that a step looks at, from 1 (Euler) to 4.
        kwargs: See :class:`LadderSampler`; best with the ladder :class:`ncsn.levels.Rho`.
    """

    _past: Past = ()

    def __init__(self, num_steps: int | None = 10, order: int = 4, **kwargs: Any) -> None:
        super().__init__(num_steps, **kwargs)
        self.order = _checked("order", order, 1)

    def step(
        self, score: LevelScore, x: Tensor, sigma: float, sigma_next: float, generator: Generator
    ) -> Tensor:
        """The step x + ∫ (dx/dσ) dσ; see the class."""
        u, u_next = sigma ** (1 / 7), sigma_next ** (1 / 7)
        self._past = ((u, -sigma * score(x, sigma)), *self._past)[: self.order]
        return x + _integral(self._past, u, u_next, lambda u: 7 * u**6)


class SASolver(LadderSampler):
    """SA-Solver: stochastic Adams methods in λ = −log σ, with a corrector that costs nothing.

    It solves the equation of :class:`ncsn.sampling.DPMSolver` with noise of strength η::

        x(λ') = e^{−(1+η)(λ'−λ)} x(λ) + ∫ (1+η) e^{−(1+η)(λ'−t)} D(t) dt + √(1 − g^{2η}) σ' z,

    with g = σ'/σ. The predictor takes for D the polynomial through its last values. The network is
    evaluated at the prediction; the corrector repeats the step, with the same z, and with the
    polynomial through this new value, too. No noise and no corrector are DEIS in D; order 1 is
    ancestral sampling at η = 1, and DDIM at η = 0.

    Source: Xue et al. 2023 (arXiv 2309.05019), algorithm 1, for α = 1 and a constant τ² = η.

    Args:
        num_steps: Number of noise levels; see :class:`LadderSampler`.
        eta: Strength η >= 0 of the noise.
        order: Values of D that the predictor looks at, from 1 to 4.
        corrector_order: Values, the new one included, that the corrector looks at, from 1 to 4;
            0 for no corrector.
        kwargs: See :class:`LadderSampler`.
    """

    _past: Past = ()
    _last: tuple[Tensor, float, Tensor] | None = None
    """The last step without its integral, the λ where it began, and the state it returned."""

    def __init__(
        self,
        num_steps: int | None = 10,
        eta: float = 1.0,
        order: int = 2,
        corrector_order: int = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_steps, **kwargs)
        if not 0 <= eta < math.inf:
            raise ValueError(f"eta must be a number of at least 0, got {eta}")
        self.eta, self.order = eta, _checked("order", order, 1)
        self.corrector_order = _checked("corrector_order", corrector_order, 0)

    def step(
        self, score: LevelScore, x: Tensor, sigma: float, sigma_next: float, generator: Generator
    ) -> Tensor:
        """Xue et al. 2023, algorithm 1; draws no noise if η is 0."""
        now, then, rate = -math.log(sigma), -math.log(sigma_next), 1 + self.eta

        def integral(order: int, start: float, stop: float) -> Tensor:
            past = self._past[:order]
            return _integral(past, start, stop, lambda t: rate * np.exp(-rate * (stop - t)))

        self._past = ((now, x + sigma**2 * score(x, sigma)), *self._past)[:4]
        # A state that another sampler has moved since, as in Corrected, is left as it is.
        if self._last is not None and self._last[2] is x and self.corrector_order:
            rest, before, _ = self._last
            x = rest + integral(self.corrector_order, before, now)
        g = sigma_next / sigma
        rest = g**rate * x
        if self.eta:
            noise = math.sqrt(1 - g ** (2 * self.eta)) * sigma_next
            rest = rest + noise * normal_like(x, generator)
        predicted = rest + integral(self.order, now, then)
        self._last = rest, now, predicted
        return predicted


def _checked(name: str, order: int, least: int) -> int:
    if not least <= order <= 4:
        raise ValueError(f"{name} must be from {least} to 4, got {order}")
    return order
