"""A score function as a vector field: its curl and its divergence, level by level.

The *curl* is that of the denoiser D(x) = x + σ² s(x). With the exact score, its Jacobian is the
symmetric Cov(x_0 | x) / σ². The curl is 0 if the score is a gradient, and 1 at most::

    curl = ‖(∂D − ∂Dᵀ) / 2‖ / ‖∂D‖,      root mean squares of Frobenius norms.

(Of the score's own Jacobian, the share would be small at large noise for any network, because of
the −1/σ² on the diagonal.) The divergence has a reference value: by parts, its mean is
E[div s] = −E[s · s*], where s* is the exact score. So for s = s* the *Stein residual*::

    σ² E[‖s‖² + div s] / D

is 0. It is positive if scores are too long, and negative if they are too short.

In up to 16 dimensions the Jacobian is computed. Above, two normal probes u, v at each point give
E (u · Jv)² = ‖J‖², E (u · Jv − v · Ju)² = ‖J − Jᵀ‖² and E u · Ju = tr J (Hutchinson 1989).
"""

from collections.abc import Iterator

import torch
from rich.progress import track
from torch import Tensor

from ncsn.levels import ScoreFunction, perturb
from ncsn.random import Generator, Stream, normal_like, seeded_generator

EXACT_UP_TO = 16  # dimensions


def measure_field(score: ScoreFunction, x: Tensor, noise_levels: Tensor) -> list[dict[str, float]]:
    """The rows of :func:`field_per_level`, always with the same noise, and a progress bar."""
    generator = seeded_generator(Stream.FIELD, device=x.device)
    rows = field_per_level(score, x, noise_levels, generator)
    return list(track(rows, "Curl", total=len(noise_levels)))


def field_per_level(
    score: ScoreFunction, x: Tensor, noise_levels: Tensor, generator: Generator = None
) -> Iterator[dict[str, float]]:
    """Curl and Stein residual of a score function; see the module's docstring.

    Args:
        score: The score function, differentiable.
        x: Clean data, shape ``(n, *event)``, n >= 2, which is noised at each level.
        noise_levels: Shape ``(num_levels,)``.
        generator: Source of the noise, and of the probes.

    Yields:
        For each level, ``curl`` and ``stein_residual``, with ``..._standard_error``.
    """
    dim = x[0].numel()
    for level in noise_levels:
        x_sigma, _ = perturb(x, level.expand(len(x)), generator)
        if dim <= EXACT_UP_TO:
            probes = list(torch.eye(dim).to(x).view(dim, 1, *x.shape[1:]).expand(-1, *x.shape))
        else:
            probes = [normal_like(x, generator) for _ in range(2)]
        s, forms = jacobian_forms(score, x_sigma, level, probes)
        traces = forms.diagonal(dim1=1, dim2=2).sum(1)
        products = torch.stack(probes, dim=1).flatten(2).double()
        denoiser = products @ products.mT + level.double() ** 2 * forms
        entries = torch.stack([denoiser, (denoiser - denoiser.mT) / 2])
        if dim > EXACT_UP_TO:  # by pairs of different probes
            traces, entries = traces / 2, entries[..., [0, 1], [1, 0]] / 2**0.5
        whole, antisymmetric = entries.square().flatten(2).sum(2)
        residuals = level.double() ** 2 * (s.double().square().flatten(1).sum(1) + traces) / dim
        error = residuals.std() / len(x) ** 0.5
        yield {
            **_root_ratio("curl", antisymmetric, whole),
            "stein_residual": residuals.mean().item(),
            "stein_residual_standard_error": error.item(),
        }


def jacobian_forms(
    score: ScoreFunction, x: Tensor, level: Tensor, probes: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """The score, and p_i · (∂s/∂x) p_j of all pairs of probes, shape ``(batch, k, k)``, float64.

    One backward pass for each probe, of the shape of ``x``; works in any gradient mode.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        s = score(x, level.clone().expand(len(x))) + 0 * x  # a constant score has a gradient too
        gradients = [
            torch.autograd.grad((s * p.clone()).sum(), x, retain_graph=True)[0] for p in probes
        ]
    rows, columns = (torch.stack(each, dim=1).flatten(2).double() for each in (gradients, probes))
    return s.detach(), rows @ columns.mT


def _root_ratio(name: str, part: Tensor, whole: Tensor) -> dict[str, float]:
    """√(E part / E whole), and its standard error to first order."""
    share = part.mean() / whole.mean()
    error = (part - share * whole).std() / (len(part) ** 0.5 * whole.mean())
    root = share.sqrt()
    return {
        name: root.item(),
        f"{name}_standard_error": (error / (2 * root)).nan_to_num(0, 0, 0).item(),
    }
