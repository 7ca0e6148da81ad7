"""From a network's output to a score.

The score of noisy data grows like 1/σ, while networks learn best with inputs and outputs of unit
variance. A *parametrisation* says how the score is built from the network F:

``score``
    s = F(x, σ). The network is the score: the reference (Song & Ermon 2019).
``noise``
    s = −F(x, σ) / σ. The network predicts the noise (Song & Ermon 2020, "Improved Techniques",
    arXiv 2006.09011, technique 3; Ho et al. 2020).
``edm``
    The network corrects the score of a Gaussian with the data's mean μ and standard deviation
    σ_d. With v = σ² + σ_d²::

        s = −(x − μ) / v + σ_d / (σ √v) · F((x − μ) / √v, σ),

    which is Karras et al. 2022 (arXiv 2206.00364), equation 7 and table 1, written for the score
    s = (D − x) / σ² instead of the denoiser D. The two terms are the exact ones, so nothing
    cancels at small σ.
"""

from typing import Literal, TypeAlias, get_args

from torch import Tensor

from ncsn.networks.base import ScoreNetwork
from ncsn.noise import expand_as

__all__ = ["Parametrisation", "parametrised_score"]

Parametrisation: TypeAlias = Literal["score", "noise", "edm"]


def parametrised_score(
    network: ScoreNetwork,
    x: Tensor,
    sigma: Tensor,
    parametrisation: Parametrisation,
    data_mean: float | Tensor = 0.0,
    data_std: float | Tensor = 1.0,
    label: Tensor | None = None,
) -> Tensor:
    """The score s(x, σ) in float32, whatever precision the network runs in.

    Args:
        network: The network F.
        x: Noisy data, shape ``(batch, *event)``.
        sigma: Noise level of each example, shape ``(batch,)``, > 0.
        parametrisation: How the score is built from the network; see the module's docstring.
        data_mean: Mean of the clean data (used by ``edm``).
        data_std: Standard deviation of the clean data, > 0 (used by ``edm``).
        label: Class of each example, shape ``(batch,)``, −1 for any; for networks that take it.

    Returns:
        The score, of the shape of ``x``.

    Raises:
        ValueError: If the parametrisation is unknown.
    """
    condition = (sigma,) if label is None else (sigma, label)
    match parametrisation:
        case "score":
            return network(x, *condition).float()
        case "noise":
            return -network(x, *condition).float() / expand_as(sigma, x)
        case "edm":
            s = expand_as(sigma, x)
            v = s.square() + data_std**2
            centred = x - data_mean
            correction = network(centred * v.rsqrt(), *condition).float()
            return data_std / s * v.rsqrt() * correction - centred / v
    raise ValueError(
        f"unknown parametrisation {parametrisation!r}: choose from {get_args(Parametrisation)}"
    )
