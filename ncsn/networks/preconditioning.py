r"""From a network's output to a score.

The score of noisy data grows like :math:`1/\sigma`, while networks learn best with inputs and
outputs of unit variance. A *parametrisation* says how the score is built from the network
:math:`F_\theta`:

``score``
    :math:`s = F(x, \sigma)`. The network is the score: the reference (Song & Ermon 2019).
``noise``
    :math:`s = -F(x, \sigma) / \sigma`. The network predicts the noise (Song & Ermon 2020,
    "Improved Techniques", arXiv 2006.09011, technique 3; Ho et al. 2020).
``edm``
    The network corrects the score of a Gaussian with the data's mean :math:`\mu` and standard
    deviation :math:`\sigma_d`. With :math:`v = \sigma^2 + \sigma_d^2`,

    .. math:: s = -\frac{x - \mu}{v}
              + \frac{\sigma_d}{\sigma \sqrt v} F\Big(\frac{x - \mu}{\sqrt v}, \sigma\Big),

    which is Karras et al. 2022 (arXiv 2206.00364), equation 7 and table 1, written for the score
    :math:`s = (D - x) / \sigma^2` instead of the denoiser :math:`D`. The two terms are the exact
    ones, so nothing cancels at small sigma.
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
) -> Tensor:
    r"""The score :math:`s_\theta(x, \sigma)` in float32, whatever precision the network runs in.

    Args:
        network: The network F.
        x: Noisy data, shape ``(batch, *event)``.
        sigma: Noise level of each example, shape ``(batch,)``, > 0.
        parametrisation: How the score is built from the network; see the module's docstring.
        data_mean: Mean of the clean data (used by ``edm``).
        data_std: Standard deviation of the clean data, > 0 (used by ``edm``).

    Returns:
        The score, of the shape of ``x``.

    Raises:
        ValueError: If the parametrisation is unknown.
    """
    match parametrisation:
        case "score":
            return network(x, sigma).float()
        case "noise":
            return -network(x, sigma).float() / expand_as(sigma, x)
        case "edm":
            s = expand_as(sigma, x)
            v = s.square() + data_std**2
            centred = x - data_mean
            correction = network(centred * v.rsqrt(), sigma).float()
            return data_std / s * v.rsqrt() * correction - centred / v
    raise ValueError(
        f"unknown parametrisation {parametrisation!r}: choose from {get_args(Parametrisation)}"
    )
