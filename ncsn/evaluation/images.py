"""Images: uint8 in files, [-1, 1] in the network; compared in features or in pixels."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from ncsn import plots
from ncsn.evaluation.codec import to_float, to_uint8
from ncsn.evaluation.estimate import (
    MIN_SAMPLES,
    Estimates,
    check_finite,
    estimate_all,
    estimate_mean,
)
from ncsn.evaluation.features import FeatureNetwork, extract_features
from ncsn.evaluation.kinds import Evaluation, Kind, Model, Pictures, Reference, Trajectory
from ncsn.evaluation.metrics import (
    Neighbours,
    class_divergence,
    class_shares,
    confidence,
    cubic_kernel,
    frechet_distance,
    kernel_distance,
    load_inception,
    measure_levels,
    memorisation_rate,
    nearest_neighbours,
    precision_recall_density_coverage,
)
from ncsn.evaluation.points import compare_points
from ncsn.exact import Empirical
from ncsn.random import Generator
from ncsn.sampling.base import LevelScore
from ncsn.sampling.likelihood import Density, LogDensity, log_probability

NO_FEATURES = (
    "none, so pixels are compared: python -m ncsn features fit --data ... trains a network, for "
    "evaluate --features PATH"
)


class Images(Kind):
    """Images of shape ``(channels, height, width)``.

    The loss of a perfect score lies between those of the empirical scores of the test set, which
    knows the answers, and, at large noise levels, of the training set.
    """

    stored_dtype = torch.uint8
    num_samples = 1000
    num_likelihood_examples = 128
    num_drawn = 100

    def encode(self, x: Tensor) -> Tensor:
        """See :func:`ncsn.evaluation.codec.to_uint8`."""
        return to_uint8(x)

    def decode(self, stored: Tensor) -> Tensor:
        """See :func:`ncsn.evaluation.codec.to_float`."""
        return to_float(stored)

    def log_likelihood(
        self,
        density: Density,
        x: Tensor,
        reference: Reference,
        sigma: float,
        generator: Generator,
    ) -> LogDensity:
        """A lower bound of the log probability of the grey values.

        The grey values are those that occur in the training or the held-out images: 17 in the
        digits. Those of held-out images count once, so that none is impossible.
        """
        counts = torch.bincount(reference.train.flatten(), minlength=256)
        counts[reference.held_out.unique().long()] += 1
        stored = counts.nonzero()[:, 0].to(x.device)
        values, counts = self.decode(stored.byte()), counts.to(x.device)[stored]
        return log_probability(density, x, values, counts, sigma, generator)

    def likelihood(self, nll: Tensor, x: Tensor, reference: Reference) -> Estimates:
        """In bits per dimension; how many a perfect model needs is not known, so no floor."""
        bits = nll / (math.log(2) * x[0].numel())
        return {"bits_per_dim": estimate_mean("bits per dimension (upper bound, no floor)", bits)}

    def notes(self, reference: Reference) -> dict[str, str]:
        """Where distances are taken."""
        text = NO_FEATURES
        if reference.features is not None:
            text = reference.features.title
        elif (reference.labels == reference.labels[0]).all():
            text = "none, so pixels are compared: the data has no classes"
        return {"features": text, **reference.notes}

    def compare(self, samples: Tensor, reference: Reference, *, errors: bool = True) -> Estimates:
        """Distances, fidelity, diversity, and copies of training images; in features also classes.

        Without a feature network, pixels take the place of the features.

        Samples are rounded to grey values first, as they are when they are written.

        Raises:
            ValueError: If a sample is not finite, or there are fewer than 16.
        """
        return self._compare(samples, reference, errors)[0]

    def _compare(
        self, samples: Tensor, reference: Reference, errors: bool
    ) -> tuple[Estimates, Neighbours]:
        """See :meth:`compare`; also the training images that are nearest to the samples."""
        check_finite(samples)
        if len(samples) < MIN_SAMPLES:
            raise ValueError(
                f"{len(samples)} images are too few to compare: take at least {MIN_SAMPLES}"
            )
        samples = self.encode(samples)
        train = reference.train.to(samples.device)
        held_out = reference.held_out[: len(samples)].to(samples.device)
        near = nearest_neighbours(torch.cat((samples, held_out)), train)
        copies = estimate_all(
            lambda distances: {"memorisation_rate": memorisation_rate(distances)},
            {"memorisation_rate": ("memorisation rate", "lower")},
            near.distances[: len(samples)],
            near.distances[len(samples) :],
            errors=errors,
        )
        if reference.features is None:
            found = _compare_pixels(samples, held_out, train, errors)
        else:
            network = reference.features.to(samples.device)
            found = _compare_features(network, samples, held_out, train, reference.labels, errors)
        return found | copies, Neighbours(*(each[: len(samples)] for each in near))

    def evaluate(self, model: Model | None, samples: Tensor, reference: Reference) -> Evaluation:
        """See :meth:`Kind.evaluate`."""
        estimates, near = self._compare(samples, reference, errors=True)
        samples = self.encode(samples)
        train, test = (part.to(samples.device) for part in (reference.train, reference.held_out))
        levels: list[dict[str, float]] = []
        pictures: Pictures = {}
        if model is not None:
            references = {"empirical_train": train, "empirical_test": test}
            scores = {name: Empirical(self.decode(part)) for name, part in references.items()}
            x = self.decode(test[: min(256, len(samples))])
            levels, _ = measure_levels(model.score, scores, x, model.noise_levels)
            with plots.optional("picture levels"):
                pictures["levels"] = plots.plot_levels({"model": levels})
        ratio = near.distances[:, 0] / near.distances[:, 1]
        closest = ratio.argsort()[:12]
        with plots.optional("picture neighbours"):
            pictures["neighbours"] = plots.plot_neighbours(
                samples[closest], train[near.indices[closest]], ratio[closest]
            )
        if (network := reference.features) is not None:
            classes = extract_features(network, samples).logits.argmax(1).cpu()
            with plots.optional("picture classes"):
                pictures["classes"] = plots.plot_classes(reference.labels, classes, network.title)
        return estimates, levels, pictures

    def draw_samples(
        self,
        samples: Tensor,
        label: Tensor | None,
        reference: Reference | None = None,
        model: Model | None = None,
        when: str = "",
    ) -> Pictures:
        """A grid; a hundred samples of ten classes make a row of each."""
        if label is not None:
            samples = samples[label.argsort(stable=True)]
        caption = f"{len(samples):,} samples{when}"
        return {"samples": plots.image_grid(self.encode(samples), caption=caption)}

    def draw_data(self, reference: Reference, num: int) -> Pictures:
        """A grid of training images."""
        images = reference.train[:num]
        return {"data": plots.image_grid(images, caption=f"{len(images):,} training images")}

    def draw_trajectory(
        self, trajectory: Trajectory, samples: Tensor, denoise: LevelScore
    ) -> Pictures:
        """How samples emerge from the noise: level by level, and as an animation."""
        if not trajectory.frames:
            return {}
        levels = list(trajectory.levels.items())
        every = math.ceil(len(levels) / 12)  # as many rows as fit on a screen, evenly spaced
        rows = levels[::-1][::every][::-1]  # the last among them
        states = [(s, self.encode(x), self.encode(denoise(x, s))) for s, x in rows]
        frames = [(f"σ = {sigma:.3g}", self.encode(x)) for sigma, x in trajectory.frames]
        return {
            "annealing": plots.plot_annealing(states),
            "annealing_gif": plots.animate([*frames, ("samples", self.encode(samples[:16]))]),
        }


def inception_distance(samples: Tensor, reference: Reference) -> Estimates:
    """Inception's FID, whose 2,048 features need tens of thousands of samples.

    Without a standard error, since each evaluation takes minutes. ``samples`` are in [-1, 1], of
    shape ``(n, channels, height, width)``.

    Raises:
        ImportError: If torch-fidelity is not installed.
        OSError: If the network's weights are not available.
    """
    network = load_inception().to(samples.device)
    test = reference.held_out[: len(samples)]
    train = reference.train[_random_rows(reference.train, len(samples))]
    of_samples, of_test, of_train = (
        torch.cat([network(part.expand(-1, 3, -1, -1)) for part in images.split(64)])
        for images in (to_uint8(samples), test.to(samples.device), train.to(samples.device))
    )
    return estimate_all(
        lambda x, y: {"inception_fid": frechet_distance(x, y)},
        {"inception_fid": ("Inception FID", "lower")},
        of_samples,
        of_test,
        of_train,
        errors=False,
    )


def _compare_features(
    network: FeatureNetwork,
    samples: Tensor,
    held_out: Tensor,
    train: Tensor,
    labels: Tensor,
    errors: bool,
) -> Estimates:
    """Distances in the features of a network, and what it makes of the samples as a classifier."""
    of_samples, of_held_out, of_train = (
        extract_features(network, images)
        for images in (samples, held_out, train[_random_rows(train, len(samples))])
    )
    shares = class_shares(labels, of_samples.logits.shape[1]).to(of_samples.features)
    name, version = network.name, network.version
    fd, kd = f"{name}_fd_v{version}", f"{name}_kd_v{version}"
    title = f"{name.upper()}-{{}}, features v{version}"
    features = of_samples.features, of_held_out.features, of_train.features
    logits = of_samples.logits, of_held_out.logits
    distances = estimate_all(
        lambda x, y: {fd: frechet_distance(x, y), kd: kernel_distance(x, y, cubic_kernel)},
        {fd: (title.format("FD"), "lower"), kd: (title.format("KD"), "lower")},
        *features,
        errors=errors,
        distance=True,
    )
    manifolds = _compare_manifolds(*features, errors=errors)
    classes = estimate_all(
        lambda logits: {"class_divergence": class_divergence(logits, shares)},
        {"class_divergence": ("KL of classes from training's", "lower")},
        *logits,
        errors=errors,
        distance=True,
    )
    certainty = estimate_all(
        lambda logits: {"confidence": confidence(logits)},
        {"confidence": ("confidence of the classifier", "floor")},
        *logits,
        errors=errors,
    )
    return distances | manifolds | classes | certainty


def _compare_pixels(samples: Tensor, held_out: Tensor, train: Tensor, errors: bool) -> Estimates:
    """The same without features: distances as of points, fidelity and diversity, in pixels."""
    pixels = [
        to_float(images).flatten(1)
        for images in (samples, held_out, train[_random_rows(train, len(samples))])
    ]
    found = compare_points(pixels[0], pixels[2], pixels[1], errors=errors)
    found |= _compare_manifolds(*pixels, errors=errors)
    return {
        f"pixel_{name}": replace(each, title=f"{each.title}, in pixels")
        for name, each in found.items()
    }


def _compare_manifolds(
    samples: Tensor, held_out: Tensor, train: Tensor, *, errors: bool
) -> Estimates:
    """Fidelity and diversity of feature vectors, shape ``(n, num_features)``."""
    return estimate_all(
        lambda x, y: precision_recall_density_coverage(y, x),
        {each: (each, "higher") for each in ("precision", "recall", "density", "coverage")},
        samples,
        held_out,
        train,
        errors=errors,
    )


def _random_rows(train: Tensor, num: int) -> Tensor:
    return torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:num]
