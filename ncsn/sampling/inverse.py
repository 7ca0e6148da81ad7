"""Inverse problems: the score of the data given a measurement y = A x + s n.

By Bayes' rule, at each noise level::

    ∇log p(x | y) = ∇log p(x) + ∇log p(y | x),    p(y | x) = ∫ p(y | x_0) p(x_0 | x) dx_0,

where x = x_0 + σ z. A network knows the first term. The second needs the distribution of the clean
data x_0 that x may come from, and the methods differ in what they take for it. With the denoiser
D(x) = E[x_0 | x] = x + σ² s(x, σ) and its Jacobian J, each takes y to be Gaussian:

===========================  =================  ==========================================
method                       mean of y given x  covariance of y given x
===========================  =================  ==========================================
:class:`AnnealedLikelihood`  A x                s² I + σ² A Aᵀ: x_0 may be anything
:class:`DPS`                 A D(x)             s² I: x_0 is D(x)
:class:`PiGDM`               A D(x)             s² I + r² A Aᵀ: x_0 is D(x) give or take r
:class:`MMPS`                A D(x)             s² I + A V Aᵀ: V = σ² J is Cov[x_0 | x]
===========================  =================  ==========================================

:class:`Replacement` has the mean and the covariance of the first, and leaves out what the prior
says of the measured part. For a Gaussian prior, MMPS is exact, if it solves its equations, and
PiGDM if the prior is isotropic of standard deviation τ = ``data_std``. As σ → 0, all four of the
table are.

A method turns a score function into another one, so that any sampler, on any ladder, and with
class guidance, draws from the posterior::

    score = MMPS()(module.score, operator, y, noise)
    x = DPMSolver(100, eta=1.0)(score, x, noise_levels)

Sample i depends on its own y and noise alone.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ncsn.config import Configured
from ncsn.levels import ScoreFunction, expand_as
from ncsn.sampling.linear import LinearOperator, conjugate_gradients

ROUNDING = 1e-3
"""Relative rounding error by which a variance may fall below its bound."""


class Measurement(NamedTuple):
    """What is known of the data: y = A x + s n with n ~ N(0, I).

    Attributes:
        operator: A.
        y: One measurement per example, shape ``(batch, *measured)``.
        noise: s >= 0.
    """

    operator: LinearOperator
    y: Tensor
    noise: float

    def residual(self, x: Tensor) -> Tensor:
        """What x leaves unexplained, y − A x."""
        return self.y.to(x) - self.operator(x)

    def likelihood_score(self, x: Tensor, std: Tensor) -> Tensor:
        """∇_x log N(y; A x, s² I + std² A Aᵀ)."""
        weighted = self.operator.solve(self.residual(x), self.noise, std)
        return self.operator.adjoint(weighted)


class PosteriorScore(Configured, ABC):
    """Base class: turns the score of the data into that of the data given a measurement.

    Attributes:
        denoises: Whether x + σ² s is an estimate of the clean data, so that a sampler can end with
            a Tweedie step.
    """

    denoises = True

    def __call__(
        self, score: ScoreFunction, operator: LinearOperator, y: Tensor, noise: float
    ) -> ScoreFunction:
        """The score function of the posterior.

        Args:
            score: The score of the data; it may be one of classes.
            operator: A.
            y: One measurement per example, shape ``(batch, *measured)``.
            noise: Standard deviation s of the noise in y, >= 0.

        Raises:
            ValueError: If the noise is outside its domain.
        """
        if not 0 <= noise < math.inf:
            raise ValueError(f"noise must be a number of at least 0, got {noise}")
        given = Measurement(operator.on(y.device), y, noise)
        return lambda x, sigma: self.posterior(score, x, sigma, given)

    @abstractmethod
    def posterior(
        self, score: ScoreFunction, x: Tensor, sigma: Tensor, given: Measurement
    ) -> Tensor:
        """The score of the posterior at noisy data ``x``, shape ``(batch, *event)``."""


class AnnealedLikelihood(PosteriorScore):
    """The likelihood of y = A x + s n + σ A z, as if x without its noise could be anything.

    In the paper the covariance is (s² + γ²) I with γ annealed by hand; here γ² is σ² A Aᵀ, which
    for A Aᵀ = I is γ = σ, and in general that of Meng & Kabashima. Annealed Langevin dynamics
    forgets the levels before the last, where the error of this is of the order of (σ / s)².

    Source: Jalal et al. 2021 (arXiv 2108.01368); Meng & Kabashima 2022 (arXiv 2211.12343).
    """

    def posterior(
        self, score: ScoreFunction, x: Tensor, sigma: Tensor, given: Measurement
    ) -> Tensor:
        """See :class:`PosteriorScore`."""
        return score(x, sigma) + given.likelihood_score(x, sigma)


class Replacement(PosteriorScore):
    """The measured part of x follows y, noised; the rest follows the prior: (I − A⁺A) s.

    The rest follows a measured part that never looked at it, and so comes out too close to the
    prior; :class:`ncsn.sampling.Resampling` gives both time to agree. In the papers the measured
    part is drawn again at each level; here it is a diffusion of its own, with the same
    distribution at each level, so that any sampler can be used and y may be noisy.

    Source: Song et al. 2021 (arXiv 2011.13456), appendix I.2; Lugmayr et al. 2022 (RePaint, arXiv
    2201.09865), algorithm 1.
    """

    def posterior(
        self, score: ScoreFunction, x: Tensor, sigma: Tensor, given: Measurement
    ) -> Tensor:
        """See :class:`PosteriorScore`."""
        s, operator = score(x, sigma), given.operator
        measured = operator.adjoint(operator.solve(operator(s), 0.0, torch.ones_like(sigma)))
        return s - measured + given.likelihood_score(x, sigma)


class DPS(PosteriorScore):
    """Diffusion posterior sampling: the likelihood of the denoised data, ∇log N(y; A D(x), s² I).

    It treats D(x) as certain, and is stiff: for data of standard deviation τ, a step of
    ancestral sampling from σ = τ to gτ takes a share of (1 − g²) ‖A‖² τ² / 4s² of the residual,
    which must be below 2. The paper's algorithm takes steps of a fixed length instead,
    −ζ' ∇‖r‖² / ‖r‖ in the units of a variance preserving chain. As a score, that is::

        −ζ (1 + σ²) / σ² · ∇‖r‖² / ‖r‖,    r = y − A D(x),    ζ' = (1 − g²) ζ,

    whatever the ladder. A sampler must then end without a Tweedie step (``denoise=False``), for
    which g = 0, so that it would move x by ζ itself. (The authors' code takes the norm over the
    batch; here it is that of each example.)

    Source: Chung et al. 2023 (arXiv 2209.14687), equation 16 and algorithm 1.

    Args:
        step_size: ζ > 0; by default, the likelihood itself.
    """

    def __init__(self, step_size: float | None = None) -> None:
        if step_size is not None and not 0 < step_size < math.inf:
            raise ValueError(f"step_size must be a positive number, got {step_size}")
        self.step_size, self.denoises = step_size, step_size is None

    def __call__(
        self, score: ScoreFunction, operator: LinearOperator, y: Tensor, noise: float
    ) -> ScoreFunction:
        """See :class:`PosteriorScore`; the likelihood needs noise."""
        if self.step_size is None and noise == 0:
            raise ValueError("DPS needs a step_size where the noise is 0")
        return super().__call__(score, operator, y, noise)

    def posterior(
        self, score: ScoreFunction, x: Tensor, sigma: Tensor, given: Measurement
    ) -> Tensor:
        """See :class:`PosteriorScore`."""
        s, denoised, vjp = denoise_with_vjp(score, x, sigma)
        if self.step_size is None:
            return s + vjp(given.likelihood_score(denoised, torch.zeros_like(sigma)))
        residual = given.residual(denoised)
        length = expand_as(residual.flatten(1).norm(dim=1), residual)
        unit = residual / length.clamp(min=torch.finfo(length.dtype).tiny)
        weight = 2 * self.step_size * (1 + 1 / sigma**2)
        return s + expand_as(weight, x) * vjp(given.operator.adjoint(unit))


class PiGDM(PosteriorScore):
    """Pseudo-inverse guidance: x_0 ~ N(D(x), r² I) with r² = σ² τ² / (σ² + τ²).

    Source: Song et al. 2023, "Pseudoinverse-Guided Diffusion Models for Inverse Problems" (ICLR),
    section 3, for data of standard deviation τ = 1.

    Args:
        data_std: τ > 0.
    """

    def __init__(self, data_std: float = 1.0) -> None:
        if not 0 < data_std < math.inf:
            raise ValueError(f"data_std must be a positive number, got {data_std}")
        self.data_std = data_std

    def posterior(
        self, score: ScoreFunction, x: Tensor, sigma: Tensor, given: Measurement
    ) -> Tensor:
        """See :class:`PosteriorScore`."""
        s, denoised, vjp = denoise_with_vjp(score, x, sigma)
        r = sigma * self.data_std / (sigma**2 + self.data_std**2).sqrt()
        return s + vjp(given.likelihood_score(denoised, r))


class MMPS(PosteriorScore):
    """Moment matching posterior sampling: x_0 ~ N(D(x), V), V = σ² Jᵀ by Tweedie's formula.

    The linear system (s² I + A V Aᵀ) u = y − A D(x) is solved by conjugate gradients, in which a
    product with V is one with the Jacobian of the network. V should be a covariance, but a learned
    network's Jacobian is neither quite symmetric nor positive. An example stops iterating at the
    first direction that shows it, by a variance below s².

    Source: Rozet et al. 2024 (arXiv 2405.13712), section 3.

    Args:
        iterations: Number of conjugate gradient steps, >= 1, each the cost of a backward pass.
            More solve the system more exactly, as far as V is a covariance.
    """

    def __init__(self, iterations: int = 1) -> None:
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}")
        self.iterations = iterations

    def posterior(
        self, score: ScoreFunction, x: Tensor, sigma: Tensor, given: Measurement
    ) -> Tensor:
        """See :class:`PosteriorScore`."""
        s, denoised, vjp = denoise_with_vjp(score, x, sigma)
        operator, variance = given.operator, expand_as(sigma, x) ** 2

        def covariance(u: Tensor) -> Tensor:
            return given.noise**2 * u + operator(variance * vjp(operator.adjoint(u)))

        r, smallest = given.residual(denoised), given.noise**2 * (1 - ROUNDING)
        u = conjugate_gradients(covariance, r, self.iterations, smallest)
        return s + vjp(operator.adjoint(u))


def denoise_with_vjp(
    score: ScoreFunction, x: Tensor, sigma: Tensor
) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """The score s, the denoised D(x) = x + σ² s, and the vector-Jacobian product v ↦ Jᵀ v of D.

    The network is differentiated here whether the caller is inside ``torch.no_grad`` or not.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        s = score(x, sigma.clone())
        denoised = x + expand_as(sigma.clone(), x) ** 2 * s

    def vjp(v: Tensor) -> Tensor:
        with torch.inference_mode(False):
            (product,) = torch.autograd.grad(denoised, x, v.clone(), retain_graph=True)
        return product

    return s.detach(), denoised.detach(), vjp
