"""Distances between two sets of points: sliced Wasserstein, energy, maximum mean discrepancy.

All are zero between a distribution and itself, but not between two finite samples of it: compare
them with the distance of two samples of the data of the same size.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

Kernel: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Values of all pairs of ``x`` (n, dim) and ``y`` (m, dim), shape (n, m)."""

PAIRS_AT_A_TIME = 2**24


def in_parts(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """``x`` in parts whose pairs with all of ``y`` fit into memory."""
    return x.split(max(1, PAIRS_AT_A_TIME // len(y)))


def sliced_wasserstein(x: Tensor, y: Tensor, num_directions: int = 128) -> float:
    """The sliced Wasserstein-2 distance, √(E_u W_2²(u · x, u · y)), of two sets ``(n, dim)``.

    The directions u are drawn uniformly from the sphere, the same at each call.

    Source: Bonneel et al. 2015, "Sliced and Radon Wasserstein Barycenters of Measures".

    Raises:
        ValueError: If the shapes differ.
    """
    if x.shape != y.shape:
        raise ValueError(f"need two sets of the same shape, got {x.shape} and {y.shape}")
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(x.shape[1], num_directions, generator=generator, dtype=x.dtype).to(x.device)
    u = u / u.norm(dim=0)
    differences = (x @ u).sort(0).values - (y @ u).sort(0).values
    return differences.square().mean().sqrt().item()


def energy_distance(x: Tensor, y: Tensor) -> float:
    """The energy distance, 2 E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖, of ``(n, dim)`` and ``(m, dim)``.

    Source: Székely & Rizzo 2013, "Energy statistics: A class of statistics based on distances".
    """
    return -kernel_distance(x, y, _euclidean_distance, unbiased=False)


def kernel_distance(x: Tensor, y: Tensor, kernel: Kernel, *, unbiased: bool = True) -> float:
    """The squared maximum mean discrepancy, E k(X, X') + E k(Y, Y') − 2 E k(X, Y).

    In a network's features, with the cubic kernel and unbiased, it is the kernel inception
    distance (KID) of Bińkowski et al. 2018.

    Source: Gretton et al. 2012, "A Kernel Two-Sample Test", equations 3 and 5.

    Args:
        x: Shape ``(n, dim)``.
        y: Shape ``(m, dim)``.
        kernel: The kernel.
        unbiased: Whether to leave out the pairs of an example with itself. The estimate is then
            unbiased and may be negative; otherwise it is >= 0, and 0 between equal sets.
    """
    return (
        _mean_of_pairs(kernel, x, x, different=unbiased)
        + _mean_of_pairs(kernel, y, y, different=unbiased)
        - 2 * _mean_of_pairs(kernel, x, y, different=False)
    )


def gaussian_kernel(bandwidth: float) -> Kernel:
    """exp(−‖x − y‖² / 2h²), with the bandwidth h > 0."""
    return lambda x, y: (_euclidean_distance(x, y).square() / (-2 * bandwidth**2)).exp()


def cubic_kernel(x: Tensor, y: Tensor) -> Tensor:
    """(x · y / D + 1)³, the kernel of KID (Bińkowski et al. 2018, arXiv 1801.01401, section 4)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def _euclidean_distance(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _mean_of_pairs(kernel: Kernel, x: Tensor, y: Tensor, *, different: bool) -> float:
    """The mean over pairs; with ``different``, x is y and no example is paired with itself."""
    total, start = 0.0, 0
    for part in in_parts(x, y):
        values = kernel(part, y).double()
        if different:
            values.diagonal(start).zero_()
        total, start = total + values.sum().item(), start + len(part)
    return total / (len(x) * (len(y) - different))
