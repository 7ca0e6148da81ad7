"""From a network's output to a score.

The score of noisy data grows like 1/σ, while networks learn best with inputs and outputs of unit
variance. A *parametrisation* says how the score s is built from the network F:

=================  ===========================================================================
:class:`Score`     s = F(x, σ)
:class:`Noise`     s = −F(x, σ) / σ
:class:`EDM`       s = −(x − μ) / v + σ_d / (σ √v) · F((x − μ) / √v, σ), with v = σ² + σ_d²
=================  ===========================================================================

One of your own is a subclass of :class:`Parametrisation` with one method.
"""

from abc import ABC, abstractmethod

from torch import Tensor

from ncsn.config import Configured
from ncsn.levels import ScoreFunction, expand_as


class Parametrisation(Configured, ABC):
    """How the score is built from the network."""

    @abstractmethod
    def __call__(
        self, network: ScoreFunction, x: Tensor, sigma: Tensor, mean: Tensor, std: Tensor
    ) -> Tensor:
        """The score s(x, σ).

        Args:
            network: The network F, called as ``network(x, sigma)``.
            x: Noisy data, shape ``(batch, *event)``.
            sigma: Noise level of each example, shape ``(batch,)``, > 0.
            mean: Mean μ of the clean data, a scalar.
            std: Standard deviation σ_d of the clean data, a scalar, > 0.

        Returns:
            The score, of the shape of ``x``.
        """


class Score(Parametrisation):
    """s = F(x, σ): the network is the score (Song & Ermon 2019, arXiv 1907.05600)."""

    def __call__(
        self, network: ScoreFunction, x: Tensor, sigma: Tensor, mean: Tensor, std: Tensor
    ) -> Tensor:
        """See :class:`Parametrisation`."""
        return network(x, sigma)


class Noise(Parametrisation):
    """s = −F(x, σ) / σ: the network predicts the noise.

    Source: Song & Ermon 2020 (arXiv 2006.09011), technique 3; Ho et al. 2020 (arXiv 2006.11239).
    """

    def __call__(
        self, network: ScoreFunction, x: Tensor, sigma: Tensor, mean: Tensor, std: Tensor
    ) -> Tensor:
        """See :class:`Parametrisation`."""
        return -network(x, sigma) / expand_as(sigma, x)


class EDM(Parametrisation):
    """The network corrects the score of a Gaussian with the data's mean and standard deviation.

    It is Karras' preconditioned denoiser D, written for the score s = (D − x) / σ². The two terms
    are the exact ones, so nothing cancels at small σ.

    Source: Karras et al. 2022 (arXiv 2206.00364), equation 7 and table 1.
    """

    def __call__(
        self, network: ScoreFunction, x: Tensor, sigma: Tensor, mean: Tensor, std: Tensor
    ) -> Tensor:
        """See :class:`Parametrisation`."""
        s = expand_as(sigma, x)
        v = s.square() + std**2
        centred = x - mean
        correction = network(centred * v.rsqrt(), sigma)
        return std / s * v.rsqrt() * correction - centred / v
