"""What an example is, an image or a point: the one place that knows the difference.

A :class:`Kind` knows how examples are stored, how samples are compared with them, which pictures
are drawn, and the unit of a likelihood. :func:`kind_of` chooses it by the shape of an example.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ncsn.evaluation.estimate import Estimate, Estimates
from ncsn.exact import ExactScore
from ncsn.levels import ScoreFunction
from ncsn.plots import Picture
from ncsn.random import Generator
from ncsn.sampling.base import LevelScore
from ncsn.sampling.likelihood import Density, LogDensity

if TYPE_CHECKING:
    from ncsn.evaluation.features import FeatureNetwork

Pictures: TypeAlias = dict[str, Picture]
Evaluation: TypeAlias = tuple[Estimates, list[dict[str, float]], Pictures]
"""Estimates, losses at each level, and pictures."""


@dataclass
class Reference:
    """The data that samples are compared with, as it is stored.

    Attributes:
        train: Training examples.
        labels: Their classes.
        held_out: Validation or test examples.
        exact: The density that the data was drawn from, if it is known.
        features: The feature network in which images are compared, if there is one.
        held_out_labels: Classes of the held-out examples.
        notes: What to say of the data, by topic.
    """

    train: Tensor
    labels: Tensor
    held_out: Tensor
    exact: ExactScore | None = None
    features: "FeatureNetwork | None" = None
    held_out_labels: Tensor | None = None
    notes: dict[str, str] = field(default_factory=dict)


class Model(NamedTuple):
    """What is evaluated: a score function and its ladder."""

    score: ScoreFunction
    noise_levels: Tensor


@dataclass
class Trajectory:
    """A :data:`ncsn.sampling.Monitor` that remembers how samples emerge from the noise.

    Attributes:
        num_frames: Frames to keep: at least this many of a long run, and fewer than twice as many.
        tweedie: Number of the Tweedie step, if there is one: what it returns has no noise level.
        frames: The first 16 samples at these moments, with their noise level.
        levels: The first 10 samples when they leave each noise level.
    """

    num_frames: int = 40
    tweedie: int | None = None
    frames: list[tuple[float, Tensor]] = field(default_factory=list)
    levels: dict[float, Tensor] = field(default_factory=dict)
    _step: int = 0
    _every: int = 1

    def __call__(self, sigma: float, x: Tensor) -> None:
        """Remember a step."""
        if self._step != self.tweedie:
            self.levels[sigma] = x[:10].clone()
        if self._step % self._every == 0:
            self.frames.append((sigma, x[:16].clone()))
        if len(self.frames) == 2 * self.num_frames:
            del self.frames[1::2]
            self._every *= 2
        self._step += 1


class Kind(ABC):
    """Base class: what an example is."""

    stored_dtype: torch.dtype
    num_samples: int  # that a test draws by default
    num_likelihood_examples: int  # whose likelihood a test computes by default
    num_drawn: int | None = None  # in the picture of ``predict``; ``None`` for all

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Examples as they are stored and written to files."""

    @abstractmethod
    def decode(self, stored: Tensor) -> Tensor:
        """Stored examples as the network sees them, float32."""

    def max_samples(self, reference: Reference) -> float:
        """The most samples that the reference can be compared with."""
        return min(len(reference.train), len(reference.held_out))

    @abstractmethod
    def compare(self, samples: Tensor, reference: Reference, *, errors: bool = True) -> Estimates:
        """Distances between samples, shape ``(n, *event)``, and data.

        Standard errors, if wanted, cost many times as much.

        Raises:
            ValueError: If a sample is not finite, or there are too few.
        """

    def distance(self, samples: Tensor, reference: Reference) -> Estimate:
        """The first of the distances of :meth:`compare`."""
        return next(iter(self.compare(samples, reference).values()))

    @abstractmethod
    def evaluate(self, model: Model | None, samples: Tensor, reference: Reference) -> Evaluation:
        """What is reported on samples and, if it is given, on the model that drew them."""

    def notes(self, reference: Reference) -> dict[str, str]:
        """What to say of how samples are compared with the reference."""
        return reference.notes

    def log_likelihood(
        self,
        density: Density,
        x: Tensor,
        reference: Reference,
        sigma: float,
        generator: Generator,
    ) -> LogDensity:
        """Log likelihoods, in nats, of examples ``x``, from the density at noise level sigma."""
        return density(x)

    @abstractmethod
    def likelihood(self, nll: Tensor, x: Tensor, reference: Reference) -> Estimates:
        """Estimates from the negative log likelihoods ``nll``, in nats, of the examples ``x``."""

    @abstractmethod
    def draw_samples(
        self,
        samples: Tensor,
        label: Tensor | None,
        reference: Reference | None = None,
        model: Model | None = None,
        when: str = "",
    ) -> Pictures:
        """Pictures of samples with data, and of the model; ``when`` is for titles."""

    def draw_data(self, reference: Reference, num: int) -> Pictures:
        """Pictures of the data, to compare the samples with."""
        return {}

    def draw_trajectory(
        self, trajectory: Trajectory, samples: Tensor, denoise: LevelScore
    ) -> Pictures:
        """Pictures of how samples emerge from the noise; ``denoise(x, sigma)`` is E[x_0 | x]."""
        return {}


def kind_of(data_shape: torch.Size | tuple[int, ...]) -> Kind:
    """The kind of examples of a shape: (channels, height, width) for images, else points."""
    from ncsn.evaluation.images import Images
    from ncsn.evaluation.points import Points

    return Images() if len(data_shape) == 3 else Points()
