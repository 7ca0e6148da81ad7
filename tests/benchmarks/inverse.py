r"""Judge posterior samplers where the posterior is known: Gaussian and mixture priors.

Half as many numbers are measured as there are, by a random projection with noise. Each method
draws samples with the exact score of the prior, and with one that a small network has learned.
The samples are compared with those of the exact posterior, and their log density under it with its
entropy.

python tests/benchmarks/inverse.py
"""

import csv
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from jsonargparse import auto_cli
from matplotlib.axes import Axes
from rich.console import Console
from rich.progress import Progress
from shared import print_table
from torch import Tensor

from ncsn import plots
from ncsn.evaluation.estimate import Estimate, estimate_all, estimate_mean
from ncsn.evaluation.metrics import sliced_wasserstein
from ncsn.exact import ExactScore, Gaussian, GaussianMixture
from ncsn.levels import ScoreFunction, geometric
from ncsn.networks import MLP
from ncsn.objectives import denoising_score_matching
from ncsn.parametrisation import EDM
from ncsn.sampling import (
    DPS,
    MMPS,
    Ancestral,
    AnnealedLangevin,
    AnnealedLikelihood,
    PiGDM,
    PosteriorScore,
    RandomProjection,
    Replacement,
    Resampling,
    Sampler,
)

SIGMA_MAX, SIGMA_MIN = 20.0, 0.01
TITLES = {
    "distance": "sliced Wasserstein-2 distance to the posterior",
    "excess": "excess negative log posterior in nats",
}


def seeded(seed: int) -> torch.Generator:
    """A generator."""
    return torch.Generator().manual_seed(seed)


def gaussian(dim: int) -> Gaussian:
    """A Gaussian with standard deviations from 1 to 0.2, in random directions."""
    basis, _ = torch.linalg.qr(torch.randn(dim, dim, generator=seeded(dim), dtype=torch.float64))
    variances = geometric(1.0, 0.04, dim).double()
    return Gaussian(torch.zeros(dim), basis * variances @ basis.T)


def mixture(dim: int) -> GaussianMixture:
    """Eight Gaussians of standard deviation 0.3, whose centres are N(0, I)."""
    return GaussianMixture(torch.randn(8, dim, generator=seeded(dim), dtype=torch.float64), 0.3)


PRIORS: dict[str, Callable[[int], Gaussian | GaussianMixture]] = {
    "Gaussian": gaussian,
    "mixture": mixture,
}


class Problem(NamedTuple):
    """Measurements, and what is known of each.

    Attributes:
        operator: A.
        y: Measurements, shape ``(num, dim / 2)``.
        noise: Standard deviation of their noise.
        posteriors: The exact posterior of each.
    """

    operator: RandomProjection
    y: Tensor
    noise: float
    posteriors: list[ExactScore]

    @classmethod
    def draw(
        cls, prior: Gaussian | GaussianMixture, dim: int, noise: float, num: int
    ) -> "Problem":
        """Measure points of the prior."""
        operator = RandomProjection((dim,), dim // 2, seed=dim)
        y = operator.measure(prior.sample(num, seeded(1)), noise, seeded(2))
        return cls(
            operator, y, noise, [prior.posterior(operator.matrix, each, noise) for each in y]
        )

    def exact_score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The score of the posteriors, with as many rows of ``x`` of each."""
        parts = zip(self.posteriors, self.split(x), self.split(sigma), strict=True)
        return torch.cat([posterior(*part) for posterior, *part in parts])

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """The rows of each measurement."""
        return x.split(len(x) // len(self.y))

    def sample(self, num: int, seed: int) -> Tensor:
        """Samples of the exact posteriors, shape ``(num, len(y), dim)``."""
        generator = seeded(seed)
        return torch.stack([each.sample(num, generator) for each in self.posteriors], dim=1)

    def surprise(self, x: Tensor) -> Tensor:
        """−log p(x | y), the mean over the measurements, shape ``(num,)``."""
        zero = x.new_zeros(len(x))
        pairs = zip(self.posteriors, x.unbind(1), strict=True)
        return -torch.stack([each.log_density(part, zero) for each, part in pairs]).mean(0)


Row = tuple[PosteriorScore | None, Sampler]
"""A method, or the exact score of the posterior; and the sampler."""


def rows(num_steps: int, data_std: float) -> dict[str, Row]:
    """What is compared, each in about as many evaluations of the score."""
    ancestral, langevin = Ancestral(num_steps), AnnealedLangevin(max(1, num_steps // 20))
    resampling = Resampling(max(2, num_steps // 10), num_resamples=10)
    return {
        "exact posterior score, ancestral": (None, ancestral),
        "exact posterior score, annealed Langevin": (None, langevin),
        "annealed likelihood, ancestral": (AnnealedLikelihood(), ancestral),
        "annealed likelihood, annealed Langevin": (AnnealedLikelihood(), langevin),
        "replacement, ancestral": (Replacement(), ancestral),
        "replacement, resampling": (Replacement(), resampling),
        "DPS, the likelihood itself": (DPS(), ancestral),
        "DPS, steps of fixed length, ζ = 1": (DPS(1.0), Ancestral(num_steps, denoise=False)),
        "ΠGDM": (PiGDM(data_std), ancestral),
        "moment matching, 1 iteration": (MMPS(1), ancestral),
        "moment matching, 5 iterations": (MMPS(5), ancestral),
    }


@torch.no_grad()
def draw(score: ScoreFunction, problem: Problem, row: Row, num: int) -> Tensor:
    """Samples, shape ``(num, len(y), dim)``."""
    method, sampler = row
    y = problem.y.repeat_interleave(num, 0)
    if method is None:
        score = problem.exact_score
    else:
        score = method(score, problem.operator, y, problem.noise)
    levels, generator = geometric(SIGMA_MAX, SIGMA_MIN, 20), seeded(3)
    x = sampler.initial(y.new_empty(len(y), *problem.operator.shape), levels, generator)
    x = sampler(score, x, levels, generator)
    return torch.stack(problem.split(x), dim=1)


def judge(x: Tensor, problem: Problem) -> dict[str, Estimate]:
    """Estimates of samples; the floor is that of as many of the exact posterior."""
    exact, fresh = (problem.sample(len(x), seed) for seed in (4, 5))

    def statistic(x: Tensor, exact: Tensor) -> dict[str, float]:
        pairs = zip(x.unbind(1), exact.unbind(1), strict=True)
        distances = [sliced_wasserstein(*pair) for pair in pairs]
        return {"distance": sum(distances) / len(distances)}

    titles = {"distance": (TITLES["distance"], "lower")}
    found = estimate_all(statistic, titles, x, fresh, exact, distance=True)
    value, entropy = (estimate_mean("", problem.surprise(each)) for each in (x, fresh))
    error = ((value.standard_error or 0) ** 2 + (entropy.standard_error or 0) ** 2) ** 0.5
    excess = value.value - entropy.value
    return found | {"excess": Estimate(TITLES["excess"], excess, error, 0.0, 0.0, "floor")}


def learn(prior: GaussianMixture, dim: int, num_steps: int) -> ScoreFunction:
    """The score that a small network learns from as many draws of the prior as it sees."""
    torch.manual_seed(0)
    network, generator = MLP(dim, hidden_dim=256, num_hidden=4), seeded(6)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    levels = geometric(SIGMA_MAX, SIGMA_MIN, 1000)
    x = prior.sample(10_000, generator)
    score = partial(EDM(), network, mean=x.mean().float(), std=x.std().float())

    def float_score(x: Tensor, sigma: Tensor) -> Tensor:
        return score(x.float(), sigma.float()).to(x)

    for _ in range(num_steps):
        x = prior.sample(512, generator).float()
        sigma = levels[torch.randint(len(levels), (512,), generator=generator)]
        loss = denoising_score_matching(score, x, sigma, generator).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.requires_grad_(False)
    return float_score


def cases(
    dims: list[int], learned_dims: list[int], training_steps: int
) -> Iterator[tuple[str, str, int, Gaussian | GaussianMixture, ScoreFunction]]:
    """Prior, which score, dimension, the prior itself, and its score."""
    for name, make in PRIORS.items():
        for dim in dims:
            prior = make(dim)
            yield name, "exact", dim, prior, prior
            if name == "mixture" and dim in learned_dims:
                yield name, "learned", dim, prior, learn(mixture(dim), dim, training_steps)


def measure(
    output: Path = Path(),
    dims: list[int] = [2, 8, 32],  # noqa: B006
    noises: list[float] = [0.1, 0.5],  # noqa: B006
    learned_dims: list[int] = [2, 8],  # noqa: B006
    num_measurements: int = 4,
    num_samples: int = 500,
    num_steps: int = 700,
    training_steps: int = 10_000,
) -> None:
    """Print tables in Markdown; write inverse.csv and inverse.png.

    Args:
        output: Directory of the files.
        dims: Dimensions.
        noises: Standard deviations of the noise of the measurements.
        learned_dims: Dimensions in which the score of the mixture is learned too.
        num_measurements: Measurements of each problem, over which results are averaged.
        num_samples: Samples of each measurement.
        num_steps: Evaluations of the score.
        training_steps: Steps of the training, of 512 points each.
    """
    results: dict[tuple[str, str], dict[tuple[str, int, float], dict[str, Estimate]]] = {}
    panels: dict[str, Tensor] = {}
    kinds = (len(PRIORS) * len(dims) + len(set(learned_dims) & set(dims))) * len(noises)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("posteriors", total=kinds * len(rows(num_steps, 1.0)))
        for name, which, dim, prior, score in cases(dims, learned_dims, training_steps):
            data_std = prior.sample(10_000, seeded(0)).std().item()
            for noise in noises:
                problem = Problem.draw(prior, dim, noise, num_measurements)
                for title, row in rows(num_steps, data_std).items():
                    x = draw(score, problem, row, num_samples)
                    of_title = results.setdefault((name, which), {})
                    of_title[title, dim, noise] = judge(x, problem)
                    if (name, which, dim, noise) == ("mixture", "exact", dims[0], noises[-1]):
                        panels[title] = x[:, 0]
                        panels.setdefault("exact samples", problem.sample(num_samples, 4)[:, 0])
                    progress.advance(task)
                write(results, output / "inverse.csv")
    for (name, which), found in results.items():
        show(f"{name} prior, {which} score", found)
    if dims[0] == 2:
        draw_panels(panels, mixture(2).sample(1000, seeded(0)), output / "inverse.png")


def show(heading: str, found: dict[tuple[str, int, float], dict[str, Estimate]]) -> None:
    """Print a table for each number, one row a method and one column a problem."""
    columns = list(dict.fromkeys(key[1:] for key in found))
    for number, title in TITLES.items():
        print(f"\n{heading}: {title}\n")
        table = [
            (name, *(found[name, *column][number].formatted for column in columns))
            for name in dict.fromkeys(key[0] for key in found)
        ]
        first = next(iter(found))[0]
        floors = (found[first, *column][number].formatted_floor for column in columns)
        heads = (f"D = {dim}, s = {noise:g}" for dim, noise in columns)
        print_table(("method", *heads), [("exact samples (floor)", *floors), *table])


def write(
    results: dict[tuple[str, str], dict[tuple[str, int, float], dict[str, Estimate]]], path: Path
) -> None:
    """Write all numbers, one row each."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        heads = ("prior", "score", "method", "dim", "noise", "number")
        writer.writerow((*heads, "value", "standard_error", "floor", "floor_standard_error"))
        for kind, found in results.items():
            for key, estimates in found.items():
                for number, each in estimates.items():
                    numbers = each.value, each.standard_error, each.floor
                    writer.writerow((*kind, *key, number, *numbers, each.floor_standard_error))


def draw_panels(panels: dict[str, Tensor], data: Tensor, path: Path) -> None:
    """Draw samples of one posterior by all methods, over those of the prior."""
    figure = plots.new_figure(10.0, 7.6)
    axes_of: list[Axes] = list(figure.subplots(3, 4, sharex=True, sharey=True).flat)
    order = ["exact samples", *(title for title in panels if title != "exact samples")]
    for axes, title in zip(axes_of, order, strict=True):
        axes.scatter(*data.T, s=2, color="0.85", linewidths=0)
        axes.scatter(*panels[title].T, s=3, color="tab:blue", linewidths=0)
        axes.set(title=title, xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
        axes.title.set_fontsize("small")
    figure.savefig(path)
    print(f"\nSamples are in {path}")


if __name__ == "__main__":
    auto_cli(measure, as_positional=False)
