"""Classifier-free guidance: samples steered towards a class.

A network that was trained with and without labels (Ho & Salimans 2022) knows ∇log p(x | y) and
∇log p(x). Their difference ∇log p(y | x) is the gradient of an implicit classifier, which can be
given more weight::

    s_w(x) = s(x) + w (s(x | y) − s(x)).

w = 1 samples the class as it is, w > 1 its most typical members, w = 0 ignores the label.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ncsn.levels import ScoreFunction


def classifier_free_guidance(
    score: Callable[[Tensor, Tensor, Tensor], Tensor], label: Tensor, guidance_scale: float = 1.0
) -> ScoreFunction:
    """The score of the examples' classes, guided.

    Source: Ho & Salimans 2022 (arXiv 2207.12598), equation 6; their weight is w − 1.

    Args:
        score: Called as ``score(x, sigma, label)``, where −1 stands for any class.
        label: Class of each example, shape ``(batch,)``.
        guidance_scale: w. Values other than 1 double the number of evaluated examples.

    Returns:
        A score function of ``(x, sigma)`` for batches of the size of ``label``.
    """
    if guidance_scale == 1:
        return lambda x, sigma: score(x, sigma, label)
    labels = torch.cat([torch.full_like(label, -1), label])

    def guided(x: Tensor, sigma: Tensor) -> Tensor:
        both = score(torch.cat([x, x]), torch.cat([sigma, sigma]), labels)
        unconditional, conditional = both.chunk(2)
        return torch.lerp(unconditional, conditional, guidance_scale)

    return guided


def hide_labels(label: Tensor, share: float, generator: torch.Generator | None = None) -> Tensor:
    """Replace a random share of the labels by −1, "any class", as guidance needs in training.

    Source: Ho & Salimans 2022 (arXiv 2207.12598), algorithm 1.

    Args:
        label: Class of each example, shape ``(batch,)``.
        share: Probability that a label is hidden.
        generator: Source of the choice.
    """
    hidden = torch.rand(label.shape, generator=generator, device=label.device)
    return label.masked_fill(hidden < share, -1)
