r"""Score matching objectives.

**Denoising score matching** (Vincent 2011, "A Connection Between Score Matching and Denoising
Autoencoders"). The Fisher divergence
:math:`\tfrac12 \mathbb E \|s_\theta(x_\sigma) - \nabla \log q_\sigma(x_\sigma)\|^2` needs the
unknown score of the noised data :math:`q_\sigma(x_\sigma) = \int q(x_\sigma | x) \pi(x) dx`.
For the kernel :math:`q(x_\sigma | x) = \mathcal N(x, \sigma^2 I)` the conditional score is known,

.. math:: \nabla \log q(x_\sigma | x) = -(x_\sigma - x) / \sigma^2 = -z / \sigma,

and its conditional mean given :math:`x_\sigma` is the score of the noised data. Expanding the
square, the cross terms of both objectives agree, so

.. math:: \mathbb E \|s_\theta(x_\sigma, \sigma) + z / \sigma\|^2

equals twice the Fisher divergence plus a constant that does not depend on :math:`\theta`.

Here the residual is computed as :math:`\sigma s_\theta + z`, which stays of order one at every
noise level: the objective below is :math:`\sigma^2` times the one above.
"""

from collections.abc import Callable
from typing import Literal, TypeAlias

from torch import Tensor

from ncsn.noise import Generator, expand_as, perturb

__all__ = ["ScoreFunction", "denoising_score_matching"]

ScoreFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""``score(x, sigma)``: x of shape (batch, *event), sigma of shape (batch,), result like x."""


def denoising_score_matching(
    score: ScoreFunction,
    x: Tensor,
    sigma: Tensor,
    *,
    reduction: Literal["none", "mean"] = "mean",
    generator: Generator = None,
) -> Tensor:
    r"""Denoising score matching, :math:`\|\sigma s(x + \sigma z, \sigma) + z\|^2`.

    Source:
        Vincent 2011, equation 11; with the weight :math:`\lambda(\sigma) = \sigma^2` of Song &
        Ermon 2019 (arXiv 1907.05600), equation 6.

    Args:
        score: The score function.
        x: Clean data, shape ``(batch, *event)``.
        sigma: Noise level of each example, shape ``(batch,)``, > 0.
        reduction: ``"none"`` for the squared residual element by element; ``"mean"`` for the
            mean over the batch of the sum over the event's dimensions.
        generator: Source of the noise z.

    Returns:
        A tensor of the shape of ``x``, or a scalar.
    """
    x_sigma, z = perturb(x, sigma, generator)
    loss = (expand_as(sigma, x) * score(x_sigma, sigma) + z).square()
    return loss if reduction == "none" else loss.flatten(1).sum(1).mean()
