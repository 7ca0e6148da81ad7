"""Gaussian diffusions: data noised more and more, and the steps from one time to another.

A Gaussian diffusion is given by two functions of time, the signal's scale α_t > 0 and the noise
level σ_t ≥ 0::

    x_t = α_t x_0 + σ_t ε,   ε ~ N(0, I),      that is      q(x_t | x_0) = N(α_t x_0, σ_t² I),

whose signal-to-noise ratio SNR_t = α_t² / σ_t² falls as time goes on. Score-based models take
α_t = 1 and let σ_t grow (*variance exploding*, VE): the ladder of noise levels of an NCSN. DDPM's
chain x_t = √(1 − β_t) x_{t−1} + √β_t ε is the *variance preserving* (VP) case.

1. When is the variance preserved?
----------------------------------

x_0 and ε are independent, so with Var x_0 = 1::

    Var x_t = α_t² Var x_0 + σ_t² = α_t² + σ_t²,

which equals 1 exactly when α_t² = 1 − σ_t². (For data of another variance v it is v exactly when
σ_t² = (1 − α_t²) v, so data are standardised first.)

DDPM's chain has this property. Unrolled, its scale is the product of the scales of its steps,
α_t = √(1 − β_t) α_{t−1}, and its noise variances add up as σ_t² = (1 − β_t) σ_{t−1}² + β_t. If
σ_{t−1}² = 1 − α_{t−1}², then::

    σ_t² = (1 − β_t)(1 − α_{t−1}²) + β_t = 1 − (1 − β_t) α_{t−1}² = 1 − α_t²,

and at t = 0, where α_0 = 1 and σ_0 = 0, the property holds: by induction it holds always.

2. The step from s to a later t, and back
-----------------------------------------

Look for a Markov step x_t = a x_s + b ε', with ε' ~ N(0, I) independent of x_s, that agrees with
the marginals. Insert x_s = α_s x_0 + σ_s ε::

    x_t = a α_s x_0 + (a σ_s ε + b ε'),    whose noise has the variance a² σ_s² + b².

This is to be N(α_t x_0, σ_t² I), so a α_s = α_t and a² σ_s² + b² = σ_t²::

    q(x_t | x_s) = N(a x_s, b² I),    a = α_t / α_s,    b² = σ_t² − (α_t / α_s)² σ_s².

Since b² = σ_t² (1 − SNR_t / SNR_s), there is such a step exactly when the signal-to-noise ratio
does not grow: hence the condition above.

The *posterior* q(x_s | x_t, x_0), from which ancestral sampling draws, follows by Bayes' rule:
q(x_t | x_s, x_0) = q(x_t | x_s), and the product of two Gaussians in x_s adds their precisions::

    q(x_s | x_t, x_0)  ∝  q(x_t | x_s) q(x_s | x_0)
                       ∝  exp(−‖x_t − a x_s‖² / 2b² − ‖x_s − α_s x_0‖² / 2σ_s²),

    1 / v = a² / b² + 1 / σ_s² = σ_t² / (b² σ_s²)            since a² σ_s² + b² = σ_t²,
    mean  = v (a x_t / b² + α_s x_0 / σ_s²)
          = (a σ_s² / σ_t²) x_t + (α_s b² / σ_t²) x_0,
    v     = σ_s² b² / σ_t².

3. All of them are one
----------------------

x_t / α_t = x_0 + (σ_t / α_t) ε is data noised at the level σ_t / α_t. A score network trained on
noise levels therefore serves every Gaussian diffusion: see :meth:`GaussianDiffusion.score`.

Source: Kingma et al. 2021, "Variational Diffusion Models" (arXiv 2107.00630), section 3 and
appendix A; Ho et al. 2020, "Denoising Diffusion Probabilistic Models" (arXiv 2006.11239); Song et
al. 2021 (arXiv 2011.13456), section 3.4.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ncsn.levels import ScoreFunction, expand_as
from ncsn.random import Generator, normal_like


class IsotropicGaussian(NamedTuple):
    """An isotropic Gaussian for each example: N(mean, variance · I).

    Attributes:
        mean: Shape ``(batch, *event)``.
        variance: Shape ``(batch, 1, ...)``, which broadcasts over the mean.
    """

    mean: Tensor
    variance: Tensor

    def sample(self, generator: Generator = None) -> Tensor:
        """Draw one point for each example, of the shape of the mean."""
        return self.mean + self.variance.sqrt() * normal_like(self.mean, generator)


class GaussianDiffusion:
    """The diffusion x_t = α_t x_0 + σ_t ε; see the module's docstring for its formulas.

    Times ``t``, and ``s`` < ``t``, are tensors of shape ``(batch,)``, one per example; ``x_0``
    and states ``x_s``, ``x_t`` have the shape ``(batch, *event)``. Coefficients are computed in
    float64. Steps raise a ``ValueError`` unless ``s`` < ``t``.

    Args:
        alpha: α_t as a function of a tensor of times, > 0.
        sigma: σ_t as a function of a tensor of times, >= 0.
        times: Increasing times, shape ``(n,)``, on which the two functions are checked; by
            default, 1,000 steps from 0 to 1.

    Raises:
        ValueError: If, on these times, a value is outside its domain or the signal-to-noise ratio
            does not decrease.
    """

    def __init__(
        self,
        alpha: Callable[[Tensor], Tensor],
        sigma: Callable[[Tensor], Tensor],
        times: Tensor | None = None,
    ) -> None:
        self._alpha, self._sigma = alpha, sigma
        times = torch.linspace(0, 1, 1001) if times is None else times
        a, s = self.alpha(times), self.sigma(times)
        for name, values, valid in (("alpha", a, a > 0), ("sigma", s, s >= 0)):
            valid = valid & values.isfinite()
            if not valid.all():
                t, value = times[~valid][0].item(), values[~valid][0].item()
                raise ValueError(f"{name} is out of its domain, got {value} at time {t:g}")
        rises = ~(self.log_snr(times).diff() < 0)
        if rises.any():
            t = times[1:][rises][0].item()
            raise ValueError(f"the signal-to-noise ratio must decrease, but not so at time {t:g}")

    def alpha(self, t: Tensor) -> Tensor:
        """Scale of the signal at the times ``t``, float64."""
        return self._alpha(t.double())

    def sigma(self, t: Tensor) -> Tensor:
        """Noise level at the times ``t``, float64."""
        return self._sigma(t.double())

    def log_snr(self, t: Tensor) -> Tensor:
        """log(α_t² / σ_t²) at the times ``t``, float64; infinite where there is no noise."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def variance(self, t: Tensor, data_variance: float = 1.0) -> Tensor:
        """Var x_t = α_t² Var x_0 + σ_t²: 1 for all t exactly when variance is preserved."""
        return self.alpha(t) ** 2 * data_variance + self.sigma(t) ** 2

    def marginal(self, x_0: Tensor, t: Tensor) -> IsotropicGaussian:
        """q(x_t | x_0)."""
        return IsotropicGaussian(_match(self.alpha(t), x_0) * x_0, _match(self.sigma(t), x_0) ** 2)

    def transition(self, x_s: Tensor, s: Tensor, t: Tensor) -> IsotropicGaussian:
        """q(x_t | x_s) (Kingma et al. 2021, appendix A)."""
        a, b_squared = self._step(s, t)
        return IsotropicGaussian(_match(a, x_s) * x_s, _match(b_squared, x_s))

    def posterior(self, x_t: Tensor, x_0: Tensor, s: Tensor, t: Tensor) -> IsotropicGaussian:
        """q(x_s | x_t, x_0) (Kingma et al. 2021, appendix A)."""
        a, b_squared = self._step(s, t)
        variance_s, variance_t = self.sigma(s) ** 2, self.sigma(t) ** 2
        of_x_t, of_x_0 = a * variance_s / variance_t, self.alpha(s) * b_squared / variance_t
        mean = _match(of_x_t, x_t) * x_t + _match(of_x_0, x_t) * x_0
        return IsotropicGaussian(mean, _match(variance_s * b_squared / variance_t, x_t))

    def score(self, score: ScoreFunction, x_t: Tensor, t: Tensor) -> Tensor:
        """The score of x_t where σ_t > 0, from the score s of data noised at a level.

        x_t / α_t is data noised at the level σ_t / α_t, so ∇log q_t(x_t) is
        s(x_t / α_t, σ_t / α_t) / α_t.
        """
        alpha = _match(self.alpha(t), x_t)
        return score(x_t / alpha, (self.sigma(t) / self.alpha(t)).to(x_t.dtype)) / alpha

    def _step(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The scale a and the variance b² of the step from ``s`` to ``t``.

        b² = σ_t² (1 − SNR_t / SNR_s), without the cancellation of the difference of variances.
        """
        if not (s < t).all():
            raise ValueError(f"a step needs times s < t, got s={s.tolist()} and t={t.tolist()}")
        b_squared = -(self.sigma(t) ** 2) * torch.expm1(self.log_snr(t) - self.log_snr(s))
        return self.alpha(t) / self.alpha(s), b_squared


def _match(coefficient: Tensor, x: Tensor) -> Tensor:
    """A number for each example, with the dtype of ``x``, that broadcasts over it."""
    if coefficient.numel() == 1 and coefficient.device != x.device:
        return coefficient.squeeze().to(x.dtype)  # a scalar need not be moved, which would wait
    return expand_as(coefficient, x).to(x)


def variance_exploding(sigma_min: float, sigma_max: float) -> GaussianDiffusion:
    """α_t = 1 and σ_t = σ_min (σ_max / σ_min)^t, for t in [0, 1]: the ladder of an NCSN.

    The T levels of :func:`ncsn.levels.geometric` are those at t = 1, ..., 1/(T−1), 0.

    Source: Song et al. 2021 (arXiv 2011.13456), appendix C.

    Args:
        sigma_min: Smallest noise level, > 0.
        sigma_max: Largest noise level, > sigma_min.
    """
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(
            f"need 0 < sigma_min < sigma_max, got sigma_min={sigma_min} and sigma_max={sigma_max}"
        )
    return GaussianDiffusion(torch.ones_like, lambda t: sigma_min * (sigma_max / sigma_min) ** t)


def _variance_preserving(
    log_alpha: Callable[[Tensor], Tensor], times: Tensor | None = None
) -> GaussianDiffusion:
    """The diffusion with σ_t² = 1 − α_t², without the cancellation of this difference."""
    return GaussianDiffusion(
        lambda t: log_alpha(t).exp(), lambda t: (-torch.expm1(2 * log_alpha(t))).sqrt(), times
    )


def variance_preserving(beta_min: float = 0.1, beta_max: float = 20.0) -> GaussianDiffusion:
    """β rises linearly from beta_min to beta_max, for t in [0, 1]: α_t = exp(−½ ∫₀ᵗ β).

    The continuous form of DDPM's schedule: its T = 1,000 steps have β_t ≈ β(t/T) / T, from 1e-4 to
    0.02.

    Source: Song et al. 2021 (arXiv 2011.13456), equation 33.

    Args:
        beta_min: β at t = 0, >= 0.
        beta_max: β at t = 1, >= beta_min and > 0.
    """
    if not 0 <= beta_min <= beta_max < math.inf:
        raise ValueError(
            f"need 0 <= beta_min <= beta_max, got beta_min={beta_min} and beta_max={beta_max}"
        )

    return _variance_preserving(lambda t: -t * beta_min / 2 - t**2 * (beta_max - beta_min) / 4)


def variance_preserving_cosine(offset: float = 0.008) -> GaussianDiffusion:
    """α_t = cos(u_t) / cos(u_0), u_t = (t + offset) / (1 + offset) · π/2, for t in [0, 1).

    Source: Nichol & Dhariwal 2021 (arXiv 2102.09672), equation 17.

    Args:
        offset: Keeps the first steps from being too small, >= 0.
    """
    if not 0 <= offset < math.inf:
        raise ValueError(f"offset must be at least 0, got {offset}")

    def alpha(t: Tensor) -> Tensor:
        u = (t + offset) / (1 + offset) * (math.pi / 2)
        return u.cos() / math.cos(offset / (1 + offset) * math.pi / 2)

    def sigma(t: Tensor) -> Tensor:
        return (1 - alpha(t) ** 2).clamp(min=0).sqrt()

    return GaussianDiffusion(alpha, sigma, times=torch.linspace(0, 0.999, 1000))


def ddpm(betas: Tensor) -> GaussianDiffusion:
    """The chain x_t = √(1 − β_t) x_{t−1} + √β_t ε, at the integer times t = 0, ..., T.

    Source: Ho et al. 2020 (arXiv 2006.11239), equations 2 and 4.

    Args:
        betas: β_1, ..., β_T, shape ``(T,)``, each in (0, 1).
    """
    if not ((betas > 0) & (betas < 1)).all():
        raise ValueError(f"every beta must be in (0, 1), got {betas.tolist()}")
    log_alphas = F.pad((-betas.double()).log1p().cumsum(0) / 2, (1, 0))
    times = torch.arange(len(log_alphas))

    def log_alpha(t: Tensor) -> Tensor:
        if not torch.isin(t, times.to(t)).all():
            raise ValueError(f"times must be integers from 0 to {len(betas)}, got {t.tolist()}")
        return log_alphas.to(t.device)[t.long()]

    return _variance_preserving(log_alpha, times)
