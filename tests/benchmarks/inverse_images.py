"""Restore images: errors of the mean, whether the truth lies where the samples say, and FD.

python tests/benchmarks/inverse_images.py
python tests/benchmarks/inverse_images.py --pretrained mnist --data_dir data
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from jsonargparse import auto_cli
from rich.console import Console
from rich.progress import track
from shared import print_table
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from ncsn import plots
from ncsn.cli.restore import Measured, draw_rows
from ncsn.data import DigitsDataModule, MNISTDataModule
from ncsn.evaluation.codec import to_float, to_uint8
from ncsn.evaluation.estimate import Estimate, estimate_mean
from ncsn.levels import ScoreFunction
from ncsn.modules import NCSN
from ncsn.modules.pretrained import SHIPPED
from ncsn.sampling import (
    DPS,
    MMPS,
    AnnealedLikelihood,
    Blur,
    Downsampling,
    DPMSolver,
    HiddenBox,
    LinearOperator,
    PiGDM,
    PosteriorScore,
    Replacement,
    SubsampledFourier,
)

NUM_SAMPLES = 19
"""With the truth, twenty: it lies between the smallest and the largest in 18 cases of 20."""


def operators(shape: tuple[int, ...]) -> dict[str, LinearOperator]:
    """What is measured: a fourth of the numbers, or half of them."""
    size = shape[-1]
    return {
        "right half hidden": HiddenBox(shape, left=size // 2),
        "downsampling by 2": Downsampling(shape, 2),
        f"blur of {size / 12:.1f} pixels": Blur(shape, size / 12),
        "a quarter of the frequencies": SubsampledFourier(shape, 0.25),
    }


def methods(data_std: float) -> dict[str, PosteriorScore]:
    """What is compared."""
    return {
        "annealed likelihood": AnnealedLikelihood(),
        "replacement": Replacement(),
        "DPS, ζ = 1": DPS(1.0),
        "ΠGDM": PiGDM(data_std),
        "moment matching, 1 iteration": MMPS(1),
        "moment matching, 3 iterations": MMPS(3),
    }


def covered(samples: Tensor, truth: Tensor, grid: Tensor) -> Tensor:
    """The share of pixels whose true value lies between those of the samples, image by image.

    All are rounded to the values that the data has, ties are broken at random, and pixels in which
    no value differs are left out, which does not depend on which of the values is the true one.

    Args:
        samples: uint8, shape ``(n, num, *shape)``.
        truth: uint8, shape ``(n, *shape)``.
        grid: The values, ascending.
    """
    middles = (grid[1:] + grid[:-1]) / 2
    values = torch.cat([truth[:, None], samples], 1).float().flatten(2)
    rounded = torch.bucketize(values, middles).float()
    differ = (rounded != rounded[:, :1]).any(1)
    jitter = torch.rand(rounded.shape, generator=torch.Generator().manual_seed(0))
    true, others = (rounded + 0.5 * jitter).split((1, values.shape[1] - 1), 1)
    inside = (true[:, 0] > others.amin(1)) & (true[:, 0] < others.amax(1)) & differ
    return inside.sum(1) / differ.sum(1)


def linear_estimate(module: NCSN, measured: Measured) -> Tensor:
    """The best guess for Gaussian data of the mean and the variance of all values."""
    mean = module.data_mean.expand(measured.y.shape[0], *module.data_shape)
    std = module.data_std.expand(len(mean))
    a, residual = measured.operator, measured.y - measured.operator(mean)
    return mean + module.data_std**2 * a.adjoint(a.solve(residual, measured.noise, std))


def judge(mean: Tensor, truth: Tensor) -> dict[str, Estimate]:
    """PSNR in dB, for a range of 2, and SSIM, each a mean over the images."""
    psnr = 10 * (4 / (mean - truth).square().flatten(1).mean(1)).log10()
    sigma = 1.5 if truth.shape[-1] > 11 else 0.5  # whose window is 5 pixels wide
    ssim = structural_similarity_index_measure(
        mean, truth, sigma=sigma, data_range=2.0, reduction="none"
    )
    assert isinstance(ssim, Tensor)
    return {"PSNR": estimate_mean("PSNR", psnr), "SSIM": estimate_mean("SSIM", ssim)}


NUMBERS = {
    "PSNR": "PSNR of the mean (dB)",
    "SSIM": "SSIM of the mean",
    "coverage": "coverage (nominal 0.9)",
    "FD": "FD of restorations",
}


def measure(
    pretrained: Literal["digits", "mnist"] = "digits",
    data_dir: Path = Path("data"),
    output: Path = Path(),
    num_images: int = 16,
    num_compared: int = 256,
    num_steps: int = 30,
    noise: float = 0.1,
) -> None:
    """Print a table in Markdown for each operator, and write a picture of each.

    Args:
        pretrained: Model of the package.
        data_dir: Where MNIST is.
        output: Directory of the pictures.
        num_images: Test images that are restored ``NUM_SAMPLES`` times.
        num_compared: Test images that are restored once, for the Fréchet distance of the
            restorations to as many training images; the floor is that of the test images.
        num_steps: Steps of SDE-DPM-Solver++.
        noise: Standard deviation of the noise, where images are in [-1, 1].
    """
    module = NCSN.from_pretrained(SHIPPED / pretrained)
    data = DigitsDataModule() if pretrained == "digits" else MNISTDataModule(data_dir)
    data.prepare_data()
    data.setup("test")
    reference = data.reference("test")
    images = reference.held_out
    truth, grid = to_float(images), images.unique().float()
    floor = ""
    for title, operator in operators(module.data_shape).items():
        generator = torch.Generator().manual_seed(1)
        y = operator.measure(truth[: max(num_images, num_compared)], noise, generator)
        few = Measured(operator, y[:num_images], noise, truth[:num_images])
        many = Measured(operator, y[:num_compared], noise, truth[:num_compared])
        table = {"linear estimate": judge(linear_estimate(module, few), truth[:num_images])}
        compared = methods(module.data_std.item())
        for method in track(compared, title, console=Console(stderr=True)):
            samples = draw(module, few, compared[method], num_steps, NUM_SAMPLES)
            inside = covered(to_uint8(samples), images[:num_images], grid)
            found = judge(samples.clamp(-1, 1).mean(1), truth[:num_images])
            found["coverage"] = estimate_mean("coverage", inside)
            restored = draw(module, many, compared[method], num_steps, 1)[:, 0]
            if restored.isfinite().all():
                found["FD"] = data.kind.distance(restored, reference)
                floor = found["FD"].formatted_floor
            table[method] = found
            if method == "moment matching, 1 iteration":
                path = output / f"restored_{pretrained}_{'_'.join(title.split())}"
                plots.save(draw_rows(few, samples, samples.std(1)), path)
        print(f"\n{title}\n")
        rows = [
            (each, *(found[n].formatted if n in found else "" for n in NUMBERS))
            for each, found in table.items()
        ]
        print_table(
            ("method", *NUMBERS.values()), [*rows, ("*floor: test images*", "", "", "", floor)]
        )


def draw(
    module: NCSN, measured: Measured, method: PosteriorScore, num_steps: int, num: int
) -> Tensor:
    """Samples, shape ``(n, num, *shape)``; those that diverge count as they are."""
    y = measured.y.repeat_interleave(num, 0)
    parts = []
    for start, rows in zip(range(0, len(y), 64), y.split(64), strict=True):
        posterior: Callable[[ScoreFunction], ScoreFunction] = partial(
            method, operator=measured.operator, y=rows, noise=measured.noise
        )
        sampler = DPMSolver(num_steps, eta=1.0, denoise=method.denoises)
        parts.append(module.draw(start, start + len(rows), sampler=sampler, modify=posterior))
    return torch.cat(parts).unflatten(0, (-1, num))


if __name__ == "__main__":
    auto_cli(measure, as_positional=False)
