r"""Quality over network evaluations: one network under other libraries' samplers, and ours.

python tests/benchmarks/peers_sampling.py --data_dir data

The network is that of `--pretrained mnist`. Each library sees it in its own terms: diffusers as a
noise prediction with a variance-preserving schedule of the same signal-to-noise ratios, from
σ = 15 to 0.03 in 1,000 geometric steps; the others as a denoiser or a velocity. Everything else is
each sampler's default, except that the steps of diffusers' DDIM are "trailing": by default, the
first of five would be at σ = 4.3. Samplers that end at σ = 0.03, not at 0, get the last of their
evaluations to remove that noise, as ours do.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jsonargparse import auto_cli
from machine import DEVICE, describe, synchronize
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from peers import SAMPLES_AT_ONCE, installed, versions
from shared import build, data_options, frechet_metric, log_log, print_table
from torch import Tensor

from ncsn import plots
from ncsn.evaluation.codec import to_float
from ncsn.levels import Rho
from ncsn.modules import NCSN
from ncsn.modules.pretrained import SHIPPED
from ncsn.sampling import IPNDM, DPMSolver, Sampler, SASolver

HIGH, LOW = 15.0, 0.03  # noise levels of the shipped model
SHAPE = (1, 28, 28)


class Network:
    """The denoiser D(x, σ), counted and timed."""

    def __init__(self, module: NCSN) -> None:
        self.score = module.score
        self.evaluations, self.seconds = 0, 0.0

    def timed_score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The score."""
        synchronize()
        start = time.perf_counter()
        score = self.score(x, sigma)
        synchronize()
        self.seconds += time.perf_counter() - start
        self.evaluations += 1
        return score

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """The mean of the clean data."""
        level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
        return x + level**2 * self.timed_score(x, level.expand(len(x)))


Draw = Callable[[Network, int, int], Tensor]
"""Draws a number of samples with a number of evaluations."""


def noise(num: int) -> Tensor:
    """Standard normal, of samples."""
    return torch.randn(num, *SHAPE, device=DEVICE)


def diffusers(scheduler: str, **options: Any) -> Draw:
    """A scheduler of diffusers, with the loop of its pipelines."""

    def draw(network: Network, num: int, evaluations: int) -> Tensor:
        import diffusers

        levels = torch.logspace(*torch.tensor([LOW, HIGH]).log10().tolist(), 1000).double()
        alphas = 1 / (1 + levels**2)  # of the schedule's products
        betas = 1 - alphas / torch.cat((alphas.new_ones(1), alphas[:-1]))
        make = getattr(diffusers, scheduler)
        steps = make(num_train_timesteps=1000, trained_betas=betas.numpy(), **options)
        steps.set_timesteps(evaluations)
        x = noise(num) * steps.init_noise_sigma
        for t in steps.timesteps:
            scaled = steps.scale_model_input(x, t)
            sigma = LOW * (HIGH / LOW) ** (float(t) / 999)
            y = scaled * (1 + sigma**2) ** 0.5
            x = steps.step((y - network(y, sigma)) / sigma, t, x).prev_sample
        return x

    return draw


def azula(sampler: str, **options: Any) -> Draw:
    """A sampler of Azula."""

    def draw(network: Network, num: int, evaluations: int) -> Tensor:
        import azula.sample
        from azula.denoise import Denoiser, DiracPosterior
        from azula.noise import VESchedule

        class Wrapped(Denoiser):
            schedule = VESchedule(LOW, HIGH)

            def forward(self, x: Tensor, t: Tensor, **kwargs: Any) -> DiracPosterior:
                return DiracPosterior(network(x, self.schedule.sigma(t)))

        make = getattr(azula.sample, sampler)
        steps = make(Wrapped(), steps=evaluations - 1, silent=True, **options)
        return network(steps(steps.init((num, *SHAPE), device=DEVICE)), LOW)

    return draw


def smalldiffusion(**options: Any) -> Draw:
    """The sampler of smalldiffusion."""

    def draw(network: Network, num: int, evaluations: int) -> Tensor:
        from smalldiffusion import ModelMixin, ScheduleLogLinear, samples

        class Wrapped(torch.nn.Module, ModelMixin):
            input_dims = SHAPE

            def forward(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
                return (x - network(x, sigma)) / sigma

        levels = ScheduleLogLinear(1000, LOW, HIGH).sample_sigmas(evaluations - 1)
        *_, x = samples(Wrapped(), levels, batchsize=num, **options)
        return network(x, LOW)

    return draw


def flow_matching(method: str) -> Draw:
    """The solver of flow_matching, along x_t = t x_1 + (1 - t) x_0, where σ = (1 - t) / t."""

    def draw(network: Network, num: int, evaluations: int) -> Tensor:
        from flow_matching.solver import ODESolver

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            return (network(x / t, (1 - t) / t) - x) / (1 - t)

        steps = (evaluations - 1) // (1 if method == "euler" else 2)
        start, stop = 1 / (1 + HIGH), 1 / (1 + LOW)
        x = ODESolver(velocity).sample(
            noise(num) * (1 - start),
            step_size=(stop - start) / steps * 1.000001,  # without a last step of length 0
            method=method,
            time_grid=torch.tensor([start, stop], device=DEVICE),
        )
        return network(x / stop, LOW)

    return draw


def ours(make: Callable[[int], Sampler]) -> Draw:
    """A sampler of this project."""

    def draw(network: Network, num: int, evaluations: int) -> Tensor:
        levels = torch.tensor([HIGH, LOW], device=DEVICE)
        return make(evaluations)(network.timed_score, HIGH * noise(num), levels)

    return draw


SAMPLERS: dict[str, tuple[tuple[str, ...], Draw]] = {
    "ncsn: SDE-DPM-Solver++(2M), eta 2": ((), ours(lambda num: DPMSolver(num, eta=2.0))),
    "ncsn: SA-Solver 2/2": ((), ours(lambda num: SASolver(num, 1.0, 2, 2))),
    "ncsn: iPNDM-4, rho 7": ((), ours(lambda num: IPNDM(num, ladder=Rho(7)))),
    "diffusers: DDIM": (
        ("diffusers",),
        diffusers("DDIMScheduler", timestep_spacing="trailing"),
    ),
    "diffusers: DPM-Solver++(2M)": (("diffusers",), diffusers("DPMSolverMultistepScheduler")),
    "diffusers: SDE-DPM-Solver++(2M)": (
        ("diffusers",),
        diffusers("DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++"),
    ),
    "diffusers: UniPC": (("diffusers",), diffusers("UniPCMultistepScheduler")),
    "diffusers: Euler": (("diffusers",), diffusers("EulerDiscreteScheduler")),
    "azula: DDIM": (("azula",), azula("DDIMSampler")),
    "azula: DDPM": (("azula",), azula("DDPMSampler")),
    "azula: xEAB": (("azula",), azula("xEABSampler")),
    "smalldiffusion: gam 1.6": (("smalldiffusion",), smalldiffusion(gam=1.6)),
    "smalldiffusion: DDPM": (("smalldiffusion",), smalldiffusion(gam=1.0, mu=0.5)),
    "flow_matching: midpoint": (("flow_matching",), flow_matching("midpoint")),
}
"""What each needs, and how it draws."""


class Row(NamedTuple):
    """A sampler with a number of evaluations."""

    sampler: str
    asked: int
    evaluations: int
    value: float
    error: float
    overhead: float
    network: float


def evaluate(title: str, module: NCSN, evaluations: int, num: int, metric: Any) -> Row:
    """Draw samples, measure them, and time what is not the network."""
    draw, network = SAMPLERS[title][1], Network(module)
    with torch.no_grad():
        draw(Network(module), 2, evaluations)  # imports what it needs
        torch.manual_seed(0)
        parts, start = [], time.perf_counter()
        for first in range(0, num, SAMPLES_AT_ONCE):
            parts.append(draw(network, min(SAMPLES_AT_ONCE, num - first), evaluations))
    synchronize()
    outside = time.perf_counter() - start - network.seconds
    calls = network.evaluations
    value, error = metric(torch.cat(parts))
    each = 1000 * outside / calls, 1000 * network.seconds / calls
    row = Row(title, evaluations, calls // len(parts), value, error, *each)
    print(f"{title}, {row.evaluations}: {value:.3g} ± {error:.1g}", flush=True)
    return row


def plot(rows: list[Row], floor: float) -> Figure:
    """Distance over evaluations, one colour for each library."""
    figure = plots.new_figure(9, 6)
    axes = figure.subplots()
    libraries = list(dict.fromkeys(row.sampler.split(":")[0] for row in rows))
    for title in dict.fromkeys(row.sampler for row in rows):
        curve = [row for row in rows if row.sampler == title]
        color = f"C{libraries.index(title.split(':')[0])}"
        marker = "os^vDP"[
            [t for t in SAMPLERS if t.split(":")[0] == title.split(":")[0]].index(title)
        ]
        x, values = [row.evaluations for row in curve], [row.value for row in curve]
        errors = [min(row.error, 0.9 * row.value) for row in curve]
        style = {"color": color, "marker": marker, "ms": 5, "capsize": 2, "lw": 1}
        axes.errorbar(x, values, errors, label=title, **style)
    log_log(axes, "network evaluations", "Fréchet distance in own features", floor)
    ticks = sorted({row.asked for row in rows})
    axes.set_xticks(ticks, map(str, ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    figure.legend(loc="outside right upper", fontsize="small")
    return figure


def measure(
    samplers: tuple[str, ...] = tuple(SAMPLERS),
    evaluations: tuple[int, ...] = (5, 8, 10, 20, 50),
    data_dir: Path | None = None,
    num_samples: int = 500,
    output: Path = Path("peers_sampling"),
) -> None:
    """Print a table in Markdown, write it as .md, and draw a picture as .png.

    Args:
        samplers: Names, as in the table.
        evaluations: Network evaluations of a sample. Methods of two evaluations a step take one
            less where theirs would be even.
        data_dir: Directory with MNIST/raw.
        num_samples: Samples, compared with as many training images.
        output: The files, without their suffix.
    """
    module = NCSN.from_pretrained(SHIPPED / "mnist").eval().to(DEVICE)
    reference = build("mnist_cpu", *data_options(data_dir)).datamodule.reference("test")
    metric = frechet_metric(reference, num_samples)
    floor, error = metric(to_float(reference.held_out[:num_samples]))
    rows: list[Row] = []
    for title in samplers:
        if installed(title, SAMPLERS[title][0]):
            rows += [evaluate(title, module, each, num_samples, metric) for each in evaluations]
    plot(rows, floor).savefig(output.with_suffix(".png"))
    body: list[tuple[str, ...]] = []
    for title in dict.fromkeys(row.sampler for row in rows):
        own = [row for row in rows if row.sampler == title]
        cells = (
            f"{row.value:.3g} ± {row.error:.1g}"
            + f" ({row.evaluations})" * (row.evaluations != row.asked)
            for row in own
        )
        overhead = sorted(row.overhead for row in own)[len(own) // 2]
        body.append((title, *cells, f"{overhead:.1f}"))
    body.append(("*floor: test images*", *[f"{floor:.3g} ± {error:.1g}"] * len(evaluations), ""))
    at_once = min(num_samples, SAMPLES_AT_ONCE)
    heading = (
        "sampler",
        *map(str, evaluations),
        f"ms outside the network, per evaluation of {at_once}",
    )
    print_table(heading, body, output.with_suffix(".md"))
    network = sorted(row.network for row in rows)[len(rows) // 2]
    print(
        f"\n{network:.0f} ms in the network; {num_samples:,} samples; {describe()}; {versions()}"
    )


if __name__ == "__main__":
    auto_cli(measure, as_positional=False)
