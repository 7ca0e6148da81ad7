"""Scores that are known exactly, to test samplers and networks with.

Each is a :class:`ncsn.networks.ScoreNetwork` whose output is the score, so it can replace a
trained network (with the parametrisation :class:`ncsn.parametrisation.Score`).

The noised density of all of them is a sum of Gaussians: noise of level σ widens a component of
variance τ² to v = τ² + σ². For isotropic components with weights w_k and means c_k::

    log q_σ(x) = logsumexp_k [log w_k − ‖x − c_k‖² / 2v_k − (D/2) log 2πv_k],
    ∇log q_σ(x) = Σ_k r_k (c_k − x) / v_k,      r = softmax of the terms in brackets.

With one component it is a Gaussian; with τ = 0 and the training set as means it is the score of a
network that has memorised its training set (the *empirical* score); with means along two half
circles it is two moons.

Given a measurement y = A x + s n with n ~ N(0, I), they are sums of Gaussians again. A component
N(c, C) becomes N(c + G (y − A c), C − G A C) with the gain G = C Aᵀ (A C Aᵀ + s² I)⁻¹, and its
weight is multiplied by N(y; A c, A C Aᵀ + s² I).
"""

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ncsn.levels import expand_as
from ncsn.networks.base import ScoreNetwork
from ncsn.random import normal_like

Numbers = Sequence[float] | Tensor


class ExactScore(ScoreNetwork):
    """A density whose noised score is known."""

    @abstractmethod
    def log_density(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The log density of the data noised at level sigma.

        Args:
            x: Shape ``(batch, *event)``.
            sigma: Noise level of each point, shape ``(batch,)``, >= 0.

        Returns:
            Shape ``(batch,)``, in nats.
        """

    @abstractmethod
    def sample(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw independent points of the data, without noise, shape ``(num, *event)``."""


class Noised(ExactScore):
    """A density noised at a level: what samples follow without a final Tweedie step.

    Args:
        clean: The density without the noise.
        sigma: The level, >= 0.
    """

    def __init__(self, clean: ExactScore, sigma: float) -> None:
        super().__init__()
        self.clean, self.sigma = clean, sigma

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The score, of the shape of ``x``."""
        return self.clean(x, self._total(sigma))

    def log_density(self, x: Tensor, sigma: Tensor) -> Tensor:
        """See :meth:`ExactScore.log_density`."""
        return self.clean.log_density(x, self._total(sigma))

    def sample(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """See :meth:`ExactScore.sample`."""
        x = self.clean.sample(num, generator)
        return x + self.sigma * normal_like(x, generator)

    def _total(self, sigma: Tensor) -> Tensor:
        return torch.hypot(sigma, sigma.new_full((), self.sigma))


class Gaussian(ExactScore):
    """N(mean, covariance), noised: N(mean, covariance + σ² I).

    Args:
        mean: Shape ``(dim,)``.
        covariance: Shape ``(dim, dim)``, symmetric, positive semi-definite.

    Raises:
        ValueError: If the covariance is not one, or the shapes differ.
    """

    def __init__(self, mean: Numbers, covariance: Sequence[Sequence[float]] | Tensor) -> None:
        super().__init__()
        mean = torch.as_tensor(mean, dtype=torch.float64)
        matrix = torch.as_tensor(covariance, dtype=torch.float64)
        if mean.ndim != 1 or matrix.shape != (len(mean), len(mean)):
            raise ValueError(
                "mean and covariance must have shapes (dim,) and (dim, dim), "
                f"got {tuple(mean.shape)} and {tuple(matrix.shape)}"
            )
        if not torch.allclose(matrix, matrix.T):
            raise ValueError(f"covariance must be symmetric, got {matrix.tolist()}")
        eigenvalues, eigenvectors = torch.linalg.eigh(matrix)
        if eigenvalues[0] < -1e-9 * eigenvalues[-1].abs():
            raise ValueError(
                f"covariance must be positive semi-definite, got the eigenvalue {eigenvalues[0]}"
            )
        self.mean = nn.Buffer(mean)
        self.eigenvalues = nn.Buffer(eigenvalues.clamp(min=0))
        self.eigenvectors = nn.Buffer(eigenvectors)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The score, of the shape ``(batch, dim)`` of ``x``."""
        y = (x - self.mean) @ self.eigenvectors
        return (-y / self._variances(sigma) @ self.eigenvectors.T).to(x.dtype)

    def log_density(self, x: Tensor, sigma: Tensor) -> Tensor:
        """See :meth:`ExactScore.log_density`."""
        y, v = (x - self.mean) @ self.eigenvectors, self._variances(sigma)
        return -0.5 * (y.square() / v + (2 * math.pi * v).log()).sum(1)

    def posterior(self, matrix: Tensor, y: Tensor, noise: float) -> "Gaussian":
        """The density given y = A x + noise · n.

        Args:
            matrix: A, shape ``(num, dim)``.
            y: The measurement, shape ``(num,)``.
            noise: Standard deviation of its noise, > 0.

        Raises:
            ValueError: If the noise is outside its domain.
        """
        a, y = matrix.double(), y.double()
        covariance = (self.eigenvectors * self.eigenvalues) @ self.eigenvectors.T
        gain = torch.linalg.solve(_measured(a, covariance, noise), a @ covariance).T
        rest = torch.eye(len(covariance)).to(a) - gain @ a
        # Joseph's form: a sum of squares, where C − G A C cancels at small noise.
        posterior = rest @ covariance @ rest.T + noise**2 * gain @ gain.T
        return Gaussian(self.mean + gain @ (y - a @ self.mean), (posterior + posterior.T) / 2)

    def sample(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """See :meth:`ExactScore.sample`."""
        z = normal_like(self.mean.expand(num, -1), generator)
        return self.mean + self.eigenvalues.sqrt() * z @ self.eigenvectors.T

    def _variances(self, sigma: Tensor) -> Tensor:
        return self.eigenvalues + sigma.double()[:, None] ** 2


class GaussianMixture(ExactScore):
    """A mixture of isotropic Gaussians; see the module's docstring.

    Args:
        means: Shape ``(components, *event)``. Their dtype, float32 or float64, is that of the
            computation; lists are taken as float64.
        stds: Standard deviation τ of each component, or of all of them, >= 0.
        weights: Weight of each component, > 0; by default, all equal. They need not sum to 1.

    Raises:
        ValueError: If a value is outside its domain.
    """

    ENTRIES_AT_A_TIME = 2**22
    """Points times components in one chunk, which bounds the memory."""

    def __init__(
        self,
        means: Sequence[Sequence[float]] | Tensor,
        stds: Numbers | float = 0.0,
        weights: Numbers | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(means, Tensor):
            means = torch.tensor(means, dtype=torch.float64)
        if means.ndim < 2 or not len(means):
            raise ValueError(f"means must have shape (components, *event), got {means.shape}")
        self.event_shape = means.shape[1:]
        num = len(means)
        widths = torch.as_tensor(stds, dtype=means.dtype)
        shares = torch.as_tensor([1.0] * num if weights is None else weights, dtype=means.dtype)
        if (widths < 0).any():
            raise ValueError(f"stds must be at least 0, got {widths.min().item()}")
        if shares.shape != (num,) or not (shares > 0).all():
            raise ValueError(f"weights must be {num} positive numbers, got {weights}")
        # Distances are taken from products: centred, they cancel less.
        self.centre = nn.Buffer(means.flatten(1).mean(0))
        self.means = nn.Buffer(means.flatten(1) - self.centre)
        self.stds = nn.Buffer(widths.to(means).expand(num).clone())
        self.log_weights = nn.Buffer(shares.to(means).log().log_softmax(0))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The score, of the shape of ``x``."""
        scores = []
        for y, levels in self._chunks(x, sigma):
            terms, v = self._terms(y, levels)
            r = terms.softmax(1) / v
            with _full_precision(y):
                scores.append(r @ self.means - r.sum(1, keepdim=True) * y)
        return torch.cat(scores).view_as(x).to(x.dtype)

    def log_density(self, x: Tensor, sigma: Tensor) -> Tensor:
        """See :meth:`ExactScore.log_density`; σ may be 0 only where no component has std 0."""
        return torch.cat([self._terms(*chunk)[0].logsumexp(1) for chunk in self._chunks(x, sigma)])

    def posterior(self, matrix: Tensor, y: Tensor, noise: float) -> "AlignedMixture":
        """The density given y = A x + noise · n; see :meth:`Gaussian.posterior`."""
        a, y, variances = matrix.double(), y.double(), self.stds.double() ** 2
        means = (self.means + self.centre).double()
        residual = y - means @ a.T
        # The covariances of all components have the eigenvectors of Aᵀ A.
        identity = torch.eye(a.shape[1]).to(a)
        eigenvalues, basis = torch.linalg.eigh(a.T @ a)
        eigenvalues = eigenvalues.clamp(min=0)
        log_weights, centres = self.log_weights.double().clone(), []
        for k, v in enumerate(variances):
            measured = _measured(a, v * identity, noise)
            gain = v * torch.linalg.solve(measured, a).T
            centres.append(means[k] + gain @ residual[k])
            likelihood = torch.distributions.MultivariateNormal(torch.zeros_like(y), measured)
            log_weights[k] += likelihood.log_prob(residual[k])
        shrunk = variances[:, None] * noise**2 / (noise**2 + variances[:, None] * eigenvalues)
        return AlignedMixture(torch.stack(centres), shrunk, basis, log_weights)

    def sample(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """See :meth:`ExactScore.sample`."""
        weights = self.log_weights.exp()
        k = weights.multinomial(num, replacement=True, generator=generator)
        points = self.means[k] + self.centre
        points = points + expand_as(self.stds[k], points) * normal_like(points, generator)
        return points.view(num, *self.event_shape)

    def _chunks(self, x: Tensor, sigma: Tensor) -> list[tuple[Tensor, Tensor]]:
        rows = max(1, self.ENTRIES_AT_A_TIME // len(self.means))
        y = x.flatten(1).to(self.means.dtype) - self.centre
        levels = sigma.to(self.means.dtype)
        return list(zip(y.split(rows), levels.split(rows), strict=True))

    def _terms(self, y: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The terms in brackets of the module's docstring, and v, shape ``(rows, components)``."""
        v = self.stds**2 + sigma[:, None] ** 2
        squares = y.square().sum(1, keepdim=True) + self.means.square().sum(1)
        with _full_precision(y):
            distances = (squares - 2 * y @ self.means.T).clamp(min=0)
        normaliser = y.shape[1] / 2 * (2 * math.pi * v).log()
        return self.log_weights - distances / (2 * v) - normaliser, v


class AlignedMixture(ExactScore):
    """A mixture of Gaussians whose covariances have the same eigenvectors.

    Args:
        means: Shape ``(components, dim)``.
        variances: Of each component along each eigenvector, >= 0, shape ``(components, dim)``.
        basis: The eigenvectors, in columns, shape ``(dim, dim)``.
        log_weights: Logarithms of the weights, up to a constant, shape ``(components,)``.
    """

    def __init__(
        self, means: Tensor, variances: Tensor, basis: Tensor, log_weights: Tensor
    ) -> None:
        super().__init__()
        self.means, self.variances = nn.Buffer(means @ basis), nn.Buffer(variances)
        self.basis, self.log_weights = nn.Buffer(basis), nn.Buffer(log_weights.log_softmax(0))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The score, of the shape ``(batch, dim)`` of ``x``."""
        terms, pulls = self._terms(x, sigma)
        pull = (terms.softmax(1)[:, :, None] * pulls).sum(1)
        return (pull @ self.basis.T).to(x.dtype)

    def log_density(self, x: Tensor, sigma: Tensor) -> Tensor:
        """See :meth:`ExactScore.log_density`."""
        return self._terms(x, sigma)[0].logsumexp(1)

    def sample(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """See :meth:`ExactScore.sample`."""
        weights = self.log_weights.exp()
        k = weights.multinomial(num, replacement=True, generator=generator)
        z = normal_like(self.means[k], generator)
        return (self.means[k] + self.variances[k].sqrt() * z) @ self.basis.T

    def _terms(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Log weight times density, shape ``(batch, components)``, and score of each component."""
        v = self.variances + sigma.to(self.variances)[:, None, None] ** 2
        away = self.means - (x.to(self.means) @ self.basis)[:, None]
        exponents = away.square() / v + (2 * math.pi * v).log()
        return self.log_weights - exponents.sum(2) / 2, away / v


class Empirical(GaussianMixture):
    """The empirical distribution of a data set: each example with the same probability.

    Its denoiser x + σ² s is a softmax-weighted mean of the training set, which tends to the
    nearest example as σ → 0. All 60,000 images of MNIST are handled in bounded memory.

    Source: Karras et al. 2022 (arXiv 2206.00364), appendix B.3.

    Args:
        data: Shape ``(n, *event)``, float32 or float64.
    """

    def __init__(self, data: Tensor) -> None:
        super().__init__(data)


class TwoMoons(GaussianMixture):
    """Two moons: uniform on the arcs (cos t, sin t) and (1 − cos t, ½ − sin t), t in [0, π].

    The integral over an arc is taken by the midpoint rule, whose error vanishes when
    √(noise² + σ²) is large against the spacing π / num_points.

    Args:
        noise: Standard deviation of the noise around the arcs, >= 0.
        num_points: Midpoints on each arc, at least 1.
    """

    def __init__(self, noise: float = 0.1, num_points: int = 4096) -> None:
        if num_points < 1:
            raise ValueError(f"num_points must be at least 1, got {num_points}")
        t = (torch.arange(num_points, dtype=torch.float64) + 0.5) * math.pi / num_points
        upper = torch.stack([t.cos(), t.sin()], dim=1)
        lower = torch.stack([1 - t.cos(), 0.5 - t.sin()], dim=1)
        super().__init__(torch.cat([upper, lower]), stds=noise)


def _measured(a: Tensor, covariance: Tensor, noise: float) -> Tensor:
    """The covariance A C Aᵀ + noise² I of a measurement."""
    if not 0 < noise < math.inf:
        raise ValueError(f"the posterior needs noise above 0, got {noise}")
    return a @ covariance @ a.T + noise**2 * torch.eye(len(a)).to(a)


def _full_precision(x: Tensor) -> torch.autocast:
    """Turn autocast off: a trainer may run networks in bf16, but exact scores need more."""
    return torch.autocast(x.device.type, enabled=False)
