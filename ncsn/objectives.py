"""Score matching objectives: denoising, implicit, sliced.

All of them look for the score of the noised data x_σ = x + σz, z ~ N(0, I), whose density is
q(x_σ) = ∫ N(x_σ; x, σ² I) π(x) dx. They minimise the Fisher divergence::

    J(θ) = ½ E ‖s_θ(x_σ) − ∇log q(x_σ)‖²,

in which ∇log q is unknown. Expand the square; its last term does not depend on θ, and the first
one can be averaged over data. It is the cross term that needs a trick::

    J(θ) = ½ E ‖s_θ‖² − E[s_θ · ∇log q] + ½ E ‖∇log q‖².

Implicit score matching
-----------------------

Integrate the cross term by parts. In one dimension, with q (log q)' = q'::

    E[s (log q)'] = ∫ s q' dx = [s q]_{−∞}^{∞} − ∫ s' q dx = −E[s'],

*provided that* s(x) q(x) → 0 as x → ±∞. Then J(θ) = E[½ s² + s'] + const.

In D dimensions each coordinate does the same while the others are held fixed::

    E[s · ∇log q] = Σ_i ∫ s_i ∂_i q dx = Σ_i ∫ ([s_i q]_{x_i=−∞}^{∞} − ∫ q ∂_i s_i dx_i) dx_{≠i}
                  = −Σ_i E[∂_i s_i] = −E[div s],

provided that s(x) q(x) → 0 as ‖x‖ → ∞ (and that s is absolutely continuous along each axis, which
a network with ReLUs is). Hence::

    J(θ) = E[½ ‖s_θ‖² + div s_θ] + ½ E ‖∇log q‖².

Data of bounded extent, noised, has Gaussian tails, and a network grows at most linearly if its
activations do: the boundary condition holds. It can fail for noise-free data: for uniform data
the density ends at a wall, and the term at the wall is what is missing.

Source: Hyvärinen 2005, "Estimation of Non-Normalized Statistical Models by Score Matching",
theorem 1.

Sliced score matching
---------------------

The exact divergence takes D backward passes. For random v with E[v vᵀ] = I (here: signs)::

    E_v[vᵀ (∂s/∂x) v] = tr ∂s/∂x = div s,        E_v[(v · s)²] = ‖s‖²,

so one backward pass, of v · s, gives an unbiased estimate. Keeping ‖s‖² instead of (v · s)² has
less variance ("variance reduced").

Source: Song et al. 2019, "Sliced Score Matching" (arXiv 1905.07088), section 3; Hutchinson 1989
for the trace.

Denoising score matching
------------------------

Write q as the integral over clean data; the cross term is::

    E[s · ∇log q] = ∫ s · ∇q dx_σ = ∫∫ s · ∇_{x_σ} q(x_σ | x) π(x) dx dx_σ
                  = E[s · ∇log q(x_σ | x)],    ∇log q(x_σ | x) = −(x_σ − x) / σ² = −z / σ.

So the unknown score may be replaced by the known one of the kernel::

    J(θ) = ½ E ‖s_θ(x_σ) + z/σ‖² + ½ E ‖∇log q‖² − D / 2σ².

Source: Vincent 2011, "A Connection Between Score Matching and Denoising Autoencoders".

Without noise
-------------

The first two also hold at σ = 0, where q is the density π of the data itself. There,
:func:`implicit_score_matching` and :func:`sliced_score_matching` estimate::

    E[‖s‖² + 2 div s] = 2 J(θ) − E ‖∇log π‖².

:func:`hyvarinen_score_matching` does so for a network that takes a noise level.
With enough freedom a network can make div s arbitrarily negative at the training points, so the
loss has to be watched on held-out data.

What the functions return
-------------------------

With noise, residuals stay of order one at every level when they are weighted by σ² (Song & Ermon
2019, arXiv 1907.05600, equation 6). With this weight, and D added to the implicit forms, all three
functions estimate *the same number*::

    E ‖σs + z‖² = E[σ² (‖s‖² + 2 div s)] + D = 2σ² J(θ) + D − σ² E ‖∇log q‖²,

so their curves can be compared, as can their gradients. What remains when s is exact,
D − σ² E ‖∇log q‖², is D v / (v + σ²) for Gaussian data of variance v.

They return the terms of this sum element by element, in the shape of the data. The loss of a batch
is the mean over the batch of the sum over dimensions, ``losses.flatten(1).sum(1).mean()``. Their
arguments are those of :func:`denoising_score_matching`, as are those of an objective of your own::

    def huber(score, x, sigma, generator=None):
        x_sigma, z = perturb(x, sigma, generator)
        return F.huber_loss(expand_as(sigma, x) * score(x_sigma, sigma), -z, reduction="none")
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ncsn.levels import ScoreFunction, expand_as, perturb
from ncsn.random import Generator, normal_like

Objective: TypeAlias = Callable[..., Any]
"""Called as ``objective(score, x, sigma, generator=...)``; returns a loss for each element."""


def denoising_score_matching(
    score: ScoreFunction, x: Tensor, sigma: Tensor, generator: Generator = None
) -> Tensor:
    """Denoising score matching, ‖σ s(x + σz, σ) + z‖².

    Source: Vincent 2011, equation 11; for the weight σ²: Song & Ermon 2019, equation 6.

    Args:
        score: The score function; implicit and sliced score matching differentiate it.
        x: Clean data, shape ``(batch, *event)``.
        sigma: Noise level of each example, shape ``(batch,)``, > 0; 0 is allowed in implicit and
            sliced score matching.
        generator: Source of the noise z, and of the signs v of sliced score matching.

    Returns:
        The loss of each element, of the shape of ``x``: here, the squared residual.
    """
    x_sigma, z = perturb(x, sigma, generator)
    return (expand_as(sigma, x) * score(x_sigma, sigma) + z).square()


def implicit_score_matching(
    score: ScoreFunction, x: Tensor, sigma: Tensor, generator: Generator = None
) -> Tensor:
    """Implicit score matching of the noised data, σ² (‖s‖² + 2 div s) + D at x + σz.

    The divergence is exact and takes D backward passes: for points, not for images.

    Source: Hyvärinen 2005, theorem 1.
    """
    x_sigma, _ = perturb(x, sigma, generator)
    s, divergence = score_and_divergence(score, x_sigma, sigma)
    return _weighted(s.square() + 2 * divergence, sigma)


def hyvarinen_score_matching(
    score: ScoreFunction, x: Tensor, sigma: Tensor, generator: Generator = None
) -> Tensor:
    """Implicit score matching of the data's own density, ‖s‖² + 2 div s at x: without noise.

    The score function is called with ``sigma``, but the data is not noised.

    Source: Hyvärinen 2005, theorem 1.
    """
    without = torch.zeros_like(sigma)
    return implicit_score_matching(lambda x, _: score(x, sigma), x, without, generator)


def sliced_score_matching(
    score: ScoreFunction,
    x: Tensor,
    sigma: Tensor,
    generator: Generator = None,
    *,
    variance_reduced: bool = True,
) -> Tensor:
    """Sliced score matching of the noised data, σ² ((v · s)² + 2 vᵀ (∂s/∂x) v) + D at x + σz.

    ``variance_reduced`` takes ‖s‖² for (v · s)².

    Source: Song et al. 2019 (arXiv 1905.07088), section 3, SSM; variance reduced: SSM-VR.
    """
    x_sigma, _ = perturb(x, sigma, generator)
    v = normal_like(x, generator).sign()
    s, divergence = score_and_divergence(score, x_sigma, sigma, v)
    projection = expand_as((v * s).flatten(1).sum(1), x)
    square = s.square() if variance_reduced else v * s * projection
    return _weighted(square + 2 * divergence, sigma)


def _weighted(terms: Tensor, sigma: Tensor) -> Tensor:
    """``sigma² · terms + 1`` where there is noise, and ``terms`` where sigma is 0."""
    noise = expand_as(sigma, terms)
    return torch.where(noise > 0, noise**2 * terms + 1, terms)


def score_and_divergence(
    score: ScoreFunction, x: Tensor, sigma: Tensor, v: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The score and the terms whose sum over the event is its divergence, exact or estimated.

    Works in any gradient mode; the results can be differentiated if gradients are on.

    Args:
        score: The score function, differentiable.
        x: Where to evaluate it, shape ``(batch, *event)``.
        sigma: Noise level of each example, shape ``(batch,)``.
        v: Probes with E[v vᵀ] = I, of the shape of ``x``, for Hutchinson's estimate, with terms
            v_i (vᵀ ∂s/∂x)_i, by one backward pass. By default, D passes give the exact ∂_i s_i.

    Returns:
        ``(s, terms)``, both of the shape of ``x``.
    """
    differentiable = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        x, sigma = x.detach().clone().requires_grad_(), sigma.clone()
        s = score(x, sigma) + 0 * x  # so that a constant score can be differentiated too
        gradient = partial(torch.autograd.grad, inputs=x, create_graph=differentiable)
        if v is not None:
            v = v.clone()
            terms = v * gradient((v * s).sum())[0]
        else:
            rows = [
                gradient(s_i.sum(), retain_graph=True)[0].flatten(1)[:, i]
                for i, s_i in enumerate(s.flatten(1).unbind(1))
            ]
            terms = torch.stack(rows, dim=1).view_as(x)
    return (s, terms) if differentiable else (s.detach(), terms.detach())
