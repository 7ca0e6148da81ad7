r"""The bias of Langevin dynamics, and of the Metropolis-adjusted, over step sizes.

With exact scores, so that all of it is the sampler's. Chains start from the density whose score
it is. Prints two tables in Markdown, and draws a picture.

python tests/benchmarks/exact_sampling.py
"""

from pathlib import Path

import torch
from jsonargparse import auto_cli
from matplotlib.figure import Figure
from rich.progress import track
from shared import print_table
from torch import Tensor

from ncsn import plots
from ncsn.evaluation.estimate import Estimate, estimate_all, estimate_mean
from ncsn.evaluation.metrics import sliced_wasserstein
from ncsn.exact import ExactScore, GaussianMixture, TwoMoons
from ncsn.levels import perturb
from ncsn.plots.style import DATA_COLOR, SAMPLE_COLOR
from ncsn.sampling import AnnealedLangevin, MetropolisLangevin
from ncsn.sampling.langevin import epsilon_from_share
from ncsn.sampling.metropolis import line_integral

SIGMA = 0.1
DENSITIES = {
    "moons": TwoMoons(noise=0.1, num_points=32),
    "mixture": GaussianMixture([[-1.0, 0.0], [1.0, 0.5], [0.2, -1.0]], [0.1, 0.3, 0.2], [1, 2, 3]),
}
SHARES = (0.1, 0.3, 1.0, 2.0, 3.0, 5.0)
SHOWN = 3.0  # in the picture
NODES = (2, 3, 4, 6, 10)


def noised(density: ExactScore, num: int, generator: torch.Generator) -> Tensor:
    """Points of a density noised at level sigma."""
    x = density.sample(num, generator).float()
    return perturb(x, torch.full((num,), SIGMA), generator)[0]


def nll(density: ExactScore, x: Tensor) -> Tensor:
    """The negative log density of points at level sigma, in nats."""
    return -density.log_density(x, torch.full((len(x),), SIGMA))


def errors_of_acceptance(density: ExactScore, share: float, num: int) -> list[str]:
    """The mean error of the acceptance probability, by the number of nodes."""
    generator, eta = torch.Generator().manual_seed(3), 2 * share * SIGMA**2
    x = noised(density, num, generator).double()

    def score(x: Tensor, sigma: float) -> Tensor:
        return density(x, torch.full((len(x),), sigma, dtype=x.dtype))

    s = score(x, SIGMA)
    x_new = x + eta / 2 * s + eta**0.5 * torch.empty_like(x).normal_(generator=generator)
    s_new = score(x_new, SIGMA)
    proposals = ((s + s_new) * (x_new - x) / 2 + eta / 8 * (s_new**2 - s**2)).sum(1)

    def probability(log_ratio: Tensor) -> Tensor:
        return (log_ratio - proposals).exp().clamp(max=1)

    exact, rows = probability(nll(density, x) - nll(density, x_new)), []
    for num_nodes in NODES:
        found = line_integral(score, (x, x_new), (s, s_new), SIGMA, num_nodes)
        rows.append(f"{(probability(found) - exact).abs().mean().item():.1g}")
    return rows


def compare(density: ExactScore, x: Tensor, num: int) -> tuple[Estimate, Estimate] | None:
    """Sliced Wasserstein distance and excess negative log density; nothing if it has diverged."""
    if not (x.abs() < 1e6).all():
        return None
    first, second = (noised(density, num, torch.Generator().manual_seed(k)) for k in (1, 2))
    distance = estimate_all(
        lambda x, y: {"distance": sliced_wasserstein(x, y)},
        {"distance": ("sliced Wasserstein-2 distance", "lower")},
        *(x, first, second),
        distance=True,
    )["distance"]
    fresh = nll(density, noised(density, 100_000, torch.Generator().manual_seed(4)))
    return distance, estimate_mean("excess", nll(density, x) - fresh.mean())


def draw(
    found: dict[str, dict[str, Tensor]], distances: dict[str, list[Estimate | None]]
) -> Figure:
    """Samples at one step size, and the distances over all of them."""
    figure = plots.new_figure(13.2, 5.6)
    for row, (name, samples) in zip(figure.subplots(2, 4), found.items(), strict=True):
        *panels, curve = row
        for axes, (title, x) in zip(panels, samples.items(), strict=True):
            color = DATA_COLOR if title == "exact" else SAMPLE_COLOR
            axes.scatter(*x.T, s=2, c=color, linewidths=0)
            low, high = samples["exact"].amin(0) - 0.5, samples["exact"].amax(0) + 0.5
            axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", title=title)
            axes.grid(alpha=0.3)
        for method, color in (("Langevin", "tab:orange"), ("Metropolis", SAMPLE_COLOR)):
            pairs = zip(SHARES, distances[f"{name}, {method}"], strict=True)
            points = [(a, each) for a, each in pairs if each]
            values = [each.value for _, each in points]
            bars = [2 * (each.standard_error or 0) for _, each in points]
            curve.errorbar([a for a, _ in points], values, bars, marker=".", label=method, c=color)
        floor = next(each for each in distances[f"{name}, Metropolis"] if each)
        band = [floor.floor + k * floor.floor_standard_error for k in (-2, 2)]
        curve.axhspan(max(band[0], 1e-4), band[1], color="black", alpha=0.15, label="floor")
        curve.set(xscale="log", yscale="log", xlabel="share $a = \\eta / 2\\sigma^2$")
        curve.set(ylabel="sliced Wasserstein-2", title=f"{name} (± 2 standard errors)")
        curve.grid(alpha=0.3, which="both")
        curve.legend()
    return figure


def measure(
    output: Path = Path("exact_sampling.png"),
    num_samples: int = 10_000,
    num_steps: int = 200,
    num_nodes: int = 6,
) -> None:
    """Print the tables and write the picture.

    Args:
        output: The picture.
        num_samples: Number of chains.
        num_steps: Steps of each.
        num_nodes: Nodes of the line integral.
    """
    rows, accuracy, distances, found = [], [], {}, {}
    for name, density in DENSITIES.items():
        start = noised(density, num_samples, torch.Generator().manual_seed(0))
        found[name] = {"exact": start}
        for share in track(SHARES, name):
            epsilon = epsilon_from_share(share, SIGMA)
            chains: dict[str, AnnealedLangevin] = {
                "Langevin": AnnealedLangevin(num_steps, epsilon, denoise=False),
                "Metropolis": MetropolisLangevin(num_steps, epsilon, num_nodes, denoise=False),
            }
            row: list[str] = []
            for method, sampler in chains.items():
                generator = torch.Generator().manual_seed(5)
                x = sampler(density, start, torch.tensor([SIGMA]), generator)
                estimates = compare(density, x, num_samples)
                distances.setdefault(f"{name}, {method}", []).append(estimates and estimates[0])
                row += [each.formatted for each in estimates or ()] or ["diverges"] * 2
                if share == SHOWN:
                    found[name][f"{method}, a = {share:g}"] = x
            (rate,) = sampler.acceptance.values()
            floor = estimates[0].formatted_floor if estimates else ""
            rows.append((name, f"{share:g}", *row, f"{rate:.3f}", floor))
            accuracy.append((name, f"{share:g}", *errors_of_acceptance(density, share, 20_000)))
    columns = ["distance", "excess nats", "distance, adjusted", "excess nats, adjusted"]
    print_table(("density", "a", *columns, "accepted", "distance, floor"), rows)
    print()
    print_table(("density", "a", *(f"n = {n}" for n in NODES)), accuracy)
    draw(found, distances).savefig(output)
    print(f"\nPicture: {output}")


if __name__ == "__main__":
    auto_cli(measure, as_positional=False)
