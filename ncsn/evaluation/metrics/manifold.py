"""Fidelity and diversity separately: precision, recall, density and coverage.

The *manifold* of a set is the union of balls around its points, each reaching to the point's k-th
nearest neighbour in the set. With B(r_i) the ball of a real point r_i, and f_j the samples::

    precision   the share of samples that lie in the manifold of the data
    recall      the share of the data that lies in the manifold of the samples
    density     1/(k m) Σ_j #{i: f_j ∈ B(r_i)}, which counts balls: outliers weigh less, 1 is par
    coverage    the share of real points with a sample in their ball

Sources: Kynkäänniemi et al. 2019 (arXiv 1904.06991), section 2, for the first two; Naeem et al.
2020 (arXiv 2002.09797), section 3, for the others.
"""

import torch
from torch import Tensor

from ncsn.evaluation.metrics.distances import in_parts


def precision_recall_density_coverage(
    real: Tensor, samples: Tensor, k: int = 5
) -> dict[str, float]:
    """Precision, recall, density and coverage; see the module's docstring.

    Args:
        real: Features of the data, shape ``(n, num_features)``, n > k.
        samples: Features of the samples, shape ``(m, num_features)``, m > k.
        k: A ball reaches to the k-th nearest neighbour.

    Raises:
        ValueError: If a set has no more than k points.
    """
    if min(len(real), len(samples)) <= k:
        raise ValueError(f"need more than {k} points, got {len(real)} and {len(samples)}")
    radius_real, radius_samples = _radii(real, k), _radii(samples, k)
    balls, in_samples = 0.0, torch.zeros_like(radius_real, dtype=torch.bool)
    in_data, nearest = [], torch.full_like(radius_real, torch.inf)
    parts = zip(in_parts(samples, real), in_parts(radius_samples, real), strict=True)
    for part, radius in parts:
        distances = torch.cdist(part, real)
        inside = distances < radius_real
        balls += inside.sum().item()
        in_data.append(inside.any(1))
        in_samples |= (distances < radius[:, None]).any(0)
        nearest = torch.minimum(nearest, distances.amin(0))
    return {
        "precision": torch.cat(in_data).float().mean().item(),
        "recall": in_samples.float().mean().item(),
        "density": balls / (k * len(samples)),
        "coverage": (nearest < radius_real).float().mean().item(),
    }


def _radii(x: Tensor, k: int) -> Tensor:
    """The distance of each point to its k-th nearest neighbour, itself not counted."""
    return torch.cat([torch.cdist(part, x).kthvalue(k + 1).values for part in in_parts(x, x)])
